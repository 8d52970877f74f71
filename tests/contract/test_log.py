"""
What every log does, asked of all of them.

Tests that pin an invariant carry its number; L6 is about what rows mean, so the engine's tests have it.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from polos.errors import PolosInternalError, PolosUsageError, StoreClosed, StoreFenced
from polos.store.chain import EMPTY_CHAIN
from polos.store.log import Epoch, Head, Key, Log, Position, Receipt, Version

from tests.contract.logs import LOGS, ON_DISK, lmdb_full, payloads, record, unit


@pytest.fixture(params=LOGS)
def log(request: pytest.FixtureRequest, tmp_path: Path):
    """Each log in turn, closed behind the test."""
    made = LOGS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def epoch(log: Log) -> Epoch:
    """The first epoch of that log."""
    return log.acquire()


def test_an_empty_log_has_a_head_at_zero(log: Log):
    """Position 0 stands before the first record, with an empty chain and no epoch."""
    with log.reader() as reader:
        assert Head(position=Position(0), chain=EMPTY_CHAIN, epoch=Epoch(0), time_us=0) == reader.head()
        assert [] == list(reader.records())
        assert [] == list(reader.stream("none"))
        assert [] == list(reader.rows())
        assert reader.version("none") == 0
        assert reader.row(("none",)) is None


def test_what_is_appended_is_read_back_whole(log: Log, epoch: Epoch):
    """Every field of a record survives, and so does every byte of its payload."""
    payload = bytes(range(256))
    log.append([unit(record("run/é\ud800", payload, type="Ünusual", time_us=-5))], epoch=epoch)

    with log.reader() as reader:
        (found,) = reader.records()
    assert ("run/é\ud800", 1, 1, "Ünusual", 1, -5, payload) == (
        found.stream, found.version, found.position, found.type, found.schema_version, found.time_us, found.payload,
    )  # fmt: skip


def test_l1_positions_are_contiguous_from_1(log: Log, epoch: Epoch):
    """L1: receipts and records count from 1 without a gap, over units and commits."""
    receipts = log.append([unit(record("a"), record("b")), unit(record("a"))], epoch=epoch)
    receipts += log.append([unit(record("c")), unit(rows={("r",): b""}), unit(record("c"))], epoch=epoch)

    assert [(1, 2), (3, 1), (4, 1), (5, 0), (5, 1)] == [(receipt.first, receipt.count) for receipt in receipts]
    with log.reader() as reader:
        assert [1, 2, 3, 4, 5] == [found.position for found in reader.records()]


def test_l2_versions_of_a_stream_are_contiguous_from_1(log: Log, epoch: Epoch):
    """L2: each stream counts for itself, however its records are interleaved."""
    for _ in range(3):
        log.append([unit(record("a"), record("b"), record("a")), unit(record("a"), record("a"))], epoch=epoch)

    with log.reader() as reader:
        assert list(range(1, 13)) == [found.version for found in reader.stream("a")]
        assert [1, 2, 3] == [found.version for found in reader.stream("b")]
        assert (12, 3, 0) == (reader.version("a"), reader.version("b"), reader.version("c"))


def test_l3_a_wrong_expected_version_fails_the_whole_group(log: Log, epoch: Epoch):
    """L3: one unit that doesn't match leaves nothing of any unit, rows included."""
    log.append([unit(record("a"), expected={"a": 0})], epoch=epoch)
    good = unit(record("b"), expected={"b": 0}, rows={("row",): b"1"})
    for wrong in (0, 2):
        with pytest.raises(PolosInternalError, match="L3"):
            log.append([good, unit(record("a"), expected={"a": wrong})], epoch=epoch)

    with log.reader() as reader:
        assert reader.head().position == 1
        assert reader.version("b") == 0
        assert reader.row(("row",)) is None
        assert [] == list(reader.stream("b"))
    assert [Receipt(first=Position(2), count=1)] == log.append([unit(record("a"), expected={"a": 1})], epoch=epoch)


def test_l3_a_wrong_expected_position_fails_the_whole_group(log: Log, epoch: Epoch):
    """L3: a unit that would stand somewhere else than it expects leaves nothing of any unit, rows included."""
    log.append([unit(record("a"), first=1)], epoch=epoch)
    good = unit(record("b"), record("b"), rows={("row",): b"1"}, first=2)
    for wrong in (0, 2, 3, 5):
        with pytest.raises(PolosInternalError, match="L3"):
            log.append([good, unit(record("a"), first=wrong)], epoch=epoch)

    with log.reader() as reader:
        assert reader.head().position == 1
        assert reader.row(("row",)) is None
        assert [] == list(reader.stream("b"))
    assert [2, 4] == [receipt.first for receipt in log.append([good, unit(record("a"), first=4)], epoch=epoch)]


