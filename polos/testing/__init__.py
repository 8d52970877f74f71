"""
Proving that a workflow survives: the crash-recovery kit.

What a durable engine promises is about moments that hardly ever come: between a commit and what follows it, with a
step half done and a timer due. On a real machine a test can't wait for such a moment, and can't repeat it. Here the
whole world of an engine is held by a `Simulation`: time moves only when nothing else can happen, nothing runs on
another thread, all chance comes from one seed, and a crash drops everything but what the log has.

The engine, the log, the chain, codec and replay are the real ones. What is replaced stands around them: the clock, the
program's event loop (`loop`), and the thread that appends (`appender`), which has tests of its own.
"""
