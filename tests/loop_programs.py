"""
Programs for the workflow loop, everything that asyncio offers to a workflow body.

This file needs the standard library and `polos.replay.loop` only, so that every Python on the machine can run
it. Started as a script it plays each program under several orders of facts, replays it, evicts it at every
point, and prints what happened as JSON; tests/test_loop.py compares what different interpreters and hash seeds
print, which must be the same to the letter. Steps are those of `tests.loop_host`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.loop_host import Play, StepError, describe

# ------------------------------------------------------------------------------------------------- programs
# ruff: noqa: PERF401 -- plain loops are what is tried here; comprehensions are other code


async def branch(play: Play, name: str, steps: int, *, bad: bool = False) -> str:
    """Do some steps, and one in a `finally` whatever happens."""
    done = ""
    try:
        for number in range(steps):
            done += await play.step(f"{name}{number}")
        if bad:
            await play.step(f"bad {name}")
    finally:
        play.note(f"finally {name}")
        await play.step(f"cleanup {name}")
    return done


async def sequence(play: Play) -> str:
    return await branch(play, "s", 4)


async def gather(play: Play) -> list[str]:
    return await asyncio.gather(*(branch(play, name, 2) for name in "abc"))


async def gather_failing(play: Play) -> list[Any]:
    with contextlib.suppress(StepError):
        await asyncio.gather(branch(play, "a", 1), branch(play, "b", 2, bad=True), branch(play, "c", 3))
    play.note("one failed, the others go on")
    results = await asyncio.gather(branch(play, "d", 1, bad=True), branch(play, "e", 2), return_exceptions=True)
    return [str(result) for result in results]


async def task_group(play: Play) -> str:
    """Members fail while others work; each has a `finally` with a step."""
    try:
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate("abcdefghij"):
                group.create_task(branch(play, name, 1 + number % 3, bad=number % 4 == 2))
            await play.step("inside")
    except* StepError as errors:
        play.note(describe(errors))
    finally:
        await play.step("after")
    return "caught"


async def nested_groups(play: Play) -> str:
    async def inner(name: str) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(branch(play, f"{name}{number}", 2, bad=name == "y" and number == 1))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner("x"))
            group.create_task(inner("y"))
            group.create_task(inner("z"))
    except BaseExceptionGroup as errors:
        return describe(errors)
    return "nothing failed"


async def first_completed(play: Play) -> list[str]:
    """Wait for whichever is first, many at a time, and go through `done` as it comes."""
    pending = {asyncio.create_task(branch(play, name, 1)) for name in "abcdefghijklm"}
    order = []
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            order.append(f"{task.get_name()} {await play.step('after ' + task.get_name())}")
        if len(order) == 9:
            for task in pending:
                task.cancel()
    return order


async def wait_all(play: Play) -> list[str]:
    """Let many end in one activation, so that `done` has many members."""
    gate = asyncio.Event()

    async def behind(number: int) -> int:
        await gate.wait()
        return number

    tasks = [asyncio.create_task(behind(number)) for number in range(40)]
    futures = {asyncio.get_running_loop().create_future() for _ in range(5)}
    gathered = {asyncio.gather(branch(play, name, 1)) for name in "pqr"}
    await play.step("open")
    gate.set()
    done, _ = await asyncio.wait(tasks)
    order = [str(task.result()) for task in done]
    ready, waiting = await asyncio.wait({*tasks, *futures}, timeout=5)
    order.append(f"{len(ready)} done, {len(waiting)} not")
    ended, _ = await asyncio.wait(gathered)
    return order + [str(future.result()) for future in ended]


async def as_completed(play: Play) -> list[str]:
    results = []
    coming = asyncio.as_completed([branch(play, name, 1) for name in "abcdefghij"])
    await play.step("the tasks exist already")
    for one in coming:
        results.append(await one)
        await play.step(f"took {len(results)}")
    try:
        for one in asyncio.as_completed([branch(play, name, 2) for name in "uvwxyz"], timeout=6):
            results.append(await one)
    except TimeoutError:
        results.append("timeout")
    return results


async def wait_for(play: Play) -> list[str]:
    results = []
    for number, seconds in enumerate((2, 50, 0, None, 3)):
        try:
            results.append(await asyncio.wait_for(branch(play, f"w{number}", 2), seconds))
        except TimeoutError:
            results.append("timeout")
    task = asyncio.create_task(branch(play, "task", 1))
    results.append(await asyncio.wait_for(task, 1000))
    return results


async def timeouts(play: Play) -> list[str]:
    results = []
    for seconds in (1, 3, 40):
        try:
            async with asyncio.timeout(seconds) as limit:
                await branch(play, f"t{seconds}", 2)
                limit.reschedule(asyncio.get_running_loop().time() + 7)
                await play.step("more time")
                async with asyncio.timeout(1000):
                    await play.step("inner")
            results.append("in time")
        except TimeoutError:
            results.append("timeout")
    return results


async def sleeps(play: Play) -> float:
    loop = asyncio.get_running_loop()
    called: list[str] = []
    late = loop.call_later(100, called.append, "never")
    loop.call_later(0, called.append, "at once")
    loop.call_at(loop.time() - 5, called.append, "long due")

    async def nap(name: str, seconds: float) -> None:
        for _ in range(3):
            await asyncio.sleep(seconds)  # durable
            await asyncio.sleep(0)
            play.note(f"{name} woke")
            await play.step(f"slept {name}")

    await asyncio.gather(nap("a", 1), nap("b", 0.5), nap("c", 30))
    late.cancel()
    late.cancel()
    play.note(" ".join(sorted(called)))
    return loop.time()


async def shielded(play: Play) -> str:
    inner = asyncio.create_task(branch(play, "inner", 3))
    try:
        await asyncio.wait_for(asyncio.shield(inner), 2)
    except TimeoutError:
        play.note("stopped waiting")
    return await asyncio.shield(inner)


async def queue(play: Play) -> list[str]:
    items: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
    out: list[str] = []

    async def produce(name: str) -> None:
        for number in range(4):
            await items.put(await play.step(f"make {name}{number}"))

    async def consume(name: str) -> None:
        while (item := await items.get()) is not None:
            out.append(f"{name}:{item}")
            await play.step(f"use {name}")
            items.task_done()

    consumers = [asyncio.create_task(consume(name)) for name in ("x", "y", "z")]
    await asyncio.gather(*(produce(name) for name in "ab"))
    await items.join()
    for _ in consumers:
        await items.put(None)
    await asyncio.gather(*consumers)
    return out


async def primitives(play: Play) -> list[str]:
    """Event, Lock, Semaphore, Condition and Barrier under contention."""
    out: list[str] = []
    lock, slots, ready = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()
    condition, barrier = asyncio.Condition(), asyncio.Barrier(3)

    async def worker(name: str) -> None:
        async with slots:
            await play.step(f"slot {name}")
        async with lock:
            await play.step(f"lock {name}")
            out.append(name)
        await barrier.wait()
        async with condition:
            await condition.wait_for(lambda: len(out) >= 6)
            out.append(name + "!")
        await ready.wait()

    async with asyncio.TaskGroup() as group:
        for name in "abcdef":
            group.create_task(worker(name))
        async with condition:
            while len(out) < 6:
                condition.notify_all()
                condition.release()
                await play.step("look")
                await condition.acquire()
            condition.notify_all()
        await play.step("release all")
        ready.set()
    return out


async def contention(play: Play) -> list[str]:
    """Workers that are cancelled while they queue for locks and slots."""
    lock, slots, condition = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition()
    items: asyncio.Queue[str] = asyncio.Queue(1)
    out: list[str] = []

    async def worker(name: str) -> None:
        async with slots:
            out.append(f"slot {name}")
            await play.step(f"slot {name}")
        async with lock:
            out.append(f"lock {name}")
            await asyncio.sleep(0)
            await play.step(f"lock {name}")
        async with condition:
            condition.notify(1)
            await condition.wait()
            out.append(f"condition {name}")
        await items.put(name)

    async def notifier() -> None:
        while True:
            await play.step("notify")
            async with condition:
                condition.notify(2)

    workers = [asyncio.create_task(worker(name)) for name in "abcdefgh"]
    extra = asyncio.create_task(notifier())
    for number in (3, 1, 6):
        await play.step("look")
        workers[number].cancel()
        if number == 1:
            await asyncio.sleep(0)
            workers[2].cancel()
    for _ in range(4):
        out.append(await items.get())
    for task in (extra, *workers):
        task.cancel()
    return out + [type(result).__name__ for result in await asyncio.gather(*workers, return_exceptions=True)]


async def generators(play: Play) -> list[str]:
    """Async generators left early, by break, by an error, and one that is kept until the end."""
    out: list[str] = []

    async def numbers(name: str) -> Any:
        try:
            for number in range(10):
                await play.step(f"{name}{number}")
                yield number
        finally:
            play.note(f"closing {name}")
            await play.step(f"close {name}")
            play.note(f"closed {name}")

    async for number in numbers("a"):
        if number == 2:
            break
    await play.step("between")
    try:
        async for number in numbers("b"):
            out.append(f"{10 // (1 - number)}")
    except ZeroDivisionError:
        out.append("division")
    await play.step("between")
    async with contextlib.aclosing(numbers("c")) as closed:
        async for _ in closed:
            break
    kept = numbers("kept")
    out.append(str(await anext(kept)))
    cycle: list[Any] = [numbers("cycle")]
    cycle.append(cycle)
    out.append(str(await anext(cycle[0])))
    del cycle
    if play.random.random() < 0.5 and not play.evicted:
        gc.collect()  # whether the collector comes by here must make no difference
    await play.step("last")
    return out


async def nested(play: Play) -> str:
    """Tasks that make tasks, each with steps of its own."""

    async def tree(depth: int) -> str:
        here = await play.step(f"depth {depth}")
        if depth:
            await asyncio.gather(*(tree(depth - 1) for _ in range(2)))
        await play.step("up")
        return here

    return await tree(3)


async def cancellation(play: Play) -> str:
    """Cancel, with awaits in `finally` and with code that doesn't give in."""

    async def insists() -> str:
        for attempt in range(3):
            try:
                await play.step(f"try {attempt}")
            except asyncio.CancelledError:
                play.note("not yet")
        return "done"

    first, second = asyncio.create_task(branch(play, "first", 5)), asyncio.create_task(insists())
    never = asyncio.create_task(branch(play, "never", 1), name="never")
    never.cancel()
    await play.step("wait a little")
    first.cancel("enough")
    second.cancel()
    results = await asyncio.gather(first, second, never, return_exceptions=True)
    return str([repr(result) for result in results])