def test_l3_a_version_may_be_expected_of_a_stream_that_is_only_read(log: Log, epoch: Epoch):
    """L3: an expectation counts even if the unit writes nothing to that stream."""
    with pytest.raises(PolosInternalError, match="L3"):
        log.append([unit(record("a"), expected={"other": 1})], epoch=epoch)


def test_l3_a_later_unit_sees_the_versions_of_an_earlier_one(log: Log, epoch: Epoch):
    """L3: within a group expectations are compared in order."""
    log.append([unit(record("a"), record("a")), unit(record("a"), expected={"a": 2})], epoch=epoch)
    with pytest.raises(PolosInternalError):
        log.append([unit(record("a")), unit(record("a"), expected={"a": 3})], epoch=epoch)


@pytest.mark.parametrize("kind", ON_DISK)
def test_l4_what_was_acknowledged_is_there_after_opening_again(kind: str, tmp_path: Path):
    """L4: the log found on disk is the log that was acknowledged."""
    log = LOGS[kind](tmp_path)
    log.append([unit(record("a", b"1"), rows={("r",): b"2"})], epoch=log.acquire())
    with log.reader() as reader:
        head = reader.head()
    log.close()

    again = LOGS[kind](tmp_path)
    with again.reader() as reader:
        assert head == reader.head()
        assert [b"1"] == payloads(list(reader.stream("a")))
        assert reader.row(("r",)) == b"2"
    again.close()


def test_l5_a_reader_sees_a_prefix_and_no_more(log: Log, epoch: Epoch):
    """L5: what is committed while a reader is open is not in its view, nor in its rows."""
    log.append([unit(record("a", b"1"), rows={("r", 1): b"old", ("r", 2): b"gone soon"})], epoch=epoch)
    with log.reader() as reader:
        log.append([unit(record("a", b"2"), rows={("r", 1): b"new", ("r", 2): None, ("r", 3): b"new"})], epoch=epoch)
        assert reader.head().position == 1
        assert [b"1"] == payloads(list(reader.records()))
        assert [b"1"] == payloads(list(reader.stream("a")))
        assert reader.version("a") == 1
        assert [(("r", 1), b"old"), (("r", 2), b"gone soon")] == list(reader.rows())
    with log.reader() as reader:
        assert [(("r", 1), b"new"), (("r", 3), b"new")] == list(reader.rows())


def test_l5_readers_in_other_threads_always_see_a_prefix(log: Log, epoch: Epoch):
    """L5: while one thread appends, others find records and rows that agree with each other."""
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with log.reader() as reader:
                count = reader.head().position
                seen = [found.position for found in reader.records()]
                row = reader.row(("count",))
                if seen != list(range(1, count + 1)) or int(row or b"0") != count:
                    wrong.append(f"{count} {seen} {row!r}")

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for at in range(1, 61):
        log.append([unit(record(f"s{at % 3}"), rows={("count",): b"%d" % at})], epoch=epoch)
    over.set()
    for thread in threads:
        thread.join()

    assert [] == wrong


def test_l7_an_old_epoch_is_refused(log: Log, epoch: Epoch):
    """L7: once the next epoch is taken, nothing under the old one is written, whatever it is."""
    newer = log.acquire()
    for old in (epoch, Epoch(0), Epoch(newer + 1)):
        with pytest.raises(StoreFenced, match="L7"):
            log.append([unit(record("a"))], epoch=old)

    log.append([unit(record("a"))], epoch=newer)
    with log.reader() as reader:
        assert (1, newer) == (reader.head().position, reader.head().epoch)


def test_l8_the_chain_follows_from_the_headers_alone(log: Log, epoch: Epoch):
    """L8: heads depend on every record and on nothing else: the same records give the same head."""
    heads = []
    for at in range(5):
        log.append([unit(record("a", b"%d" % at))], epoch=epoch)
        with log.reader() as reader:
            heads.append(reader.head().chain)
    assert len(set(heads)) == 5

    other = LOGS["memory"](Path())
    again = other.acquire()
    other.append([unit(*(record("a", b"%d" % at) for at in range(5)))], epoch=again)
    with other.reader() as reader:
        assert heads[-1] == reader.head().chain


