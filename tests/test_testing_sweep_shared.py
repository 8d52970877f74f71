"""Scenarios of a crash sweep that begin with what another run left: that they end the same, and when they don't."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.testing import CrashOutcome, CrashSweepFailed, Outside, remains
from polos.testing.outside import take_away
from polos.testing.remains import Collector, Remains, files_in
from polos.testing.store import MemoryStore
from polos.testing.sweep import sweep
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_course import _Sweep
from polos.testing.sweep_judging import Doubtful
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_scenario import Stage

from tests import sweep_workflows as w
from tests.store_children import run_child

bank = Outside("shared")

Ended = dict[tuple[str, ...], object]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CrashOutcome, bool, object]]:
    """Note each scenario in this process: how it ended, whether it began with what another run left, and the notes."""
    seen: list[tuple[CrashOutcome, bool, object]] = []
    play = Stage.play

    def noting(self: Stage, points: tuple[CrashPoint, ...], **options: Any) -> CrashOutcome:
        outcome = play(self, points, **options)
        if outcome.in_process:
            seen.append((outcome, self.shared, (bank.notes(), w.bank.notes())))
        return outcome

    monkeypatch.setattr(Stage, "play", noting)
    return seen


Played = list[tuple[CrashOutcome, bool, object]]


def ended(played: Played, which: Any, **options: Any) -> tuple[Ended, int]:
    """Sweep; gives how each scenario ended, as whoever looks from outside sees it, and how many were shared."""
    played.clear()
    sweep(which, {"number": 1}, processes=0, **options)
    found: Ended = {}
    for outcome, _, notes in played:
        found[outcome.crashes] = (
            outcome.events, outcome.calls, outcome.result, outcome.state, outcome.executions, outcome.cuts, notes,
        )  # fmt: skip
    return found, sum(shared for _, shared, _ in played)


async def files(number: int) -> str:
    """Write files where a step that comes later finds them by the path that is recorded."""
    bank.note("begun", number=number)
    (folder := places[0] / "reports" / str(number)).mkdir(parents=True, exist_ok=True)
    with (folder / "report").open("a", encoding="utf-8") as report:
        report.write(f"written when {bank.count('begun')} have begun\n")
    return str(folder)


async def reads(folder: str) -> int:
    reports = sorted(Path(folder).parent.rglob("report"))
    names = sorted(file.name for file in Path(folder).iterdir())
    bank.note("read", texts=[report.read_text("utf-8") for report in reports], names=names)
    (Path(folder) / "read").touch()
    return len(reports)


places: list[Path] = []


def set_up(directory: Path) -> None:
    places[:] = [directory]


@workflow(id="shared_files")
async def filing(ctx: WorkflowContext, payload: dict[str, int]) -> list[int]:
    first = await ctx.step.run("first", files, 1)
    await ctx.step.wait_for("a while", hours=3)
    second = await ctx.step.run("second", files, 2)
    return [await ctx.step.run("reads", reads, first), await ctx.step.run("reads again", reads, second)]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mixed": (w.mixed, {"answers": w.ANSWERS, "pairs": 20}),
    "files": (filing, {"setup": set_up, "pairs": 60}),
}


def by_themselves(played: Played, which: Any, **options: Any) -> tuple[Ended, int]:
    """Sweep the same scenarios as with `from_remains`, but there are none: all are lived from their beginning."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Collector, "taking", lambda _self, **_options: None)
        return ended(played, which, from_remains=True, **options)


def differing(played: Played, case: str) -> list[tuple[str, ...]]:
    """Give the scenarios that end otherwise if they begin with what another run left; checks that nearly all do."""
    which, options = CASES[case]
    alone, none = by_themselves(played, which, **options)
    shared, count = ended(played, which, from_remains=True, **options)
    assert alone.keys() - shared.keys() <= {("owned_before_recovery:1",)}  # an undisturbed run has shown it
    assert 0 == none
    assert count >= len(shared) - 1  # all but the undisturbed ones; recoveries that are lived for others come twice
    return [crashes for crashes in shared if crashes and _plain(alone[crashes]) != _plain(shared[crashes])]


def _plain(what: object) -> str:
    """Leave out of results and histories which directory a scenario had."""
    parts = repr(what).split("polos-sweep-")
    return "".join([parts[0], *(part.partition("/reports")[2] for part in parts[1:])])


@pytest.mark.sweep
@pytest.mark.parametrize("case", list(CASES))
def test_a_scenario_may_begin_with_what_another_run_left(played: Played, case: str):
    """It ends as it does when its first life is lived for it: history, calls, result, state, and what was done."""
    assert [] == differing(played, case)


def _late(self: Remains) -> Remains:
    return replace(self, now_us=self.now_us + 1_000_000)


def _without_files(self: Remains) -> Remains:
    return replace(self, files={})


def _without_calls(self: Remains) -> Remains:
    return replace(self, ledger=type(self.ledger)())


def _without_log(self: Remains) -> Remains:
    return replace(self, store=type(self.store)())


