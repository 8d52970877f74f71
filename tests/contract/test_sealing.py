"""
What every log does when records leave it: the chain, versions and positions stay, the records don't.

Tests that pin an invariant carry its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polos.errors import PolosInternalError, RecordsSealed, StoreClosed, StoreDamaged, StoreFenced
from polos.store.chain import RANGE_RECORDS_MAX, check_range, decode_entry, entry_head, is_range
from polos.store.keys import encode_key
from polos.store.layout import position_key, read_position
from polos.store.lmdb_log import LmdbLog
from polos.store.log import AppendUnit, Epoch, Log, NewRecord, Position, Version
from polos.store.memory import MemoryLog
from polos.store.mirror import Mirror
from polos.store.reader import EntryReader

from tests.contract.logs import LOGS, lmdb_full, memory, record, unit


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


def entries(log: Log) -> list[tuple[int, bytes]]:
    """Give the entries of a log, of a mirror's first."""
    inner: Any = log.first if isinstance(log, Mirror) else log
    with inner.reader() as reader:
        assert isinstance(reader, EntryReader)
        return [(read_position(key), entry) for key, entry in reader.tables.scan("log")]


def chain(log: Log) -> tuple[bytes, list[int]]:
    """Walk the whole chain, leaves included; gives the head, and the positions that are records."""
    head, records, expected = bytes(32), list[int](), 1
    for position, entry in entries(log):
        if is_range(entry):
            check_range(entry, position, head)
        else:
            assert expected == position
            decode_entry(entry, position, head)
            records.append(position)
        head, expected = entry_head(entry, position), position + 1
    return head, records


def fill(log: Log, epoch: Epoch, streams: str) -> None:
    """Append one record a letter, to the stream of that name."""
    log.append([unit(record(stream, stream.encode())) for stream in streams], epoch=epoch)


def test_l8_the_chain_goes_through_what_was_sealed(log: Log, epoch: Epoch):
    """L8: the head is the one it was, and each link can be computed, wherever the sealed records lay."""
    fill(log, epoch, "abacabadabacaba.")
    with log.reader() as reader:
        before = reader.head()
    for streams in ({"b": Version(2)}, {"a": Version(8), "c": Version(2)}, {"b": Version(4), "d": Version(1)}):
        log.seal(streams, epoch=epoch)

        with log.reader() as reader:
            assert before == reader.head()
        assert before.chain == chain(log)[0]
    assert [16] == chain(log)[1]


def test_l1_positions_go_on_and_are_passed_over(log: Log, epoch: Epoch):
    """L1: what is left stands where it stood, what is appended stands behind, and a gap is a sealed range."""
    fill(log, epoch, "abababb")
    assert 3 == log.seal({"a": Version(3)}, epoch=epoch)
    fill(log, epoch, "c")

    with log.reader() as reader:
        assert [2, 4, 6, 7, 8] == [found.position for found in reader.records()]
        assert [2, 4] == [found.position for found in reader.records(limit=2)]
        for after in range(9):
            wanted = [position for position in (2, 4, 6, 7, 8) if position > after]
            assert wanted == [found.position for found in reader.records(after=Position(after))]


def test_l2_a_sealed_stream_keeps_its_version(log: Log, epoch: Epoch):
    """L2: nobody begins a sealed stream anew; it goes on behind its last version."""
    fill(log, epoch, "aaab")
    log.seal({"a": Version(3)}, epoch=epoch)

    with log.reader() as reader:
        assert reader.version("a") == 3
    with pytest.raises(PolosInternalError, match="L3"):
        log.append([AppendUnit(records=(record("a"),), expected={"a": Version(0)})], epoch=epoch)
    log.append([AppendUnit(records=(record("a"),), expected={"a": Version(3)})], epoch=epoch)
    with log.reader() as reader:
        assert [4] == [found.version for found in reader.stream("a", after=Version(3))]


def test_sealed_versions_are_not_silently_missing(log: Log, epoch: Epoch):
    """Whoever reads a stream from within what was sealed is told so, both ways, and behind it reads on."""
    fill(log, epoch, "aaaaab")
    log.seal({"a": Version(3)}, epoch=epoch)

    with log.reader() as reader:
        for after in range(3):
            with pytest.raises(RecordsSealed, match="versions 1 to 3 of stream a"):
                list(reader.stream("a", after=Version(after)))
        assert [4, 5] == [found.version for found in reader.stream("a", after=Version(3))]
        assert [5, 4] == [found.version for found in reader.stream("a", after=Version(3), reverse=True)]
        assert [5, 4] == [found.version for found in reader.stream("a", reverse=True, limit=2)]
        with pytest.raises(RecordsSealed):
            list(reader.stream("a", reverse=True))


