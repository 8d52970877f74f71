"""
The writer thread: grouping, pushing back, large payloads, and what a failure does to everybody.

Nothing here waits for time: a `FaultPlan` holds an append until the test has arranged what it wants, and
the test then waits for outcomes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable

import pytest
from polos.errors import ForkedStore, PolosInternalError, StoreClosed, StoreFailed, StoreFenced, StoreFull
from polos.store.faults import Fault, FaultPlan, FaultyLog
from polos.store.log import AppendUnit, PayloadEncoding
from polos.store.memory import MemoryLog
from polos.store.writer import Committed, Outcome, Refused, Unknown, Writer, WriterFailed, WriterFull

from tests.contract.logs import record, unit

PATIENCE_SECONDS = 30


class Blobs:
    """Blobs in memory whose `put` can be held up or made to fail."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.pins: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.asked = threading.Semaphore(0)

    def put(self, data: bytes) -> str:
        self.asked.release()
        assert self.gate.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        return digest

    def get(self, digest: str) -> bytes:
        return self.kept[digest]

    def pin(self, digest: str) -> None:
        self.pins.append(digest)

    def unpin(self, digest: str) -> None:
        self.pins.remove(digest)


class Bench:
    """A writer on a faulty log in memory, and everything it hands back."""

    def __init__(self, **settings: int) -> None:
        self.blobs = Blobs()
        self.memory = MemoryLog(blobs=self.blobs)
        self.plan = FaultPlan()
        self.log = FaultyLog(self.memory, self.plan)
        self.groups: list[list[tuple[object, Outcome]]] = []
        self.room = threading.Semaphore(0)
        self._changed = threading.Condition()
        self.writer: Writer[object] = Writer(
            self.log,
            self.log.acquire(),
            self.blobs,
            on_commit=self._take,
            on_room=self.room.release,
            inline_bytes_max=100,
            **settings,
        )

    def _take(self, outcomes: list[tuple[object, Outcome]]) -> None:
        with self._changed:
            self.groups.append(outcomes)
            self._changed.notify_all()

    @property
    def outcomes(self) -> dict[object, Outcome]:
        return dict(pair for group in self.groups for pair in group)

    def wait(self, *tokens: object) -> dict[object, Outcome]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(token in self.outcomes for token in tokens), PATIENCE_SECONDS)
        return self.outcomes

    def occupy(self) -> None:
        """Have an append under way that waits, so that what is submitted now queues up."""
        self.plan.hold()
        began = self.plan.appends + 1
        self.writer.submit(unit(record("occupied")), f"occupied {began}")
        assert self.plan.wait_appends(began)

    def streams(self) -> list[str]:
        with self.memory.reader() as reader:
            return [found.stream for found in reader.records()]


@pytest.fixture
def make():
    """Benches that are let go and closed behind the test."""
    made: list[Bench] = []

    def build(**settings: int) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield build
    for bench in made:
        bench.blobs.gate.set()
        bench.plan.let_go()
        bench.writer.close()
        assert [] == bench.blobs.pins


Make = Callable[..., Bench]


def test_a_unit_is_committed_with_its_receipt(make: Make):
    """The outcome names the place in the log, and the log has the record by then."""
    bench = make()
    bench.writer.submit(unit(record("a", b"1")), "token")

    (outcome,) = bench.wait("token").values()
    assert isinstance(outcome, Committed)
    assert (1, 1) == (outcome.receipt.first, outcome.receipt.count)
    assert ["a"] == bench.streams()


def test_what_waits_goes_into_one_commit_in_order(make: Make):
    """Ten units that gather during a commit make one group, handed back in one call."""
    bench = make()
    bench.occupy()
    for at in range(10):
        bench.writer.submit(unit(record("s"), expected={"s": at}), at)
    bench.plan.let_go()
    bench.wait(9)

    assert [["occupied 1"], list(range(10))] == [[token for token, _ in group] for group in bench.groups]
    assert 2 == bench.plan.appends


@pytest.mark.parametrize("limit", [{"group_units_max": 3}, {"group_bytes_max": 3 * (10 + 64)}])
def test_a_group_has_a_limit(make: Make, limit: dict[str, int]):
    """Units over the limit of a group go into the next."""
    bench = make(**limit)
    bench.occupy()
    for at in range(7):
        bench.writer.submit(unit(record("s", bytes(10))), at)
    bench.plan.let_go()
    bench.wait(6)

    assert [1, 3, 3, 1] == [len(group) for group in bench.groups]


