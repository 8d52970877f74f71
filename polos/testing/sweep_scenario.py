"""
Playing one scenario: lives that die at their points, and a last one that comes to the end.

Every scenario begins with nothing: an empty log, an empty place outside, a clock at the same moment. What one life
hands to the next is what a process would leave behind, the log and the outside, and the time that has passed. So a
scenario may as well begin with what another run would have left at its first point (`remains`). Which scenarios are
played, and what is held against them, is none of its business.

The place of the outside and the armed points are the process's, so one sweep at a time has the stage. Whose code is on
it is noted as it comes (`Scene`): when it doesn't come back, somebody on another thread has to say who it was.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, final

from polos.errors import PolosUsageError
from polos.points import disarm
from polos.testing.audit import Audit
from polos.testing.clock import START_US, VirtualClock
from polos.testing.failing import Raised, said_by
from polos.testing.lives import Life
from polos.testing.outside import Place
from polos.testing.patience import Hang, Patience, Turn, is_lost
from polos.testing.program_threads import ProgramThreads
from polos.testing.remains import Collector, Remains
from polos.testing.run_chance import RunChance
from polos.testing.store import MemoryStore
from polos.testing.sweep_calls import CallLedger, Note
from polos.testing.sweep_effects import Effect
from polos.testing.sweep_hanging import Scene, also_hangs, hangs
from polos.testing.sweep_outcome import CrashOutcome, cut_short, outcome_of
from polos.testing.sweep_points import CrashPoint, Points
from polos.testing.sweep_processes import Children, LifeFailed
from polos.testing.sweep_report import CrashReport, CrashSweepFailed
from polos.testing.sweep_room import Home, Room
from polos.testing.sweep_target import Targets
from polos.testing.sweep_template import OUTSIDE
from polos.testing.sweep_wanted import Wanted

__all__ = ["SWEEPING", "Stage"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page

SWEEPING: Final = Turn()  # the points and the place of a process are one sweep's at a time


@final
class Stage:
    """
    Where the scenarios of a sweep are played, one after another.

    Attributes:
        scene: what it is at.
        task: what all lives have in common.
        targets: names the scenarios.
        shares: whether scenarios begin with the remains of another run, where there are any.
        shared: whether the last one did.
        failed: what the sweep fails with, once that is known; what is played after it only says more.
    """

    def __init__(self, wanted: Wanted, report: CrashReport, stop: threading.Event, patience: Patience) -> None:
        """
        Prepare; nothing is played yet.

        Args:
            wanted: what the caller asked for.
            report: counts the scenarios.
            stop: nothing more is played once it is set.
            patience: with whoever is on.
        """
        self._wanted = wanted
        self._report = report
        self._stop = stop
        self._patience = patience
        self._children: Children | None = None
        self._room = Room(stop)
        self._home = Home()
        self._threads = ProgramThreads()
        self._remains: dict[tuple[CrashPoint, ...], Remains] = {}
        self.shares = wanted.from_remains is True
        self.shared = False
        self.failed: CrashSweepFailed | None = None
        self.scene = Scene(())
        patience.failure = self._hangs
        patience.on_hang = self._note
        self.task = wanted.task()
        self.targets = Targets(wanted.workflow.id, self.task, wanted.downtime_us)

    def _note(self) -> bool:
        return self.scene.note()

    def __enter__(self) -> None:
        """Make room for what scenarios leave outside."""
        self._room.open()

    def __exit__(self, *_: object) -> None:
        """Clear it away."""
        if not is_lost():  # else others have come since
            Place.current = None
            self._home.go_back()
        self._room.clear()

    @property
    def cleaning(self) -> dict[CrashPoint, object]:
        """What would be cleaned up at points of the last life, if the coroutines of the dead are closed there."""
        return {} if self.scene.life is None else self.scene.life.points.cleaning

    @property
    def waits(self) -> list[str]:
        """What the last life has waited for in vain, if that kept it from coming to its end."""
        return [] if self.scene.life is None else self.scene.life.waits

    @property
    def called(self) -> list[str]:
        """The steps whose functions were called until the end of the last life, in order."""
        return [] if self.scene.life is None else self.scene.life.ledger.steps

    @property
    def noted(self) -> list[Note]:
        """The calls until the end of the last life, and what came back, in order."""
        return [] if self.scene.life is None else self.scene.life.ledger.notes

    @property
    def effects(self) -> dict[CrashPoint, Effect]:
        """What has happened, and isn't recorded, at points of the last life."""
        return {} if self.scene.life is None else self.scene.life.points.effects

    @property
    def refused(self) -> list[str]:
        """What threads of earlier lives would have noted in the last scenario, in words."""
        return self._threads.said

    def use_children(self, workflows: Iterable[str]) -> None:
        """Let child processes begin to import what they will need: these workflows, by id."""
        used = [self.task.find(workflow) for workflow in workflows]
        self._home.go_back()  # interpreters may begin here
        self._children = Children(
            self.task,
            workflows=[workflow for workflow in used if workflow is not None],
            setup=self._wanted.setup,
            patience_seconds=self._wanted.patience_seconds,
            downtime_us=self._wanted.downtime_us,
            environment=self._home.environment,
        )

    @property
    def has_children(self) -> bool:
        """Whether scenarios can be played in child processes."""
        return self._children is not None

    def may_have_pairs(self, points: tuple[CrashPoint, ...]) -> bool:
        """Tell whether it matters to what a crash leaves behind in the recovery from these."""
        return len(points) == 1 and self._wanted.pairs > 0

    def check_begins(self) -> None:
        """Note that the caller's own judgement is on now; it finds the working directory that the sweep began in."""
        self._home.go_back()
        self.scene.doing = "check"
        self._patience.begin(self.scene.who)

    def live_alone(self) -> None:
        """Have each scenario live all its lives by itself, as nothing is kept any more."""
        self.shares = False
        self._remains.clear()

    @property
    def keeps(self) -> bool:
        """Whether scenarios may begin with what others leave."""
        return bool(self._remains)

    def is_undisturbed(self, point: CrashPoint) -> bool:
        """Tell whether the recovery from a crash there would begin with nothing, as undisturbed runs do."""
        remains = self._remains.get((point,))
        if remains is None or self._wanted.downtime_us:
            return False
        return remains.are_nothing and remains.now_us == START_US

    def forget(self, points: tuple[CrashPoint, ...]) -> None:
        """Keep no longer what crashes in the recovery from these leave."""
        for kept in [kept for kept in self._remains if kept[:-1] == points]:
            del self._remains[kept]

    def play(
        self,
        points: tuple[CrashPoint, ...],
        *,
        real: bool = False,
        turn: int = 0,
        keep: Collection[CrashPoint] = (),
    ) -> CrashOutcome:
        """
        Play a scenario.

        Args:
            points: where its lives end, one after another; the last one comes to the end.
            real: whether they are lived in child processes.
            turn: of several that crash nowhere, which one it is.
            keep: what a crash of the last life at one of these would leave is kept, for scenarios that begin so.

        Raises:
            PolosUsageError: the sweep was stopped.
        """
        if self._stop.is_set():
            raise PolosUsageError("the sweep was stopped: nobody waits for it any more")
        self._report.scenarios += 1
        directory = self._room.path / str(self._report.scenarios)
        self.shared = False
        self._home.go_back()
        if real:
            outcome = self._in_children(points, directory, turn)
        else:
            collector = Collector(keep)
            outcome = self._in_process(points, directory / OUTSIDE, collector)
            self._remains |= {(*points, point): remains for point, remains in collector.found.items()}
        outcome.crashes = tuple(map(str, points))
        return outcome

    def _in_children(self, points: tuple[CrashPoint, ...], directory: Path, turn: int) -> CrashOutcome:
        assert self._children is not None, "there are child processes"
        self._report.processes += 1
        self.scene = Scene(points, number=len(points) + 1, real=True)
        self._patience.pause()  # they have their own
        try:
            outcome = self._children.live(points, directory, turn=turn)
        except LifeFailed as error:
            outcome = CrashOutcome(status="absent", in_process=False, problems=[str(error)])
        Place.current = Place(directory / OUTSIDE)
        return outcome

    def _in_process(self, points: tuple[CrashPoint, ...], directory: Path, collector: Collector) -> CrashOutcome:
        scene = self.scene = Scene(points)
        store, ledger, now_us, begun = MemoryStore(), CallLedger(), START_US, len(points)
        cuts: list[int] = []
        while begun and points[:begun] not in self._remains:
            begun -= 1
        self.shared = begun > 0
        if begun:
            remains = self._remains[points[:begun]]
            directory, cuts = remains.place, list(remains.cuts)
            now_us = remains.now_us + self._wanted.downtime_us
            store, ledger = remains.store.copy(), remains.ledger.copy()
            remains.put_back()
        place = Place.current = Place(directory, made=begun > 0)
        audit = Audit(store.log)
        self._threads.hush()
        outcome: CrashOutcome | None = None
        compares = not points or self.may_have_pairs(points)
        for number, crash_at in enumerate((*points, None)[begun:], begun + 1):
            scene.number, scene.life = number, None
            self._patience.begin(scene.who, half=scene.half)
            place.dead = False
            self._threads.forsake()
            ledger.life = number
            chance = RunChance(self._wanted.seed, audit)
            clock = VirtualClock(start_us=now_us, chance=chance)
            if number > 1:
                cuts.append(audit.count())
                self._home.go_back()
            try:
                self._set_up(scene, place)
                life = scene.life = Life(
                    self.task,
                    store=store,
                    clock=clock,
                    audit=audit,
                    ledger=ledger,
                    points=Points(crash_at, die=place.close),
                    chance=chance,
                    changes=store.changes if compares and crash_at is None else None,
                    outside=place if self.shares else None,
                )
                if crash_at is None:
                    taking = collector.taking(store=store, ledger=ledger, clock=clock, cuts=cuts, place=place)
                    life.points.on_point = taking
                outcome = self._live(scene, life, place)
            except Raised as raised:
                outcome = cut_short(audit, self.task.run, raised)
            scene.doing = ""
            if outcome is not None:
                break
            now_us = clock.now_us() + self._wanted.downtime_us
        assert outcome is not None, "the last life isn't crashed"
        audit.close()
        place.dead = False
        outcome.directory = directory
        outcome.cuts = cuts
        return outcome

    def _set_up(self, scene: Scene, place: Place) -> None:
        """Let the program open what the life that begins will need."""
        if self._wanted.setup is not None:
            scene.doing = "setup"
            with said_by("setup"):
                self._wanted.setup(place.path)

    def _live(self, scene: Scene, life: Life, place: Place) -> CrashOutcome | None:
        """Live a life; gives how it ended, None if it died."""
        scene.doing = "life"
        try:
            life.live()
            scene.doing = "replay"
            outcome = None if life.points.dead else outcome_of(life)
            if outcome is not None:
                self._patience.pause()
                self._threads.wait()
        finally:
            place.dead = True
            self._patience.spare()
            life.close()
        life.forget()
        return outcome

    def _hangs(self, hang: Hang) -> CrashSweepFailed:
        """Say that a scenario hung; on another thread, for this one has come to its end or is lost."""
        scene, lost = self.scene, self._patience.lost
        if lost:
            if scene.life is not None:
                disarm(scene.life.points)
            Place.current = None
            self._home.go_back()
            self._room.clear()
            SWEEPING.give_back(self._patience)
        if self.failed is not None:
            return also_hangs(self.failed, hang, lost=lost)
        target = self.targets.of(scene.points, real=scene.real)
        return hangs(self._wanted.workflow.id, scene, hang, lost=lost, target=target)