async def exception_groups(play: Play) -> list[str]:
    out: list[str] = []

    async def fail(kind: type[Exception], name: str) -> None:
        try:
            await play.step(name)
        finally:
            await play.step(f"cleanup {name}")
        raise kind(name)

    try:
        async with asyncio.TaskGroup() as group:
            for number, kind in enumerate((ValueError, KeyError, OSError, ValueError)):
                group.create_task(fail(kind, f"f{number}"))
    except* ValueError as errors:
        out.append(describe(errors))
        await play.step("handled values")
    except* (KeyError, OSError) as errors:
        out.append(describe(errors))
        await play.step("handled others")
    return out


async def background(play: Play) -> str:
    """End with tasks and generators still at work; they are cancelled and may clean up."""

    async def ticks() -> Any:
        try:
            while True:
                yield await play.step("tick")
        finally:
            play.note("ticks end")

    tasks = [asyncio.create_task(branch(play, name, 9)) for name in "abc"]
    clock = ticks()
    await anext(clock)
    await play.step("main")
    play.keep = [clock, *tasks]  # type: ignore[attr-defined]  # somebody holds on to them
    return "over"


async def unawaited(play: Play) -> list[str]:
    """Coroutines made long before they are awaited."""
    waiting = [branch(play, name, 1) for name in "abcd"]
    return [await one for one in waiting]


