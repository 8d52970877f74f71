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
        points: every point that the undisturbed run comes to.
        scenarios: how many were played, the undisturbed ones included.
        singles: how many points were tried.
        pairs: how many pairs of crashes were tried.
        processes: how many scenarios were lived in child processes.
        unknown: how many ended with a step of unknown outcome that `answers` don't resolve.
        missed: how many didn't come to their point, because what steps do takes another course each time.
        left_out: places that differ without any crash, and so weren't compared.
        notes: what else there is to know.
        seconds: how long it took.
    """

    workflow: str
    seed: int
    points: tuple[CrashPoint, ...] = ()
    scenarios: int = 0
    singles: int = 0
    pairs: int = 0
    processes: int = 0
    unknown: int = 0
    missed: int = 0
    left_out: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    def __str__(self) -> str:
        """Give it in a line."""
        text = (
            f"{self.workflow}: {self.singles} of {len(self.points)} crash points and {self.pairs} pairs survived, "
            f"{self.processes} scenarios in child processes, {self.seconds:.2f} s, seed {self.seed}"
        )
        if self.unknown:
            text += f"; {self.unknown} ended with a step of unknown outcome"
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
        command: plays this once more.
        real: whether it was in child processes.
    """

    def __init__(
        self, headline: str, *, points: tuple[CrashPoint, ...], differences: list[str], before: list[str],
        after: list[str], command: str, real: bool, notes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Put the page together."""
        self.points = points
        self.differences = differences
        self.before = before
        self.after = after
        self.command = command
        self.real = real
        lines = [headline, "", *(f"  * {found}" for found in differences)]
        lines += ["", "what is recorded:", *_cut(before, keep_end=True)]
        if points:
            lines.append(f"  ---------- the process dies at {points[-1]} ----------")
            lines += _cut(after, keep_end=False)
        if notes:
            lines += ["", *notes]
        if command:
            lines += ["", f"reproduce: {command}"]
        super().__init__("\n".join(lines))


def _cut(history: list[str], *, keep_end: bool) -> list[str]:
    if len(history) <= LINES_MAX:
        return [f"  {line}" for line in history]
    left = f"  … {len(history) - LINES_MAX} more …"
    if keep_end:
        return [left, *(f"  {line}" for line in history[-LINES_MAX:])]
    return [*(f"  {line}" for line in history[:LINES_MAX]), left]


def command_for(target: str) -> str:
    """
    Give the command that plays a scenario once more.

    Args:
        target: value of the variable `POINT_VARIABLE`.
    """
    setting = f"{POINT_VARIABLE}={shlex.quote(target)}"
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if test:
        return f"{setting} {_python()} -m pytest {shlex.quote(test)}"
    program = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "PROGRAM"
    return f"{setting} {_python()} {shlex.quote(program)}"


def _python() -> str:
    name = Path(sys.executable).name
    return name or "python"
