"""Scenarios of a crash sweep that begin with what another run left: when they may, and that it makes no difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.testing import CrashOutcome, CrashSweepFailed, Outside, remains
from polos.testing.plain_checks import Seen
from polos.testing.remains import Collector, Remains
from polos.testing.sweep import sweep
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_scenario import Stage

from tests import sweep_workflows as w

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


def sees_memory(_outcome: CrashOutcome) -> None:
    """Name what may be kept in memory, so that each scenario is lived from its beginning."""
    assert isinstance(w.memory, list)


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


def differing(played: Played, case: str) -> list[tuple[str, ...]]:
    """Give the scenarios that end otherwise if they begin with what another run left; checks that nearly all do."""
    which, options = CASES[case]
    alone, none = ended(played, which, check=sees_memory, **options)
    shared, count = ended(played, which, **options)
    assert alone.keys() == shared.keys()
    assert 0 == none
    assert count >= len(shared) - 1  # all but the undisturbed ones; recoveries that are lived for others come twice
    return [crashes for crashes in alone if crashes and _plain(alone[crashes]) != _plain(shared[crashes])]


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
    _blind(monkeypatch, loses)
    monkeypatch.setattr(Stage, "live_alone", lambda _stage: None)  # else they are lived again, each by itself
    which, options = CASES["files"]
    alone, _ = ended(played, which, check=sees_memory, **options)
    try:
        shared, _ = ended(played, which, **options)
    except Exception:  # that is noticing, too
        return
    assert {crashes: _plain(how) for crashes, how in alone.items()} != {
        crashes: _plain(how) for crashes, how in shared.items()
    }


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

    report = sweep(w.small, {"number": 1}, processes=0, pairs=5)

    assert len(report.points) == report.singles
    assert 5 == report.pairs
    shares = [shared for _, shared, _ in played]
    begun = shares.count(True)
    alone = report.singles - report.alike + report.pairs
    assert [*[False] * 2, *[True] * begun, *[False] * alone] == shares
    assert begun > 0


def test_a_failure_is_of_a_scenario_that_was_lived_from_its_beginning(played: Played):
    """What is told of a bug is what playing it once more shows."""

    def check(outcome: CrashOutcome) -> None:
        assert outcome.crashes != ("after_effect_before_outcome:1",)

    with pytest.raises(CrashSweepFailed, match="after_effect_before_outcome:1"):
        sweep(w.small, {"number": 1}, check=check, processes=0)

    assert [True, False] == [
        shared for outcome, shared, _ in played if "after_effect_before_outcome:1" in outcome.crashes
    ]


charges: list[str] = []


async def charges_in_memory() -> int:
    charges.append("charge")
    return 1


@workflow(id="shared_memory")
async def twice(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return await ctx.step.run("charge", charges_in_memory)


def test_a_check_that_counts_in_memory_counts_all_lives():
    """A fake in memory that the check looks at and clears has the calls of the life that was killed, too."""
    charges.clear()

    def check(_outcome: CrashOutcome) -> None:
        assert len(charges) <= 1, "charged twice"
        charges.clear()

    with pytest.raises(CrashSweepFailed, match="charged twice"):
        sweep(twice, {"number": 1}, check=check, processes=0)


counted = 0


async def counts() -> int:
    global counted  # noqa: PLW0603  # what is under test
    counted += 1
    return 1


@workflow(id="shared_counter")
async def counting(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return await ctx.step.run("count", counts)


def test_a_number_of_a_module_that_steps_assign_is_memory_as_well(played: Played):
    """A check that looks at it is plain to see, until somebody assigns it."""
    sweep(counting, {"number": 1}, check=lambda _outcome: counted < 1_000, processes=0, pairs=3)

    assert not any(shared for _, shared, _ in played[3:])


def test_every_point_by_itself_shares_nothing(played: Played):
    """Who asks for every point gets every life."""
    sweep(w.small, {"number": 1}, processes=0, pairs=3, every_point=True)

    assert not any(shared for _, shared, _ in played)


@pytest.mark.parametrize("limit", ["ENTRIES_MAX", "FILES_BYTES_MAX", "FILES_MAX"])
def test_what_would_take_too_much_memory_is_lived_again(monkeypatch: pytest.MonkeyPatch, played: Played, limit: str):
    """Of a long history or a large outside only some of what is left is kept, or nothing."""
    monkeypatch.setattr(remains, limit, 60 if limit == "ENTRIES_MAX" else 0)

    report = sweep(filing, {"number": 1}, setup=set_up, processes=0, pairs=0)

    assert len(report.points) == report.singles
    shares = [shared for _, shared, _ in played[2:]]
    assert {True, False} == set(shares)


def test_an_outside_that_is_no_plain_files_is_lived_again(played: Played):
    """A link or a pipe in the directory can't be put back as it was."""

    def set_up_with_link(directory: Path) -> None:
        set_up(directory)
        link = directory / "link"
        if not link.is_symlink():
            link.symlink_to("reports")

    sweep(filing, {"number": 1}, setup=set_up_with_link, processes=0, pairs=0)

    assert not any(shared for _, shared, _ in played)


