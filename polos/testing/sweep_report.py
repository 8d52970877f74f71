"""
What a sweep says: a line when all is well, a page when it isn't.

A failure has to be enough to work with by itself, because the scenario is gone when it is read: which point it was and
where that lies in the run, what differs, what was recorded before the process died and after, and the command that
plays exactly this once more.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from polos.testing.sweep_points import CrashPoint

__all__ = ["POINT_VARIABLE", "CrashReport", "CrashSweepFailed", "command_for"]

POINT_VARIABLE: Final = "POLOS_CRASH_POINT"
LINES_MAX: Final = 60  # of a history, on each side of a crash


@final
@dataclass(slots=True, kw_only=True)
class CrashReport:
    """
    What a sweep did.

    ```python run
    import asyncio
    from polos import WorkflowContext, workflow
    from polos.testing import Outside, crash_sweep

    bank = Outside("bank")

    async def charge(cents: int) -> str:
        bank.note("charged", cents=cents)
        return "paid"

    @workflow(id="swept_payment")
    async def pay(ctx: WorkflowContext, payload: dict) -> str:
        return await ctx.step.run("charge", charge, payload["cents"], effect="at_most_once")

    def check(outcome) -> None:
        assert bank.count("charged") <= 1

    answers = {"charge": "paid"}  # whoever is killed inside of the step is told what became of it
    report = asyncio.run(crash_sweep(pay, {"cents": 100}, check=check, answers=answers, processes=0))
    print(report.singles == len(report.points), report.pairs > 0)
    ```

    Attributes:
        workflow: id of the workflow.
        seed: from which everything was drawn.
        downtime_seconds: how much time passed after each crash.
        points: every point that the undisturbed run comes to.
        scenarios: how many were played, the undisturbed ones included; many begin with what another one left.
        singles: how many points were tried.
        alike: how many of these weren't lived by themselves, because a crash there leaves behind what it leaves at
            another that was: nothing became durable between the two, no code of the program ran, no time passed. If
            scenarios begin with remains, code may have run that has changed no file, and a crash that leaves nothing
            is alike to an undisturbed run.
        pairs: how many pairs of crashes were tried.
        processes: how many scenarios were lived in child processes.
        unknown: how many ended with a step, or a call of a tool, of unknown outcome that `answers` don't resolve.
        missed: how many didn't come to their point, because what steps do takes another course each time.
        memory: what of the program may be kept in memory, in words, so that each scenario was lived from its beginning;
            empty if they began with what another run left, or if that wasn't for the sweep to find out.
        left_out: places that differ without any crash, and so weren't compared.
        notes: what else there is to know.
        seconds: how long it took.
    """

    workflow: str
    seed: int
    downtime_seconds: float = 0
    points: tuple[CrashPoint, ...] = ()
    scenarios: int = 0
    singles: int = 0
    alike: int = 0
    pairs: int = 0
    processes: int = 0
    unknown: int = 0
    missed: int = 0
    memory: str = ""
    left_out: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    def __str__(self) -> str:
        """Give it in a line."""
        if not self.scenarios:
            return f"{self.workflow}: {'; '.join(self.notes) or 'nothing was tried'}"
        different = f" ({self.singles - self.alike} different)" if self.alike else ""
        text = (
            f"{self.workflow}: {self.singles} of {len(self.points)} crash points{different} and {self.pairs} pairs "
            f"survived, {self.processes} scenarios in child processes, {self.seconds:.2f} s, seed {self.seed}"
        )
        if self.downtime_seconds:
            text += f"; down for {self.downtime_seconds:g} s after each crash"
        if self.unknown:
            text += f"; {self.unknown} ended with a step or a tool of unknown outcome"
        if self.missed:
            text += f"; {self.missed} didn't come to their point"
        if self.left_out:
            text += f"; not compared, because it differs without a crash: {', '.join(self.left_out)}"
        return "; ".join([text, *self.notes])


@final
class CrashSweepFailed(AssertionError):
    """
    A workflow doesn't survive a crash. An example stands at `CrashReport`.

    Attributes:
        points: where the process died; empty if the undisturbed run is at fault.
        differences: what is wrong.
        before: history up to the (last) crash.
        after: history from there on.
        target: names the scenario, as a value of `POINT_VARIABLE`; empty if `points` is.
        command: plays this once more.
        real: whether it was in child processes.
    """

    def __init__(
        self, headline: str, *, points: tuple[CrashPoint, ...], differences: list[str], before: list[str],
        after: list[str], target: str, real: bool, notes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Take what the page is made of."""
        super().__init__(headline)
        self.points = points
        self.differences = differences
        self.before = before
        self.after = after
        self.target = target
        self.command = command_for(target) if target else ""
        self.real = real
        self._notes = notes

    def add(self, *notes: str) -> None:
        """Say more."""
        self._notes = (*self._notes, *notes)

    def __str__(self) -> str:
        """Put the page together."""
        lines = [str(self.args[0]), "", *(f"  * {found}" for found in self.differences)]
        lines += ["", "what is recorded:", *_cut(self.before, keep_end=True)]
        if self.points:
            lines.append(f"  ---------- the process dies at {self.points[-1]} ----------")
            lines += _cut(self.after, keep_end=False)
        if self._notes:
            lines += ["", *self._notes]
        if self.command:
            lines += ["", f"reproduce: {self.command}"]
        return "\n".join(lines)


def _cut(history: list[str], *, keep_end: bool) -> list[str]:
    if not history:
        return ["  nothing yet"]
    if len(history) <= LINES_MAX:
        return [f"  {line}" for line in history]
    left = f"  … {len(history) - LINES_MAX} more …"
    if keep_end:
        return [left, *(f"  {line}" for line in history[-LINES_MAX:])]
    return [*(f"  {line}" for line in history[:LINES_MAX]), left]


def command_for(target: str, *, pytest_arguments: Sequence[str] = ()) -> str:
    """
    Give the command that plays a scenario once more.

    Args:
        target: value of the variable `POINT_VARIABLE`.
        pytest_arguments: what pytest is to be told; the test that is running, as pytest names it, if it isn't said.
    """
    setting = f"{POINT_VARIABLE}={shlex.quote(target)}"
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    arguments = pytest_arguments or ([test] if test else [])
    if arguments:
        return f"{setting} {_python()} -m pytest {shlex.join(arguments)}"
    program = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "PROGRAM"
    return f"{setting} {_python()} {shlex.quote(program)}"


def _python() -> str:
    name = Path(sys.executable).name
    return name or "python"