def test_l8_the_head_is_the_documented_hash(log: Log, epoch: Epoch):
    """L8: docs/format.md is enough to compute a head; this does it with nothing of ours."""
    log.append([unit(record("run", b"payload", type="T", time_us=7))], epoch=epoch)

    header = (
        b"\x01\x00" + (1).to_bytes(2) + (0).to_bytes(4) + (1).to_bytes(8) + (1).to_bytes(8) + (7).to_bytes(8)
        + (7).to_bytes(4) + hashlib.sha256(b"payload").digest() + (0).to_bytes(2) + (1).to_bytes(2) + (3).to_bytes(2)
        + b"T" + b"run"
    )  # fmt: skip
    leaf = hashlib.sha256(b"\x00" + header).digest()
    with log.reader() as reader:
        assert hashlib.sha256(b"\x02" + bytes(32) + leaf).digest() == reader.head().chain


def test_records_are_read_from_any_position(log: Log, epoch: Epoch):
    """`after` and `limit` cut at the right places, also inside a unit and behind the end."""
    log.append([unit(*(record("a", b"%d" % at) for at in range(1, 8)))], epoch=epoch)
    with log.reader() as reader:
        assert [b"4", b"5"] == payloads(list(reader.records(after=Position(3), limit=2)))
        assert [b"7"] == payloads(list(reader.records(after=Position(6))))
        assert [] == list(reader.records(after=Position(7)))
        assert [] == list(reader.records(after=Position(99)))
        assert [] == list(reader.records(limit=0))


@pytest.mark.parametrize("after", range(11))
def test_a_stream_is_read_from_any_version_both_ways(log: Log, epoch: Epoch, after: int):
    """A stream that is spread over runs of several lengths is cut at every version, both ways."""
    log.append([unit(record("s", b"1"), record("s", b"2"), record("s", b"3"))], epoch=epoch)
    log.append([unit(record("s", b"4"), record("t"), record("s", b"5"), record("s", b"6"))], epoch=epoch)
    log.append([unit(record("s2")), unit(record("s", b"7")), unit(record("s", b"8"), record("s", b"9"))], epoch=epoch)
    wanted = [b"%d" % at for at in range(after + 1, 10)]

    with log.reader() as reader:
        assert wanted == payloads(list(reader.stream("s", after=Version(after))))
        assert wanted[::-1] == payloads(list(reader.stream("s", after=Version(after), reverse=True)))
        assert wanted[:2] == payloads(list(reader.stream("s", after=Version(after), limit=2)))
        assert wanted[::-1][:2] == payloads(list(reader.stream("s", after=Version(after), limit=2, reverse=True)))


def test_streams_whose_names_start_alike_stay_apart(log: Log, epoch: Epoch):
    """Names that are prefixes of each other, hold NUL or are very long are different streams."""
    names = ["a", "a\x00", "a\x00b", "aa", "a" * 200, "a" * 201, "a" * 202, "a" * 400, "\x01", "\x00", "é" * 150]
    log.append([unit(record(name, name.encode())) for name in names for _ in range(2)], epoch=epoch)

    with log.reader() as reader:
        for name in names:
            assert [name.encode()] * 2 == payloads(list(reader.stream(name)))
            assert reader.version(name) == 2


def test_rows_come_in_order_of_key(log: Log, epoch: Epoch):
    """Integers sort by value, strings by code point, shorter keys before longer ones."""
    keys: list[Key] = [
        ("",), ("", 0), ("a",), ("a", 1), ("a", 2), ("a", 256), ("a", 2**63 - 1), ("a", "b"), ("a\x00",),
        ("a\x01",), ("aa",), ("b",), ("\uffff",), ("\U0001f600",),
    ]  # fmt: skip
    log.append([unit(rows={key: repr(key).encode() for key in reversed(keys)})], epoch=epoch)

    with log.reader() as reader:
        assert keys == [key for key, _ in reader.rows()]
        assert keys[::-1] == [key for key, _ in reader.rows(reverse=True)]
        assert all(value == repr(key).encode() for key, value in reader.rows())