# ------------------------------------------------------------------------------------------- plain checks

CENTS = 100
LIMITS = (1, 2.5, "three", frozenset({"four"}))
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
kept: dict[str, int] = {}


def helps(outcome: CrashOutcome) -> int:
    return bank.count("charged") + len(outcome.executions)


@cache
def remembers(number: int) -> int:
    return number


def plain_ones() -> Iterator[Callable[[CrashOutcome], object]]:
    limit = 7

    def check(outcome: CrashOutcome) -> None:
        assert outcome.result == CENTS, "the amount"
        assert math.isclose(helps(outcome), limit) or all(one in LIMITS for one in outcome.state or ())
        if bank.count("charged") > 1:
            pytest.fail(f"since {SINCE:%Y}")

    yield check
    yield lambda outcome: sorted(outcome.calls.values(), reverse=True)
    yield partial(lambda most, outcome: bank.count("x") <= most, 1)
    yield lambda outcome: (outcome.directory / "ledger").read_text()


def others() -> Iterator[Callable[[CrashOutcome], object]]:
    mine: list[str] = []

    def counts_calls(outcome: CrashOutcome) -> None:
        counts_calls.seen = 1  # type: ignore[attr-defined]

    def imports(outcome: CrashOutcome) -> None:
        from tests import sweep_workflows  # what is under test

        assert sweep_workflows.memory

    def assigns(outcome: CrashOutcome) -> None:
        global counted  # noqa: PLW0603  # as above
        counted = 0

    def with_default(outcome: CrashOutcome, seen: dict[str, int] = kept) -> None:
        assert seen is not None

    class Mine:
        def check(self, outcome: CrashOutcome) -> None: ...

        def __call__(self, outcome: CrashOutcome) -> None: ...

    number = 0

    def assigns_outside(outcome: CrashOutcome) -> None:
        nonlocal number
        number = 1

    yield lambda outcome: mine
    yield lambda outcome: kept.get("x")
    yield lambda outcome: w.memory
    yield lambda outcome: open(outcome.directory / "x")  # noqa: SIM115  # only its code is looked at
    yield lambda outcome: Path("elsewhere").exists()
    yield lambda outcome: remembers(1)
    yield lambda outcome: Mine()
    yield lambda outcome: [one for one in [2] if charges]
    yield Mine().check
    yield Mine()
    yield partial(lambda seen, outcome: seen, [])
    yield counts_calls
    yield imports
    yield assigns
    yield assigns_outside
    yield with_default


def test_a_check_that_names_nothing_kept_in_memory_is_plain():
    """Constants, ledgers outside, functions of the library, and functions of these."""
    assert [True] * 5 == [Seen(check).is_plain for check in (None, *plain_ones())]
    assert all(Seen(check).is_unchanged() for check in plain_ones())


def test_a_check_that_names_anything_else_is_not():
    """Variables, modules and objects of the program, and whatever can't be told."""
    found = list(others())
    found[11](CrashOutcome(status="completed"))  # it counts by an attribute of its own

    assert [] == [number for number, check in enumerate(found) if Seen(check).is_plain]