@pytest.mark.parametrize("limit", [{"queue_units_max": 4}, {"queue_bytes_max": 4 * (10 + 64)}])
def test_a_full_queue_pushes_back_and_calls_when_there_is_room(make: Make, limit: dict[str, int]):
    """The fifth unit is refused without a trace; `on_room` comes, and then it is taken."""
    bench = make(**limit)
    bench.occupy()
    for at in range(4):
        bench.writer.submit(unit(record("s", bytes(10))), at)
    with pytest.raises(WriterFull):
        bench.writer.submit(unit(record("s", bytes(10))), "refused")
    assert not (limit.get("queue_units_max") and bench.writer.has_room())
    assert not bench.room.acquire(blocking=False)

    bench.plan.let_go()
    assert bench.room.acquire(timeout=PATIENCE_SECONDS)
    assert bench.writer.has_room()
    bench.writer.submit(unit(record("s", bytes(10))), "later")
    assert "refused" not in bench.wait("later")


def test_a_unit_larger_than_the_queue_is_taken_when_it_is_alone(make: Make):
    """A limit on bytes never makes a unit impossible."""
    bench = make(queue_bytes_max=10, group_bytes_max=10)
    bench.writer.submit(unit(record("s", bytes(90))), "large")

    assert isinstance(bench.wait("large")["large"], Committed)


def test_a_large_payload_is_a_blob_before_its_record_is_appended(make: Make):
    """The record holds a reference; a reader gets the payload; the blob was pinned until the commit."""
    bench = make()
    large = os.urandom(101)
    bench.plan.hold()
    bench.writer.submit(unit(record("s", large), record("s", bytes(100))), "token")
    assert bench.plan.wait_appends(1)
    assert [hashlib.sha256(large).hexdigest()] == bench.blobs.pins
    bench.plan.let_go()
    bench.wait("token")

    with bench.memory.reader() as reader:
        first, second = reader.stream("s")
    assert (large, PayloadEncoding.BLOB) == (first.payload, first.encoding)
    assert (bytes(100), PayloadEncoding.PLAIN) == (second.payload, second.encoding)
    assert [large] == list(bench.blobs.kept.values())


def test_blobs_that_a_payload_names_are_pinned_until_the_outcome(make: Make):
    """A blob the engine put itself isn't collected under a unit that still waits."""
    bench = make()
    named = "ab" * 32
    bench.plan.hold()
    bench.writer.submit(
        AppendUnit(
            records=(type(record("a"))(stream="a", type="T", schema_version=1, time_us=0, payload=b"", blobs=(named,)),)
        ),
        1,
    )
    assert [named] == bench.blobs.pins
    bench.plan.let_go()
    bench.wait(1)

    assert [] == bench.blobs.pins


def test_a_unit_that_waits_for_its_blob_is_overtaken_by_strangers_only(make: Make):
    """Same stream, same row, an expectation, or a share in one that is held back: none of these overtakes."""
    bench = make()
    bench.blobs.gate.clear()
    bench.writer.submit(unit(record("large", bytes(200)), rows={("shared",): b"1"}), "large")
    assert bench.blobs.asked.acquire(timeout=PATIENCE_SECONDS)
    bench.writer.submit(unit(record("large"), record("second")), "same stream")
    bench.writer.submit(unit(record("third"), rows={("shared",): b"2"}), "same row")
    bench.writer.submit(unit(record("fourth"), expected={"large": 2}), "reads the stream")
    bench.writer.submit(unit(record("second")), "stands behind one that is held back")
    bench.writer.submit(unit(record("stranger"), rows={("own",): b""}), "stranger")
    bench.wait("stranger")

    assert ["stranger"] == list(bench.outcomes)
    bench.blobs.gate.set()
    outcomes = bench.wait("large", "same stream", "same row", "reads the stream", "stands behind one that is held back")
    assert all(isinstance(outcome, Committed) for outcome in outcomes.values())
    assert ["stranger", "large", "large", "second", "third", "fourth", "second"] == bench.streams()
    with bench.memory.reader() as reader:
        assert reader.row(("shared",)) == b"2"


def test_a_unit_that_expects_its_position_keeps_its_place(make: Make):
    """It stands behind all that was there before it, and in front of all that comes later, whoever waits for a blob."""
    bench = make()
    bench.blobs.gate.clear()
    bench.writer.submit(unit(record("large", bytes(200))), "large")
    assert bench.blobs.asked.acquire(timeout=PATIENCE_SECONDS)
    bench.writer.submit(unit(record("stranger")), "stranger")
    bench.writer.submit(unit(record("placed"), first=3), "placed")
    bench.writer.submit(unit(record("late")), "late")
    bench.wait("stranger")

    assert ["stranger"] == list(bench.outcomes)
    bench.blobs.gate.set()
    outcomes = bench.wait("large", "placed", "late")
    assert all(isinstance(outcome, Committed) for outcome in outcomes.values())
    assert ["stranger", "large", "placed", "late"] == bench.streams()