def test_rows_are_cut_by_prefix_after_and_limit(log: Log, epoch: Epoch):
    """A prefix is a prefix of parts, and `after` is strictly behind in the direction of reading."""
    kept = {("a", at): b"%d" % at for at in range(5)} | {("a",): b"self", ("ab", 1): b"", ("b",): b""}
    log.append([unit(rows=dict(kept))], epoch=epoch)

    def keys(**how: object) -> list[Key]:
        with log.reader() as reader:
            return [key for key, _ in reader.rows(("a",), **how)]  # type: ignore[arg-type]  # a table of arguments

    assert [("a",), ("a", 0), ("a", 1), ("a", 2), ("a", 3), ("a", 4)] == keys()
    assert [("a", 3), ("a", 4)] == keys(after=("a", 2))
    assert [("a", 1), ("a", 0), ("a",)] == keys(after=("a", 2), reverse=True)
    assert [("a", 4), ("a", 3)] == keys(limit=2, reverse=True)
    assert [] == keys(after=("b",))
    assert [("a",)] == keys(after=("Z",), limit=1)
    assert [("a", 4)] == keys(after=("z",), limit=1, reverse=True)


def test_a_key_with_a_very_long_string_is_given_back_whole(log: Log, epoch: Epoch):
    """What is cut in the key isn't cut for the caller."""
    long = ("topic", "x" * 1000, 3)
    other = ("topic", "x" * 1001, 3)
    log.append([unit(rows={long: b"1", other: b"2"})], epoch=epoch)

    with log.reader() as reader:
        assert {long: b"1", other: b"2"} == dict(reader.rows(("topic",)))
        assert [(long, b"1")] == list(reader.rows(("topic", "x" * 1000)))
        assert reader.row(other) == b"2"


def test_within_a_group_the_last_change_of_a_row_counts(log: Log, epoch: Epoch):
    """Changes are applied in order: put and delete, delete and put, delete of nothing."""
    first = unit(record("a"), rows={("x",): b"1", ("y",): b"1", ("z",): None})
    log.append([first, unit(rows={("x",): None}), unit(rows={("x",): b"2", ("y",): None})], epoch=epoch)

    with log.reader() as reader:
        assert [(("x",), b"2")] == list(reader.rows())


@pytest.mark.parametrize("key", [("x" * 200, "y" * 200, "z" * 200), (-1,), (2**63,), ()])
def test_a_key_that_does_not_fit_is_refused_and_nothing_is_written(log: Log, epoch: Epoch, key: Key):
    """A key over its limits is the caller's mistake; the group leaves no trace."""
    with pytest.raises(PolosUsageError):
        log.append([unit(record("a"), rows={key: b""})], epoch=epoch)
    with log.reader() as reader:
        assert reader.head().position == 0


def test_an_empty_group_changes_nothing(log: Log, epoch: Epoch):
    """Appending nothing is fine, and still fenced."""
    assert [] == log.append([], epoch=epoch)
    log.acquire()
    with pytest.raises(StoreFenced):
        log.append([], epoch=epoch)


def test_a_subscriber_hears_of_each_commit_until_it_stops(log: Log, epoch: Epoch):
    """The callback gets the position behind the commit, and the commit can be read by then."""
    heard: list[tuple[int, int]] = []

    def callback(position: Position) -> None:
        with log.reader() as reader:
            heard.append((position, reader.head().position))

    stop = log.subscribe(callback)
    log.append([unit(record("a"), record("a"))], epoch=epoch)
    log.append([unit(record("a"))], epoch=epoch)
    stop()
    stop()
    log.append([unit(record("a"))], epoch=epoch)

    assert [(2, 2), (3, 3)] == heard


def test_a_reader_is_of_no_use_behind_its_with(log: Log, epoch: Epoch):
    """A reader or an iterator that outlives its `with` says so instead of reading something else."""
    log.append([unit(record("a"), record("a"), rows={("r", 1): b"", ("r", 2): b""})], epoch=epoch)
    with log.reader() as reader:
        records, stream, rows = reader.records(), reader.stream("a"), reader.rows()
        next(records)
        next(stream)
        next(rows)
    for late in (records, stream, rows, reader.records(), reader.rows()):
        with pytest.raises(StoreClosed):
            next(late)
    with pytest.raises(StoreClosed):
        reader.head()


def test_a_closed_log_refuses_everything(log: Log, epoch: Epoch):
    """After `close`, which may be called twice, each method raises `StoreClosed`."""
    log.close()
    log.close()
    with pytest.raises(StoreClosed), log.reader():
        pass
    with pytest.raises(StoreClosed):
        log.append([unit(record("a"))], epoch=epoch)
    with pytest.raises(StoreClosed):
        log.acquire()
    with pytest.raises(StoreClosed):
        log.reopen()