@pytest.mark.sweep
@pytest.mark.parametrize("loses", [_late, _without_files, _without_calls, _without_log])
def test_remains_that_lack_a_part_are_noticed(
    played: Played, monkeypatch: pytest.MonkeyPatch, loses: Callable[[Remains], Remains]
):
    """Without the log, the time, the calls or the files of the other run, scenarios end otherwise."""
    which, options = CASES["files"]
    alone, _ = by_themselves(played, which, **options)
    _blind(monkeypatch, loses)
    monkeypatch.setattr(Stage, "live_alone", lambda _stage: None)  # else they are lived again, each by itself
    try:
        shared, _ = ended(played, which, from_remains=True, **options)
    except Exception:  # that is noticing, too
        return
    both = [crashes for crashes in alone if crashes in shared]
    assert len(both) > 10
    assert any(_plain(alone[crashes]) != _plain(shared[crashes]) for crashes in both)


def _called_already(self: Remains) -> Remains:
    for run, step, attempt, life in list(self.ledger.attempts):
        self.ledger.attempts[run, step, attempt, life + 1] += 1
    return self


def _blind(monkeypatch: pytest.MonkeyPatch, loses: Callable[[Remains], Remains]) -> None:
    taking = Collector.taking

    def losing(self: Collector, **options: Any) -> Callable[[str, int], None] | None:
        take = taking(self, **options)
        if take is None:
            return None

        def lose(name: str, nth: int) -> None:
            before = set(self.found)
            take(name, nth)
            for point in self.found.keys() - before:
                self.found[point] = loses(self.found[point])

        return lose

    monkeypatch.setattr(Collector, "taking", losing)


def test_what_is_wrong_with_what_another_run_left_is_no_failure(monkeypatch: pytest.MonkeyPatch, played: Played):
    """A scenario that isn't right is lived from its beginning, with all others, before anything is said."""
    _blind(monkeypatch, _called_already)

    report = sweep(w.small, {"number": 1}, processes=0, pairs=5, from_remains=True)

    assert len(report.points) == report.singles
    assert 5 == report.pairs
    shares = [shared for _, shared, _ in played]
    begun = shares.count(True)
    alone = 1 + report.singles - report.alike + report.pairs  # the one in doubt comes first
    assert [*[False] * 2, *[True] * begun, *[False] * alone] == shares
    assert begun > 0
    assert "so something is kept in memory, or elsewhere than in the directory" in str(report)


def test_what_a_killed_process_finds_nothing_wrong_with_is_told(monkeypatch: pytest.MonkeyPatch):
    """What is wrong with remains alone is played with a process that is killed, too, and the report says so."""
    _blind(monkeypatch, _called_already)
    monkeypatch.setattr(_Sweep, "_drawn", lambda _sweep, _singles: [])

    report = sweep(w.small, {"number": 1}, pairs=0, from_remains=True)

    assert 2 + 1 == report.processes  # undisturbed ones, and the one in doubt
    assert str(report).endswith("the same crash does no harm where the process is killed, either")