@pytest.mark.parametrize(
    ("fault", "kind", "position"),
    [
        (Fault.FULL, Refused, 1),
        (Fault.REFUSED, Refused, 1),
        (Fault.UNKNOWN_LOST, Unknown, 1),
        (Fault.UNKNOWN_KEPT, Unknown, 2),
    ],
)
def test_a_failed_group_fails_what_stands_behind_it(make: Make, fault: Fault, kind: type, position: int):
    """The group gets the outcome, the queue is refused as following, and `reset` says what is on disk."""
    bench = make(group_units_max=1)
    bench.plan.at(2, fault)
    bench.occupy()
    for token in ("failing", "behind", "last"):
        bench.writer.submit(unit(record("s")), token)
    bench.plan.let_go()
    outcomes = bench.wait("failing", "behind", "last")

    assert isinstance(outcomes["occupied 1"], Committed)
    assert isinstance(outcomes["failing"], kind)
    for token in ("behind", "last"):
        outcome = outcomes[token]
        assert isinstance(outcome, Refused)
        assert outcome.following
    assert 2 == len(bench.groups)
    assert not bench.writer.has_room()
    with pytest.raises(WriterFailed) as caught:
        bench.writer.submit(unit(record("s")), "too early")
    assert isinstance(caught.value.error, StoreFailed | StoreFull)
    assert 2 == bench.plan.appends

    assert position == bench.writer.reset().position
    bench.writer.submit(unit(record("s")), "again")
    assert isinstance(bench.wait("again")["again"], Committed)


def test_a_reset_that_can_not_find_out_leaves_the_writer_refusing(make: Make):
    """While the environment can't be opened again, nothing is taken; a later reset may work."""
    bench = make()
    bench.plan.next(Fault.UNKNOWN_KEPT)
    bench.plan.fail_reopening(1)
    bench.writer.submit(unit(record("s")), 1)
    bench.wait(1)
    with pytest.raises(StoreFailed):
        bench.writer.reset()
    with pytest.raises(WriterFailed):
        bench.writer.submit(unit(record("s")), 2)

    assert 1 == bench.writer.reset().position
    assert bench.writer.has_room()


def test_a_reset_finds_out_that_another_owns_the_log(make: Make):
    """Whoever was refused by a full disk may have lost the log meanwhile: it goes on with nothing, then or later."""
    bench = make()
    bench.plan.next(Fault.FULL)
    bench.writer.submit(unit(record("s")), 1)
    bench.wait(1)
    bench.log.acquire()

    for _ in range(2):
        with pytest.raises(StoreFenced):
            bench.writer.reset()
        with pytest.raises(WriterFailed):
            bench.writer.submit(unit(record("s")), 2)


def test_a_reset_without_a_failure_changes_nothing(make: Make):
    """It gives the head at once, also while an append is under way, which then ends as it would have."""
    bench = make()
    bench.occupy()
    assert 0 == bench.writer.reset().position
    bench.plan.let_go()

    assert isinstance(bench.wait("occupied 1")["occupied 1"], Committed)


def test_reset_may_be_called_from_on_commit(make: Make):
    """The thread that hears of a failure may take it up at once, without waiting for itself."""
    bench = make()
    heads: list[int] = []
    take = bench._take

    def reset_and_take(outcomes: list[tuple[object, Outcome]]) -> None:
        heads.append(bench.writer.reset().position)
        take(outcomes)

    bench.writer._on_commit = reset_and_take
    bench.plan.next(Fault.UNKNOWN_KEPT)
    bench.writer.submit(unit(record("s")), 1)
    bench.wait(1)

    assert [1] == heads
    assert bench.writer.has_room()


def test_a_blob_that_can_not_be_written_fails_its_unit_and_the_queue(make: Make):
    """The unit whose blob failed is the culprit, all others that wait are following, wherever they stand."""
    bench = make()
    bench.blobs.error = StoreFull("no room for a blob")
    bench.occupy()
    bench.blobs.gate.clear()
    bench.writer.submit(unit(record("before")), "before")
    bench.writer.submit(unit(record("large", bytes(200))), "large")
    bench.writer.submit(unit(record("behind")), "behind")
    bench.blobs.gate.set()
    failed = bench.writer._changed
    with failed:
        assert failed.wait_for(lambda: bench.writer._failure is not None, PATIENCE_SECONDS)
    bench.plan.let_go()
    outcomes = bench.wait("before", "large", "behind")

    assert isinstance(outcomes["occupied 1"], Committed)
    assert {"before": True, "large": False, "behind": True} == {
        token: outcome.following for token, outcome in outcomes.items() if isinstance(outcome, Refused)
    }
    assert 1 == bench.writer.reset().position