def test_reopening_gives_the_head_and_keeps_the_epoch(log: Log, epoch: Epoch):
    """After `reopen` the same owner appends on."""
    log.append([unit(record("a"))], epoch=epoch)
    head = log.reopen()
    log.append([unit(record("a"), expected={"a": 1})], epoch=epoch)

    assert (1, epoch) == (head.position, head.epoch)
    with log.reader() as reader:
        assert reader.head().position == 2


def test_many_readers_are_open_at_once(log: Log, epoch: Epoch):
    """Readers nest, each with the view of its own moment."""
    with log.reader() as none:
        log.append([unit(record("a"))], epoch=epoch)
        with log.reader() as one:
            log.append([unit(record("a"))], epoch=epoch)
            with log.reader() as two:
                assert [0, 1, 2] == [reader.head().position for reader in (none, one, two)]
                assert [0, 1, 2] == [len(list(reader.stream("a"))) for reader in (none, one, two)]


def test_a_long_history_is_read_in_order(tmp_path: Path):
    """Ten thousand records over a hundred streams come back in order, by position and by stream."""
    log = lmdb_full(tmp_path)
    epoch = log.acquire()
    for start in range(0, 10_000, 500):
        log.append([unit(record(f"s{at % 100}", b"%d" % at)) for at in range(start, start + 500)], epoch=epoch)

    with log.reader() as reader:
        assert [b"%d" % at for at in range(10_000)] == payloads(list(reader.records()))
        assert [b"%d" % at for at in range(7, 10_000, 100)] == payloads(list(reader.stream("s7")))
    log.close()


def rows_of(log: Log) -> tuple[int, dict[Key, bytes]]:
    """Give all rows of a log, and which projections they come from."""
    with log.reader() as reader:
        return reader.rows_version(), dict(reader.rows())


def test_rows_are_replaced_all_at_once(log: Log, epoch: Epoch):
    """What isn't among the new rows goes, what is comes, and the log knows whose rows they are; records stay."""
    long = "x" * 300
    log.append(
        [unit(record("a"), rows={("old",): b"1", ("kept",): b"2", ("other",): b"3", (long,): b"4"})], epoch=epoch
    )
    before = rows_of(log)
    wanted: dict[Key, bytes] = {("kept",): b"2", ("other",): b"changed", ("new", 1): b"5", (long,): b"4"}
    changed = log.replace_rows(wanted, version=7, at=Position(1), epoch=epoch)

    assert 0 == before[0]
    assert (3, (7, wanted)) == (changed, rows_of(log))
    with log.reader() as reader:
        assert 1 == reader.head().position
    assert 0 == log.replace_rows(wanted, version=8, at=Position(1), epoch=epoch)
    assert (8, wanted) == rows_of(log)


def test_a_reader_sees_the_rows_of_before(log: Log, epoch: Epoch):
    """Whoever is reading while rows are replaced sees the old ones and the old number to the end."""
    log.append([unit(record("a"), rows={("old",): b"1"})], epoch=epoch)
    with log.reader() as reader:
        first = reader.rows_version()
        log.replace_rows({("new",): b"2"}, version=1, at=Position(1), epoch=epoch)
        seen = (first, reader.rows_version(), dict(reader.rows()))

    assert (0, 0, {("old",): b"1"}) == seen
    assert (1, {("new",): b"2"}) == rows_of(log)


def test_l7_rows_are_replaced_by_the_owner_alone(log: Log, epoch: Epoch):
    """L7: an old epoch replaces nothing, nor does who hasn't seen the end of the log."""
    log.append([unit(record("a"), rows={("old",): b"1"})], epoch=epoch)
    newer = log.acquire()
    with pytest.raises(StoreFenced, match="L7"):
        log.replace_rows({}, version=1, at=Position(1), epoch=epoch)
    with pytest.raises(PolosInternalError, match="L6"):
        log.replace_rows({}, version=1, at=Position(0), epoch=newer)

    assert (0, {("old",): b"1"}) == rows_of(log)


def test_rows_go_on_from_those_that_were_put_in_place(log: Log, epoch: Epoch):
    """Appends change the new rows like any others."""
    log.append([unit(record("a"), rows={("old",): b"1"})], epoch=epoch)
    log.replace_rows({("a",): b"1", ("b",): b"2"}, version=1, at=Position(1), epoch=epoch)
    log.append([unit(record("a"), rows={("a",): None, ("b",): b"3"})], epoch=epoch)

    assert (1, {("b",): b"3"}) == rows_of(log)
