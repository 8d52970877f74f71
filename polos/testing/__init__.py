"""
Proving that a workflow survives: the crash-recovery kit, and a pytest plugin.

What a durable engine promises is about moments that hardly ever come: between a commit and what follows it, with a
step half done and a timer due. On a real machine a test can't wait for such a moment, and can't repeat it. Here the
whole world of an engine is held by a `Simulation`: time moves only when nothing else can happen, nothing runs on
another thread, all chance comes from one seed, and a crash drops everything but what the log has.

The engine, the log, the chain, codec and replay are the real ones. What is replaced stands around them: the clock, the
program's event loop (`loop`), and the thread that appends (`appender`), which has tests of its own.

``pytest_plugins = ["polos.testing"]`` in a conftest, or ``pytest -p polos.testing``, adds the fixtures and options of
`polos.testing.plugin`. Importing this package imports nothing else: its public names are resolved when they are used.

PYTEST_DONT_REWRITE: there is nothing to rewrite here, and a conftest may import it before it names it as a plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from polos.store.faults import Fault, FaultPlan
    from polos.testing.capture import Captured, CapturedEvents
    from polos.testing.clock import VirtualClock
    from polos.testing.comparing import Compared
    from polos.testing.differences import Difference, RunDiffers
    from polos.testing.exploration import StaleSchedule, explore
    from polos.testing.explored import Outcome, Sent
    from polos.testing.explorer import ExploredRun, ExploredWorld
    from polos.testing.jumping import Hanging, JumpingClock
    from polos.testing.lives import Waiting
    from polos.testing.outside import Outside
    from polos.testing.patience import TookTooLong
    from polos.testing.recorded import BadRecording, RecordedRun, record_run
    from polos.testing.recorded_models import model_of
    from polos.testing.recorded_replay import assert_replays
    from polos.testing.simulation import Simulation
    from polos.testing.sweep import crash_sweep
    from polos.testing.sweep_outcome import CrashOutcome
    from polos.testing.sweep_points import CrashPoint
    from polos.testing.sweep_report import CrashReport, CrashSweepFailed
    from polos.testing.unanswered import NeverAnswered

__all__ = [
    "BadRecording",
    "Captured",
    "CapturedEvents",
    "Compared",
    "CrashOutcome",
    "CrashPoint",
    "CrashReport",
    "CrashSweepFailed",
    "Difference",
    "ExploredRun",
    "ExploredWorld",
    "Fault",
    "FaultPlan",
    "Hanging",
    "JumpingClock",
    "NeverAnswered",
    "Outcome",
    "Outside",
    "RecordedRun",
    "RunDiffers",
    "Sent",
    "Simulation",
    "StaleSchedule",
    "TookTooLong",
    "VirtualClock",
    "Waiting",
    "assert_replays",
    "crash_sweep",
    "explore",
    "model_of",
    "record_run",
]

pytest_plugins = ["polos.testing.plugin"]

# Public name → module that defines it.
_HOMES: Final = {
    "BadRecording": "polos.testing.recorded",
    "Captured": "polos.testing.capture",
    "CapturedEvents": "polos.testing.capture",
    "Compared": "polos.testing.comparing",
    "CrashOutcome": "polos.testing.sweep_outcome",
    "CrashPoint": "polos.testing.sweep_points",
    "CrashReport": "polos.testing.sweep_report",
    "CrashSweepFailed": "polos.testing.sweep_report",
    "Difference": "polos.testing.differences",
    "ExploredRun": "polos.testing.explorer",
    "ExploredWorld": "polos.testing.explorer",
    "Fault": "polos.store.faults",
    "FaultPlan": "polos.store.faults",
    "Hanging": "polos.testing.jumping",
    "JumpingClock": "polos.testing.jumping",
    "NeverAnswered": "polos.testing.unanswered",
    "Outcome": "polos.testing.explored",
    "Outside": "polos.testing.outside",
    "RecordedRun": "polos.testing.recorded",
    "RunDiffers": "polos.testing.differences",
    "Sent": "polos.testing.explored",
    "Simulation": "polos.testing.simulation",
    "StaleSchedule": "polos.testing.exploration",
    "TookTooLong": "polos.testing.patience",
    "VirtualClock": "polos.testing.clock",
    "Waiting": "polos.testing.lives",
    "assert_replays": "polos.testing.recorded_replay",
    "crash_sweep": "polos.testing.sweep",
    "explore": "polos.testing.exploration",
    "model_of": "polos.testing.recorded_models",
    "record_run": "polos.testing.recorded",
}


if not TYPE_CHECKING:  # a checker that saw this would take every misspelt name for a public one

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'polos.testing' has no attribute {name!r}")
        found = getattr(import_module(_HOMES[name]), name)
        globals()[name] = found
        return found