def test_a_blob_that_comes_too_late_changes_nothing(make: Make):
    """A failure hands a waiting unit back; its blob may still be written, and isn't pinned for ever."""
    bench = make()
    bench.blobs.gate.clear()
    bench.writer.submit(unit(record("large", bytes(200))), "large")
    assert bench.blobs.asked.acquire(timeout=PATIENCE_SECONDS)
    bench.plan.next(Fault.REFUSED)
    bench.writer.submit(unit(record("other")), "other")
    outcome = bench.wait("large", "other")["large"]

    assert isinstance(outcome, Refused)
    assert outcome.following
    bench.blobs.gate.set()
    bench.writer.reset()
    bench.writer.submit(unit(record("next")), "next")
    bench.wait("next")
    assert ["next"] == bench.streams()


def test_an_error_that_is_nobodys_still_gives_an_outcome(make: Make):
    """An exception the log never promised is our bug, its outcome unknown, and nobody waits for ever."""
    bench = make()

    class Broken:
        def append(self, units: object, *, epoch: object) -> None:
            raise ZeroDivisionError("not a store error")

        def __getattr__(self, name: str) -> object:
            return getattr(bench.log, name)

    bench.writer._log = Broken()  # type: ignore[assignment]  # broken on purpose
    bench.writer.submit(unit(record("s")), 1)
    outcome = bench.wait(1)[1]

    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.error, PolosInternalError)
    assert isinstance(outcome.error.__cause__, ZeroDivisionError)
    assert 0 == bench.writer.reset().position


def test_closing_appends_what_is_queued(make: Make):
    """A drained writer has committed everything it had taken."""
    bench = make(group_units_max=1)
    bench.occupy()
    for at in range(5):
        bench.writer.submit(unit(record("s")), at)
    bench.plan.let_go()
    bench.writer.close()
    bench.writer.close()

    assert 6 == len(bench.outcomes)
    assert all(isinstance(outcome, Committed) for outcome in bench.outcomes.values())
    with pytest.raises(StoreClosed):
        bench.writer.submit(unit(record("s")), "late")
    with pytest.raises(StoreClosed):
        bench.writer.reset()


def test_closing_without_draining_hands_back_what_is_queued(make: Make):
    """The commit under way ends; the rest is refused, each unit with an outcome."""
    bench = make()
    bench.occupy()
    for at in range(5):
        bench.writer.submit(unit(record("s")), at)
    closer = threading.Thread(target=bench.writer.close, kwargs={"drain": False})
    closer.start()
    bench.plan.let_go()
    closer.join(PATIENCE_SECONDS)

    assert isinstance(bench.outcomes["occupied 1"], Committed)
    assert all(isinstance(bench.outcomes[at], Refused) for at in range(5))
    assert ["occupied"] == bench.streams()


def test_a_forked_child_may_not_submit(make: Make):
    """The thread doesn't exist in the child; it is told so, and may close without waiting for it."""
    bench = make()
    bench.writer._pid = -1
    with pytest.raises(ForkedStore):
        bench.writer.submit(unit(record("s")), 1)
    bench.writer.close()
    bench.writer._pid = os.getpid()

    bench.writer.submit(unit(record("s")), 2)
    bench.wait(2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_whose_thread_died_says_so(make: Make):
    """If handing back fails, which is our bug, further units are refused and closing returns."""
    bench = make()

    def broken(_: object) -> None:
        raise ZeroDivisionError

    bench.writer._on_commit = broken
    bench.writer.submit(unit(record("s")), 1)
    bench.writer._thread.join(PATIENCE_SECONDS)

    with pytest.raises(WriterFailed, match="ZeroDivisionError"):
        bench.writer.submit(unit(record("s")), 2)


def test_statistics_count_what_was_done(make: Make):
    """Commits, units, failures, and what waits now."""
    bench = make()
    bench.occupy()
    bench.writer.submit(unit(record("s", bytes(36))), 1)
    waiting = bench.writer.statistics()
    bench.plan.let_go()
    bench.wait(1)
    done = bench.writer.statistics()

    assert (0, 1, 100) == (waiting.commits, waiting.queue_units, waiting.queue_bytes)
    assert (2, 2, 0, 0, 0) == (done.commits, done.units, done.failures, done.queue_units, done.queue_bytes)