def test_a_failure_is_of_a_scenario_that_was_lived_from_its_beginning(played: Played):
    """What is told of a bug is what playing it once more shows."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.crashes != ("after_effect_before_outcome:1",)

    with pytest.raises(CrashSweepFailed, match="after_effect_before_outcome:1") as failed:
        sweep(w.small, {"number": 1}, check=check, processes=0, from_remains=True)

    assert not isinstance(failed.value.__context__, Doubtful)
    assert [True, False] == [
        shared for outcome, shared, _ in played if "after_effect_before_outcome:1" in outcome.crashes
    ]


def test_where_nothing_can_be_kept_in_memory_scenarios_begin_with_remains(played: Played):
    """That is found out; who wants every life can say so."""
    report = sweep(w.small, {"number": 1}, processes=0, pairs=3)
    assert [False, False] == [shared for _, shared, _ in played[:2]]
    assert all(shared for _, shared, _ in played[2:])
    assert "" == report.memory

    played.clear()
    sweep(w.small, {"number": 1}, processes=0, pairs=3, from_remains=False)
    assert not any(shared for _, shared, _ in played)


def test_where_something_may_be_kept_in_memory_every_life_is_lived(played: Played):
    """The report says what it is."""
    report = sweep(w.counts_in_a_module, {"number": 1}, processes=0, pairs=3)

    assert not any(shared for _, shared, _ in played)
    assert "part uses numbers, a dict" == report.memory


@pytest.mark.parametrize("other", ["every_point", "real"])
def test_fewer_lives_and_all_of_them_are_not_to_be_had_together(other: str):
    """Who asks for both hears it before anything is begun."""
    with pytest.raises(ValueError, match="every_point and real ask for all of them"):
        sweep(w.small, {"number": 1}, from_remains=True, **{other: True})


def test_only_the_points_that_are_tried_are_kept(monkeypatch: pytest.MonkeyPatch):
    """Of a long run with a few points drawn, what the others leave takes no room."""
    found: list[set[CrashPoint]] = []
    collect = Collector.__init__

    def collecting(self: Collector, points: Any) -> None:
        collect(self, points)
        found.append(set(points))

    monkeypatch.setattr(Collector, "__init__", collecting)

    report = sweep(w.mixed, {"number": 1}, answers=w.ANSWERS, processes=0, pairs=0, points=4, from_remains=True)

    assert 4 == report.singles
    assert [0, 4, 0, 0, 0, 0] == [len(points) for points in found]


@pytest.mark.parametrize("limit", ["ENTRIES_MAX", "FILES_BYTES_MAX", "FILES_MAX"])
def test_what_would_take_too_much_memory_is_lived_again(monkeypatch: pytest.MonkeyPatch, played: Played, limit: str):
    """Of a long history or a large outside only some of what is left is kept, or nothing."""
    monkeypatch.setattr(remains, limit, 60 if limit == "ENTRIES_MAX" else 0)

    report = sweep(filing, {"number": 1}, setup=set_up, processes=0, pairs=0, from_remains=True)

    assert len(report.points) == report.singles
    shares = [shared for _, shared, _ in played[2:]]
    assert {True, False} == set(shares)


def with_link(folder: Path) -> None:
    (folder / "link").symlink_to("reports")


def unreadable(folder: Path) -> None:
    (folder / "file").touch(mode=0o200)


def closed(folder: Path) -> None:
    (folder / "folder").mkdir(mode=0o500)


def vanishes(folder: Path) -> None:
    """Leave a directory whose files are gone when they are looked at, as if a thread had removed them."""
    (folder / "gone").touch()


@pytest.mark.parametrize("leaves", [with_link, unreadable, closed, vanishes])
def test_an_outside_that_cannot_be_put_back_is_lived_again(
    monkeypatch: pytest.MonkeyPatch, played: Played, leaves: Callable[[Path], None]
):
    """A link, what its owner may not read or change, and what somebody removes meanwhile."""
    lstat = os.lstat

    def look(path: str, **options: Any) -> os.stat_result:
        if str(path).endswith("/gone"):
            raise FileNotFoundError(path)
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", look)

    def set_up_with(directory: Path) -> None:
        set_up(directory)
        if not any(directory.iterdir()):
            leaves(directory)

    sweep(filing, {"number": 1}, setup=set_up_with, processes=0, pairs=0, from_remains=True)

    assert not any(shared for _, shared, _ in played)


def test_what_a_later_life_closed_is_taken_away_for_its_owner(tmp_path: Path):
    """Directories that may not be changed or looked into don't keep the files from being as they were."""
    (other := tmp_path / "other").mkdir(mode=0o500)
    printed = run_child(
        """
        import os, sys
        from pathlib import Path
        from polos.testing.outside import take_away
        from polos.testing.remains import Remains

        place = Path(sys.argv[1])
        put_back = Remains(store=None, ledger=None, now_us=0, cuts=(), place=place, files={}).put_back
        (place / "closed" / "hidden").mkdir(parents=True)
        (place / "closed" / "hidden" / "file").touch()
        (place / "elsewhere").symlink_to(sys.argv[2])
        (place / "closed" / "hidden").chmod(0o000)
        (place / "closed").chmod(0o500)
        place.chmod(0o500)
        put_back()
        print(sorted(place.iterdir()))
        place.chmod(0o000)
        take_away(place)
        print(place.exists(), oct(Path(sys.argv[2]).stat().st_mode & 0o777))
        """,
        tmp_path / "place", other, unprivileged=True,
    )  # fmt: skip

    assert "[]\nFalse 0o500\n" == printed


def test_a_directory_that_cannot_be_opened_is_left_to_its_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody else's, or one that a thread of a step's removed meanwhile, doesn't end the sweep."""

    def chmod(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", chmod)
    (place := tmp_path / "place").mkdir()

    take_away(place)

    assert not place.exists()


def only_files(_place: Path) -> None:
    """Leave it as it is."""


def with_a_folder(place: Path) -> None:
    (place / "more" / "deep").mkdir(parents=True)
    (place / "more" / "deep" / "file").write_text("x")


def open_to_others(place: Path) -> None:
    place.chmod(0o755)


def gone(place: Path) -> None:
    take_away(place)


@pytest.mark.parametrize("change", [only_files, with_a_folder, open_to_others, gone])
def test_files_are_put_back_as_they_were(tmp_path: Path, change: Callable[[Path], None]):
    """Content, mode and times, nothing else beside them; and a file that somebody has linked to stays what it was."""
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    (place / "kept").write_bytes(b"first")
    (place / "kept").chmod(0o640)
    os.utime(place / "kept", ns=(1_000, 2_000))
    left = Remains(
        store=MemoryStore(), ledger=CallLedger(), now_us=0, cuts=(), place=place, files=files_in(place) or {},
    )  # fmt: skip
    os.link(place / "kept", tmp_path / "other")
    (tmp_path / "other").write_bytes(b"second")
    (place / "new").touch()
    change(place)

    left.put_back()

    assert ["kept"] == [path.name for path in place.iterdir()]
    status = (place / "kept").stat()
    assert (0o640, 2_000, 1) == (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink)
    assert 0o700 == stat.S_IMODE(place.stat().st_mode)
    assert (b"first", b"second") == ((place / "kept").read_bytes(), (tmp_path / "other").read_bytes())
