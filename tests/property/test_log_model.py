"""
The logs against a model that is too simple to be wrong: a list of records and a dict of rows.

The machine appends groups with right and wrong expectations, takes epochs, uses old ones, opens the log again
and compares every way of reading after every step. It drives a `Mirror`, so a difference between memory and LMDB
would end it as well. The tests behind it hold what one generated input at a time can show.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from polos.errors import PolosInternalError, RecordsSealed, StoreDamaged, StoreFenced
from polos.store import sealing
from polos.store.chain import EMPTY_CHAIN, check_range, decode_entry, decode_range, encode_entry, is_range
from polos.store.keys import decode_key, encode_key, is_lossy, pack_key
from polos.store.layout import read_position
from polos.store.lmdb_log import LmdbLog
from polos.store.log import (
    AppendUnit,
    Epoch,
    Key,
    NewRecord,
    PayloadEncoding,
    Position,
    Reader,
    Receipt,
    Record,
    Version,
)
from polos.store.memory import MemoryLog
from polos.store.mirror import Mirror

from tests.campaign import scaled

STREAMS = st.sampled_from(["a", "b", "a\x00", "long" * 60, "é"])
KEYS: st.SearchStrategy[Key] = (
    st.lists(
        st.one_of(
            st.sampled_from(["a", "b", "a\x00", "\x01", "", "x" * 300, "x" * 301]), st.sampled_from([0, 1, 2**63 - 1])
        ),
        min_size=1,
        max_size=3,
    )
    .map(tuple)
    .filter(lambda key: sum(len(part) >= 300 for part in key if isinstance(part, str)) < 3)
)  # they fit
ROWS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=8)), max_size=3).map(tuple)
RECORDS = st.lists(
    st.builds(
        NewRecord,
        stream=STREAMS,
        type=st.sampled_from(["One", "Other"]),
        schema_version=st.integers(1, 3),
        time_us=st.integers(-(2**40), 2**60),
        payload=st.binary(max_size=20),
        blobs=st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=2).map(tuple),
    ),
    max_size=5,
).map(tuple)


class LogMachine(RuleBasedStateMachine):
    """Everything a log can be asked, in any order."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.memory = MemoryLog()
        self.log = Mirror(self.memory, self.open())
        self.epoch = Epoch(0)
        self.records: list[Record] = []
        self.rows: dict[Key, bytes] = {}
        self.heads: list[bytes] = [EMPTY_CHAIN]
        self.views: list[tuple[Reader, list[Record], int, dict[Key, bytes]]] = []
        self.small_ranges = patch.object(sealing, "RANGE_RECORDS_MAX", 3)
        self.small_ranges.start()
        self.sealed: dict[str, int] = {}  # stream → up to which version its records left the log
        self.open_views = ExitStack()

    def open(self) -> LmdbLog:
        return LmdbLog(self.path, map_bytes=16 << 20, sync=False)

    def version(self, stream: str) -> int:
        return sum(found.stream == stream for found in self.records)

    def left(self) -> list[Record]:
        """Give the records that are in the log still."""
        return [found for found in self.records if found.version > self.sealed.get(found.stream, 0)]

    @rule()
    def acquire(self) -> None:
        """L7: epochs count up."""
        self.epoch = Epoch(self.epoch + 1)
        assert self.epoch == self.log.acquire()

    @precondition(lambda self: self.epoch > 0)
    @rule(units=st.lists(st.tuples(RECORDS, ROWS, st.booleans()), max_size=4))
    def append(self, units: list[tuple[tuple[NewRecord, ...], tuple[tuple[Key, bytes | None], ...], bool]]) -> None:
        """L1, L2, L3: what is appended stands where it should, all of it."""
        group: list[AppendUnit] = []
        receipts: list[Receipt] = []
        for records, rows, expecting in units:
            expected = {item.stream: Version(self.version(item.stream)) for item in records} if expecting else {}
            group.append(AppendUnit(records=records, expected=expected, rows=rows))
            receipts.append(Receipt(first=Position(len(self.records) + 1), count=len(records)))
            for item in records:
                self.add(item)
            for key, value in rows:
                if value is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = value
        assert receipts == self.log.append(group, epoch=self.epoch)
        if any(unit.records for unit in group):
            self.heads.append(self.head_of(self.log))

    def add(self, item: NewRecord) -> None:
        self.records.append(
            Record(
                position=Position(len(self.records) + 1),
                stream=item.stream,
                version=Version(self.version(item.stream) + 1),
                type=item.type,
                schema_version=item.schema_version,
                time_us=item.time_us,
                payload=item.payload,
                blobs=item.blobs,
            )
        )

    @staticmethod
    def head_of(log: Mirror) -> bytes:
        with log.reader() as reader:
            return reader.head().chain

    @precondition(lambda self: self.epoch > 0)
    @rule(good=RECORDS, rows=ROWS, stream=STREAMS, off=st.sampled_from([-1, 1, 5]))
    def l3_a_wrong_version_leaves_nothing(
        self, good: tuple[NewRecord, ...], rows: tuple[tuple[Key, bytes | None], ...], stream: str, off: int
    ) -> None:
        """L3: a group with one wrong expectation, behind a right unit, changes nothing."""
        counted = sum(item.stream == stream for item in good) + self.version(stream)
        wrong = AppendUnit(records=good, expected={stream: Version(max(counted + off, counted and 0))}, rows=rows)
        if wrong.expected[stream] == counted:
            return
        with pytest.raises(PolosInternalError, match="L3"):
            self.log.append([AppendUnit(records=good, rows=rows), wrong], epoch=self.epoch)

    @precondition(lambda self: self.epoch > 0)
    @rule(records=RECORDS, rows=ROWS, back=st.integers(1, 3))
    def l7_an_old_epoch_leaves_nothing(
        self, records: tuple[NewRecord, ...], rows: tuple[tuple[Key, bytes | None], ...], back: int
    ) -> None:
        """L7: under an epoch that isn't the newest nothing is written."""
        with pytest.raises(StoreFenced):
            self.log.append([AppendUnit(records=records, rows=rows)], epoch=Epoch(self.epoch - back))

    @precondition(lambda self: self.records)
    @rule(streams=st.dictionaries(STREAMS, st.integers(0, 8), max_size=4))
    def seal(self, streams: dict[str, int]) -> None:
        """L1, L2, L8: what is sealed leaves, and nothing else changes; the invariants look."""
        last = self.records[-1]
        upto = {
            stream: Version(min(version, self.version(stream) - (stream == last.stream)))
            for stream, version in streams.items()
        }
        before = len(self.left())
        for stream, version in upto.items():
            self.sealed[stream] = max(self.sealed.get(stream, 0), version)
        assert before - len(self.left()) == self.log.seal(upto, epoch=self.epoch)

    @precondition(lambda self: self.records)
    @rule(stream=STREAMS, more=st.integers(1, 3))
    def l3_too_much_is_not_sealed(self, stream: str, more: int) -> None:
        """A stream that isn't that long, or has the last record, leaves everything as it is."""
        last = self.records[-1]
        with pytest.raises(PolosInternalError):
            self.log.seal({stream: Version(self.version(stream) + more)}, epoch=self.epoch)
        with pytest.raises(PolosInternalError):
            self.log.seal({last.stream: last.version}, epoch=self.epoch)

    @rule()
    def l5_keep_a_view(self) -> None:
        """L5: a view that is kept open stays what it was; `l5_views_stay` looks."""
        if len(self.views) < 3:
            reader = self.open_views.enter_context(self.log.reader())
            self.views.append((reader, self.left(), len(self.records), dict(self.rows)))

    @rule()
    def close_views(self) -> None:
        self.open_views.close()
        self.views.clear()

    @rule()
    def l4_open_again(self) -> None:
        """L4: closed and opened, as after a crash, the log is the same."""
        self.close_views()
        self.log.second.close()
        self.memory = self.memory.copy()
        self.log = Mirror(self.memory, self.open())

    @rule()
    def reopen(self) -> None:
        self.close_views()
        assert len(self.records) == self.log.reopen().position

    @rule(after=st.integers(0, 12), limit=st.none() | st.integers(0, 4), stream=STREAMS, reverse=st.booleans())
    def read(self, after: int, limit: int | None, stream: str, reverse: bool) -> None:
        """Any cut of log and stream is the model's."""
        with self.log.reader() as reader:
            left = [found for found in self.left() if found.position > after]
            assert left[:limit] == list(reader.records(after=Position(after), limit=limit))
            own = [found for found in self.records if found.stream == stream][after:]
            own = (own[::-1] if reverse else own)[:limit]
            wanted = reader.stream(stream, after=Version(after), limit=limit, reverse=reverse)
            if all(found.version > self.sealed.get(stream, 0) for found in own):
                assert own == list(wanted)
            else:
                with pytest.raises(RecordsSealed):
                    list(wanted)

    @rule(prefix=KEYS | st.just(()), after=st.none() | KEYS, limit=st.none() | st.integers(0, 3), reverse=st.booleans())
    def read_rows(self, prefix: Key, after: Key | None, limit: int | None, reverse: bool) -> None:
        """Any cut of the rows is the model's."""
        wanted = sorted((key for key in self.rows if key[: len(prefix)] == prefix), key=encode_key, reverse=reverse)
        if after is not None:
            edge = encode_key(after)
            wanted = [key for key in wanted if (encode_key(key) < edge if reverse else encode_key(key) > edge)]
        with self.log.reader() as reader:
            found = list(reader.rows(prefix, after=after, limit=limit, reverse=reverse))
        assert [(key, self.rows[key]) for key in wanted[:limit]] == found

    @invariant()
    def l1_l2_positions_and_versions_are_contiguous(self) -> None:
        """L1, L2: after every step."""
        with self.log.reader() as reader:
            found = list(reader.records())
            assert self.left() == found
            assert len(self.records) == reader.head().position
            for stream in {item.stream for item in self.records}:
                versions = [item.version for item in found if item.stream == stream]
                first = self.sealed.get(stream, 0) + 1
                assert list(range(first, first + len(versions))) == versions
                assert reader.version(stream) == self.version(stream)
            assert [(item.position, item.blobs) for item in found if item.blobs] == list(reader.blobs())
            assert self.rows == dict(reader.rows())

    @invariant()
    def l1_every_position_is_there(self) -> None:
        """L1, L8: each position is a record or in a sealed range, and the chain can be walked over all of them."""
        head, expected = EMPTY_CHAIN, 1
        with self.memory.reader() as reader:
            for key, entry in reader.tables.scan("log"):
                position = read_position(key)
                if is_range(entry):
                    assert decode_range(entry, position)[0] == expected
                    check_range(entry, position, head)
                else:
                    assert decode_entry(entry, expected, head).position == position
                head, expected = entry[:32], position + 1
        assert len(self.records) == expected - 1
        assert head == self.head_of(self.log)

    @invariant()
    def l5_views_stay(self) -> None:
        """L5: each kept view is the prefix it was."""
        for reader, left, count, rows in self.views:
            assert count == reader.head().position
            assert left == list(reader.records())
            assert rows == dict(reader.rows())

    @invariant()
    def l8_the_chain_is_the_records(self) -> None:
        """L8: heads never repeat, and the head is computed from the records alone."""
        assert len(set(self.heads)) == len(self.heads)
        chain = EMPTY_CHAIN
        for found in self.records:
            new = NewRecord(
                stream=found.stream, type=found.type, schema_version=found.schema_version,
                time_us=found.time_us, payload=found.payload, blobs=found.blobs,
            )  # fmt: skip
            chain, _ = encode_entry(new, found.position, found.version, chain)
        assert chain == self.head_of(self.log)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.small_ranges.stop()
            self.close_views()
            self.log.close()
            shutil.rmtree(self.path)


