"""
What a sweep says of a scenario that doesn't come back.

A sweep has one thread, and lives, setups and checks take turns on it. What is on it is noted as it comes, so that
somebody on another thread can tell whose code it is that holds it, and in which life of which scenario.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, final

from polos.testing.lives import Life
from polos.testing.patience import TO_DO, Frames, Hang
from polos.testing.sweep_outcome import told_so_far
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_report import CrashSweepFailed
from polos.testing.under_way import bodies_wait_at, under_way

__all__ = ["Scene", "also_hangs", "hangs"]


@final
@dataclass(slots=True)
class Scene:
    """
    What a sweep is at.

    Attributes:
        points: where the lives of the scenario end.
        doing: "setup", "life", "replay", "check", or "" for what is the kit's own.
        number: which life it is, from 1.
        real: whether its lives are in child processes.
        life: the life.
        events: what was recorded when somebody asked.
        seen: which life it was when half of the patience was over, and how far the log had come.
        gets_on: whether the life had got on since, when somebody asked.
    """

    points: tuple[CrashPoint, ...]
    doing: str = ""
    number: int = 1
    real: bool = False
    life: Life | None = None
    events: list[str] = field(default_factory=list[str])
    seen: tuple[int, int] = (0, 0)
    gets_on: bool = False

    def half(self) -> None:
        """Note how far a life has come; on another thread."""
        if self.doing == "life" and self.life is not None:
            self.seen = self.number, self.life.audit.head

    def who(self) -> tuple[str, Frames]:
        """Say whose code is on the sweep's thread; asked on another one."""
        life = self.life
        if self.doing == "life" and life is not None:
            self.gets_on = self.seen[0] == self.number and self.seen[1] != life.audit.head
            if self.gets_on:
                what = f"the life as a whole, which gets on all the time (there are {life.audit.count():,} events),"
                return what, bodies_wait_at(life.engine)
            return under_way(life.engine, life.loop)
        return _WHO.get(self.doing, "the sweep"), ()

    def note(self) -> bool:
        """Note what is recorded; tells whether it matters where the sweep's thread is, if not in the program's code."""
        self.events = [] if self.life is None else told_so_far(self.life)
        return not self.gets_on

    def where(self) -> str:
        """Say in which scenario, and how far it has come."""
        if not self.points:
            return "the undisturbed run"
        if self.number == 1:
            return f"a run that was to crash at {self.points[0]}"
        crashes = " and then at ".join(map(str, self.points[: self.number - 1]))
        return f"the recovery from a crash at {crashes}"


SHOWN: Final = 12  # events of a life that gets on all the time, on each side of a crash
_WHO: Final = {
    "setup": "setup",
    "replay": "a body, when its history was replayed,",
    "check": "check, or same,",
}


def hangs(workflow: str, scene: Scene, hang: Hang, *, lost: bool, target: str) -> CrashSweepFailed:
    """
    Make the failure of a sweep that hung.

    Args:
        workflow: its id.
        scene: what it was at.
        hang: who didn't come back, and where that is.
        lost: whether its thread couldn't be got back.
        target: names the scenario, for whoever plays it once more.
    """
    events = scene.events
    cut = len(events) if scene.life is None or scene.number == 1 else scene.life.cut
    before, after = events[:cut], events[cut:]
    if scene.gets_on:  # the same over and over
        before, after = before[-SHOWN:], after[:SHOWN]
        left_out = [f"… {len(events) - len(before) - len(after):,} more …"]
        before, after = (before, after + left_out) if after else (left_out + before, after)
    return CrashSweepFailed(
        f"{workflow} hangs in {scene.where()}, in this process",
        points=scene.points[: scene.number - 1], differences=[str(hang)], before=before, after=after,
        target=target if scene.points else "", real=False, notes=(TO_DO, _LOST) if lost else (TO_DO,),
    )  # fmt: skip


def also_hangs(failed: CrashSweepFailed, hang: Hang, *, lost: bool) -> CrashSweepFailed:
    """Have a failure in child processes say that the same crash makes a run hang in this process; gives it."""
    failed.add(f"The same crash does harm in this process, too: {hang}", *((_LOST,) if lost else ()))
    return failed


_LOST: Final = (
    "Its thread couldn't be interrupted: it blocks outside of Python, or catches whatever is raised in it. It was "
    "given up and lives on until it comes back or this process ends; other sweeps run as ever."
)