async def eager(play: Play) -> list[str]:
    loop = asyncio.get_running_loop()
    options: Any = {"eager_start": True}
    tasks = []
    for name in "abc":
        tasks.append(loop.create_task(branch(play, name, 1), **options))
        play.note(f"after {name}, in {play.loop.current_path()}")

    async def short() -> str:
        return play.loop.current_path()

    done = loop.create_task(short(), **options)
    play.note(f"{done.done()} {done.result()}")
    return [await task for task in tasks]


async def all_tasks(play: Play) -> list[str]:
    for _ in range(3):
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(7)))
    tasks = [asyncio.create_task(branch(play, name, 2)) for name in "abcdefghi"]
    await play.step("begin")
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(result).__name__ for result in results]


PROGRAMS: dict[str, Callable[[Play], Coroutine[Any, Any, Any]]] = {
    program.__name__: program
    for program in (
        sequence, gather, gather_failing, task_group, nested_groups, first_completed, wait_all, as_completed, wait_for,
        timeouts, sleeps, shielded, queue, primitives, contention, generators, nested, cancellation, exception_groups,
        background, unawaited, eager, all_tasks,
    )
}  # fmt: skip
SEEDS = range(4)


def scenarios() -> dict[str, Callable[[], Play]]:
    """Every program under several orders of facts, some of them cancelled from outside on the way."""
    found: dict[str, Callable[[], Play]] = {}
    for name, program in PROGRAMS.items():
        for seed in SEEDS:
            found[f"{name} {seed}"] = lambda program=program, seed=seed: Play(program, seed)  # type: ignore[misc]

            def cancelled(program: Any = program, seed: int = seed) -> Play:
                play = Play(program, seed)
                play.cancels_at = 2 + seed
                return play

            if program is not unawaited:  # cancelled, it is told rightly that it never awaited them
                found[f"{name} {seed} cancelled"] = cancelled
    return found


def evict_everywhere(make: Callable[[], Play], whole: Play) -> int:
    """Evict after each fact, rebuild from the facts, go on: the transcript must be that of the whole run."""
    for facts in range(1, len(whole.facts)):
        play = make().replay(whole.facts[:facts])
        seen = len(play.transcript)
        assert play.evict() == []
        assert play.loop.is_closed()
        assert len(play.transcript) == seen
        assert whole.transcript[:seen] == play.transcript
    return len(whole.facts) - 1


def main() -> None:
    """Play everything and print the transcripts; unless told `quick`, replay and evict everything, too."""
    quick = sys.argv[1:] == ["quick"]
    warnings.simplefilter("error")
    unraisable: list[str] = []
    sys.unraisablehook = lambda args: unraisable.append(f"{args.exc_value!r} {args.object!r}")
    transcripts, evictions = {}, 0
    for name, make in scenarios().items():
        whole = make().go_on()
        transcripts[name] = whole.transcript
        if quick:
            continue
        again = make().replay(whole.facts)
        assert whole.transcript == again.transcript, f"{name} replays differently"
        evictions += evict_everywhere(make, whole)
    gc.collect()
    assert unraisable == [], "\n".join(unraisable)
    print(json.dumps({"evictions": evictions, "transcripts": transcripts, "version": sys.version.split()[0]}))


if __name__ == "__main__":
    main()