TestLogModel = LogMachine.TestCase
TestLogModel.settings = settings(max_examples=scaled(120, 3_000), stateful_step_count=40)

TEXTS = st.text(max_size=12) | st.text(min_size=190, max_size=420, alphabet="aé\x00\x01\U0001f600\ud800")
ANY_KEYS: st.SearchStrategy[Key] = st.lists(TEXTS | st.integers(0, 2**63 - 1), max_size=3).map(tuple)


def is_short(key: Key) -> bool:
    """Tell whether no string of a key is cut, and the key fits."""
    if any(isinstance(part, str) and len(part.encode("utf-8", "surrogatepass")) > 200 for part in key):
        return False
    return len(pack_key(key)) <= 511


def rank(key: Key) -> list[tuple[int, object]]:
    """Give what Python sorts as the contract says: part by part, integers before strings, by code point."""
    return [(0, part) if isinstance(part, int) else (1, [ord(char) for char in part]) for part in key]


@given(ANY_KEYS.filter(is_short), ANY_KEYS.filter(is_short))
def test_encoded_keys_sort_as_keys_do(one: Key, two: Key):
    """Comparing bytes is comparing parts, and a prefix of parts is a prefix of bytes and nothing else is."""
    first, second = encode_key(one), encode_key(two)

    assert (rank(one) < rank(two)) == (first < second)
    assert (one == two) == (first == second)
    assert (two[: len(one)] == one) == second.startswith(first)