def test_sealing_again_changes_nothing(log: Log, epoch: Epoch):
    """What is sealed stays sealed; only what is new in a request is done."""
    fill(log, epoch, "abababc")
    assert 2 == log.seal({"a": Version(2)}, epoch=epoch)
    before = entries(log)

    assert 0 == log.seal({"a": Version(2)}, epoch=epoch)
    assert 0 == log.seal({"a": Version(1)}, epoch=epoch)
    assert 0 == log.seal({}, epoch=epoch)
    assert before == entries(log)
    assert 1 == log.seal({"a": Version(3)}, epoch=epoch)


def test_neighbours_lie_together(log: Log, epoch: Epoch):
    """However they came to be sealed, neighbours become one entry, up to a limit."""
    count = 2 * RANGE_RECORDS_MAX + 10
    fill(log, epoch, "ab" * (count // 2) + ".")
    for upto in range(1, count // 2 + 1, 100):
        log.seal({"b": Version(upto)}, epoch=epoch)
    log.seal({"b": Version(count // 2)}, epoch=epoch)
    assert count + 1 == len(entries(log))
    log.seal({"a": Version(count // 2)}, epoch=epoch)

    kept = entries(log)
    assert len(kept) <= 2 * (count // RANGE_RECORDS_MAX + 1)
    assert all((len(entry) - 41) // 32 <= RANGE_RECORDS_MAX for _, entry in kept[:-1])
    assert [count + 1] == chain(log)[1]


def test_the_last_record_stays(log: Log, epoch: Epoch):
    """Whatever seals must stand behind what it seals, so the end of the log is a record."""
    fill(log, epoch, "ab")

    with pytest.raises(PolosInternalError, match="the last of the log"):
        log.seal({"b": Version(1)}, epoch=epoch)
    assert [1, 2] == chain(log)[1]


def test_more_than_there_is_is_not_sealed(log: Log, epoch: Epoch):
    """A stream is sealed up to a version that it has, or nothing is done."""
    fill(log, epoch, "aab")

    for stream in ("a", "none"):
        with pytest.raises(PolosInternalError, match="versions"):
            log.seal({"b": Version(0), stream: Version(3)}, epoch=epoch)
    assert [1, 2, 3] == chain(log)[1]


def test_l7_an_old_epoch_seals_nothing(log: Log, epoch: Epoch):
    """L7: only the owner takes records out."""
    fill(log, epoch, "ab")
    log.acquire()

    with pytest.raises(StoreFenced):
        log.seal({"a": Version(1)}, epoch=epoch)
    assert [1, 2] == chain(log)[1]


def test_l5_a_reader_sees_what_it_saw(log: Log, epoch: Epoch):
    """L5: a view that was opened before has the records still."""
    fill(log, epoch, "abab.")
    with log.reader() as reader:
        log.seal({"a": Version(2), "b": Version(2)}, epoch=epoch)

        assert [1, 2, 3, 4, 5] == [found.position for found in reader.records()]
        assert [1, 2] == [found.version for found in reader.stream("a")]
    with log.reader() as reader:
        assert [5] == [found.position for found in reader.records()]


def test_blobs_of_sealed_records_are_not_needed(log: Log, epoch: Epoch):
    """What only a sealed record named is garbage; what others name stays."""
    shared, own = "ab" * 32, "cd" * 32
    named = [
        NewRecord(stream=stream, type="T", schema_version=1, time_us=1, payload=b"", blobs=blobs)
        for stream, blobs in (("a", (shared, own)), ("b", (shared,)))
    ]
    log.append([AppendUnit(records=tuple(named))], epoch=epoch)
    log.seal({"a": Version(1)}, epoch=epoch)

    with log.reader() as reader:
        assert [(2, (shared,))] == list(reader.blobs())


def test_a_closed_log_seals_nothing(log: Log, epoch: Epoch):
    """It says so."""
    log.close()

    with pytest.raises(StoreClosed):
        log.seal({}, epoch=epoch)


def test_l4_what_was_sealed_is_sealed_after_opening_again(tmp_path: Path):
    """L4: one commit, durable when it returns."""
    log = lmdb_full(tmp_path)
    epoch = log.acquire()
    fill(log, epoch, "abab.")
    log.seal({"a": Version(2)}, epoch=epoch)
    before = entries(log)
    log.close()

    again = lmdb_full(tmp_path)
    assert before == entries(again)
    again.close()


def damaged(log: Log, table: Any, key: bytes, change: Any) -> None:
    """Change an entry below everything that would notice."""
    assert isinstance(log, MemoryLog)
    kept = log._tables[table]
    kept.put(key, change(kept.values[key]))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry[:-1],
        lambda entry: entry[:40],
        lambda entry: entry[:33] + bytes(8) + entry[41:],
        lambda entry: entry[:33] + (3).to_bytes(8, "big") + entry[41:],
    ],
    ids=["a leaf is cut", "all is cut", "from zero", "from later"],
)
def test_a_range_without_its_leaves_is_damage(change: Any, tmp_path: Path):
    """Each archived position has a leaf, or it is said that it hasn't (L1)."""
    log = memory(tmp_path)
    epoch = log.acquire()
    fill(log, epoch, "aaab")
    log.seal({"a": Version(3)}, epoch=epoch)
    damaged(log, "log", position_key(3), change)

    with log.reader() as reader, pytest.raises(StoreDamaged):
        list(reader.records())


def test_a_changed_leaf_is_damage(tmp_path: Path):
    """L8: the chain doesn't go through it."""
    log = memory(tmp_path)
    epoch = log.acquire()
    fill(log, epoch, "aaab")
    log.seal({"a": Version(3)}, epoch=epoch)
    damaged(log, "log", position_key(3), lambda entry: entry[:50] + bytes([entry[50] ^ 1]) + entry[51:])

    with pytest.raises(StoreDamaged, match="sealed range of records 1 to 3 doesn't follow"):
        chain(log)


def test_damage_is_not_sealed_away(tmp_path: Path):
    """A record that isn't what was written stays, to be found."""
    log = memory(tmp_path)
    epoch = log.acquire()
    fill(log, epoch, "aab")
    damaged(log, "log", position_key(2), lambda entry: entry[:60] + bytes([entry[60] ^ 1]) + entry[61:])
    before = entries(log)

    with pytest.raises(StoreDamaged, match="record 2"):
        log.seal({"a": Version(2)}, epoch=epoch)
    assert before == entries(log)


def test_a_missing_record_is_not_sealed_over(tmp_path: Path):
    """A record that the index knows and the log doesn't have is damage."""
    log = memory(tmp_path)
    epoch = log.acquire()
    fill(log, epoch, "aaab")
    log._tables["log"].delete(position_key(2))  # type: ignore[attr-defined]

    with pytest.raises(StoreDamaged):
        log.seal({"a": Version(3)}, epoch=epoch)


def test_a_log_that_ends_with_a_range_is_damaged(tmp_path: Path):
    """What seals stands behind; without it the end of the log is lost."""
    log = memory(tmp_path)
    epoch = log.acquire()
    fill(log, epoch, "aab")
    log.seal({"a": Version(2)}, epoch=epoch)
    log._tables["log"].delete(position_key(3))  # type: ignore[attr-defined]

    with log.reader() as reader, pytest.raises(StoreDamaged, match="ends with a sealed range"):
        reader.head()


def test_pages_are_used_again(tmp_path: Path):
    """What leaves makes room: appending and sealing for ever takes no more pages than a while of it."""
    log = lmdb_full(tmp_path)
    assert isinstance(log, LmdbLog)
    epoch = log.acquire()
    used: list[int] = []
    for number in range(60):
        fills(log, epoch, f"s{number}", 40)
        log.seal({f"s{number}": Version(40)}, epoch=epoch)
        used.append(log.statistics().used_bytes)
    log.close()

    payloads = 40 * 4_000
    assert used[59] - used[9] < 5 * payloads, "50 times as much was written"


def fills(log: Log, epoch: Epoch, stream: str, count: int) -> None:
    """Append large records to a stream, and one behind them."""
    log.append([unit(*(record(stream, bytes(4_000)) for _ in range(count)), record("end"))], epoch=epoch)


def test_the_sealed_part_of_a_stream_costs_one_entry(log: Log, epoch: Epoch):
    """Of the index of a sealed stream one run stays, however many there were."""
    fill(log, epoch, "abababab.")
    log.seal({"a": Version(3), "b": Version(4)}, epoch=epoch)

    assert [("a", 1, 0, 3), ("a", 4, 7, 1), ("b", 1, 0, 4)] == list(runs(log, "a", "b"))


def runs(log: Log, *streams: str) -> Iterator[tuple[str, int, int, int]]:
    """Give the runs of streams in the index."""
    inner: Any = log.first if isinstance(log, Mirror) else log
    with inner.reader() as reader:
        for stream in streams:
            low = encode_key((stream,))
            for key, value in reader.tables.scan("streams", low, low + b"\x03"):
                position, count = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
                yield stream, int.from_bytes(key[-8:], "big"), position, count