@given(ANY_KEYS)
def test_keys_come_back(key: Key):
    """A key comes back from its bytes, or the bytes say that it can't, and then from the packed ones."""
    assert key == decode_key(pack_key(key))
    if len(pack_key(key)) > 511:
        return
    encoded = encode_key(key)
    assert is_lossy(encoded) != is_short(key)
    if is_lossy(encoded):
        with pytest.raises(ValueError, match="cut"):
            decode_key(encoded)
    else:
        assert key == decode_key(encoded)


@given(st.text(min_size=201, max_size=400), st.text(min_size=201, max_size=400))
def test_long_strings_stay_different(one: str, two: str):
    """Cut or not, two strings have the same bytes only if they are the same."""
    assert (one == two) == (encode_key((one,)) == encode_key((two,)))


@given(st.binary(max_size=40))
def test_what_is_no_key_is_refused_or_read(raw: bytes):
    """Any bytes are a key or a `ValueError`, never something else."""
    try:
        key = decode_key(raw)
    except ValueError:
        return
    assert all(isinstance(part, str | int) for part in key)


@given(
    st.builds(
        NewRecord,
        stream=st.text(min_size=1, max_size=30),
        type=st.text(max_size=20, alphabet=st.characters(exclude_categories=["Cs"])),
        schema_version=st.integers(0, 2**16 - 1),
        time_us=st.integers(-(2**63), 2**63 - 1),
        payload=st.binary(max_size=60),
        blobs=st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=3).map(tuple),
        key_id=st.integers(0, 2**32 - 1),
        encoding=st.sampled_from([PayloadEncoding.PLAIN, PayloadEncoding.ENCRYPTED]),
    ),
    st.integers(1, 2**63),
    st.integers(1, 2**63),
    st.binary(min_size=32, max_size=32),
    st.data(),
)
def test_l8_any_changed_bit_of_an_entry_is_damage(
    new: NewRecord, position: int, version: int, previous: bytes, data: st.DataObject
):
    """L8: an entry reads as what was written, and with any one bit changed, or another predecessor, not at all."""
    head, entry = encode_entry(new, Position(position), Version(version), previous)
    found = decode_entry(entry, position, previous)
    assert entry[:32] == head
    assert (
        new.stream, new.type, new.schema_version, new.time_us, new.payload, new.blobs, new.key_id, new.encoding,
    ) == (
        found.stream, found.type, found.schema_version, found.time_us, found.payload, found.blobs, found.key_id,
        found.encoding,
    )  # fmt: skip
    assert (position, version) == (found.position, found.version)

    bit = data.draw(st.integers(0, 8 * len(entry) - 1))
    changed = bytearray(entry)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreDamaged):
        decode_entry(bytes(changed), position, previous)
    with pytest.raises(StoreDamaged):
        decode_entry(entry, position, hashlib.sha256(previous).digest())
    with pytest.raises(StoreDamaged):
        decode_entry(entry[: data.draw(st.integers(0, len(entry) - 1))], position, previous)
