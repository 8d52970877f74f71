"""Checking a data directory: every kind of damage is found at its place, and never by the death of this process."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from polos.errors import NotAPolosStore, StoreDamaged, StoreFailed
from polos.store.check import Damage, VerifyReport, check_tail, verify
from polos.store.directory import Store, open_store
from polos.store.layout import Table, stream_key
from polos.store.log import AppendUnit, Key, NewRecord, Record
from polos.store.writer import Writer

from tests.campaign import SEED, scaled
from tests.contract.logs import record, unit
from tests.store_children import Child

LARGE = b"a large payload " * 8000
HERE = "tests.test_store_check"


def count_rows(records: Iterator[Record]) -> Iterable[tuple[Key, bytes]]:
    """Fold records to rows: one row a stream, with the number of its records."""
    counts: dict[str, int] = {}
    for found in records:
        counts[found.stream] = counts.get(found.stream, 0) + 1
    return [(("count", stream), b"%d" % count) for stream, count in counts.items()]


def fold_nothing(_: Iterator[Record]) -> Iterable[tuple[Key, bytes]]:
    """Say that there should be no rows, without looking at a record."""
    return []


@pytest.fixture
def store(tmp_path: Path):
    """A store with 30 records, rows that count them, one large payload and one named blob."""
    made = open_store(tmp_path / "data", map_bytes=64 << 20)
    epoch = made.acquire_ownership()
    named = made.blobs.put(b"named")
    for at in range(1, 10):
        units = [unit(record(f"s{n}", b"%d" % at), rows={("count", f"s{n}"): b"%d" % at}) for n in range(3)]
        made.log.append(units, epoch=epoch)
    writer = Writer[int](made.log, epoch, made.blobs, on_commit=lambda _: None)
    writer.submit(unit(record("large", LARGE), rows={("count", "large"): b"1"}), 1)
    writer.close()
    with_blob = NewRecord(stream="named", type="T", schema_version=1, time_us=1, payload=b"", blobs=(named,))
    made.log.append([AppendUnit(records=(with_blob,), rows=((("count", "named"), b"1"),))], epoch=epoch)
    made.log.append([unit(record("s0", b"10"), rows={("count", "s0"): b"10"})], epoch=epoch)
    yield made
    made.close()


def edit(store: Store, table: Table, key: bytes | None, value: bytes | None) -> None:
    """Change what lies in a table, below everything that would notice."""
    raw = store.log.environment.raw
    db = raw.dbs[table]
    with raw.env.begin(write=True) as txn:
        if key is None:
            cursor = txn.cursor(db=db)
            cursor.last()
            key = cursor.key()
        if value is None:
            txn.delete(key, db=db)
        else:
            txn.put(key, value, db=db)


def position(number: int) -> bytes:
    """Give the key of a record."""
    return number.to_bytes(8, "big")


def test_a_store_that_is_well_is_well(store: Store):
    """Every record, blob and row is counted, and the head is the log's; an engine may be at work meanwhile."""
    with store.log.reader() as reader:
        head = reader.head()
    report = verify(store.path, fold=f"{HERE}:count_rows")

    assert VerifyReport(records=30, blobs=2, rows=5, chain=head.chain.hex(), damage=None, rows_compared=True) == report
    assert report.ok
    assert check_tail(store.path).ok
    assert head.chain.hex() == check_tail(store.path).chain


def test_an_empty_store_is_well(tmp_path: Path):
    """Nothing is nothing's damage."""
    open_store(tmp_path / "data").close()

    assert VerifyReport(records=0, blobs=0, rows=0, chain="00" * 32, damage=None) == verify(tmp_path / "data")
    assert check_tail(tmp_path / "data").ok


def test_what_is_no_store_is_refused(tmp_path: Path):
    """Before a process is started."""
    with pytest.raises(NotAPolosStore):
        verify(tmp_path)


def test_a_fold_that_fails_is_not_damage(store: Store):
    """A function that isn't there, or raises, is told as what it is."""
    with pytest.raises(StoreFailed, match="no_such"):
        verify(store.path, fold=f"{HERE}:no_such")


def damaged(store: Store, *, fold: str | None = None) -> Damage:
    """Verify, and give the damage that must be found."""
    report = verify(store.path, fold=fold)
    assert report.damage is not None
    assert not report.ok
    return report.damage


def test_a_changed_record_is_found_at_its_position(store: Store):
    """L8: one changed byte in a header breaks the chain there, not later and not earlier."""
    with store.log.reader() as reader:
        entry = reader.tables.get("log", position(17))
    assert entry is not None
    edit(store, "log", position(17), entry[:40] + bytes([entry[40] ^ 1]) + entry[41:])

    found = damaged(store)
    assert ("log", 17) == (found.place, found.position)
    assert 16 == verify(store.path).records
    tail = check_tail(store.path).damage
    assert tail is not None
    assert ("log", 17) == (tail.place, tail.position)


def test_a_record_cut_short_is_found(store: Store):
    """An entry that is no entry is damage of its record, wherever it is met."""
    edit(store, "log", position(30), b"short")

    assert ("log", 30) == (damaged(store).place, damaged(store).position)
    with store.log.reader() as reader, pytest.raises(StoreDamaged):
        reader.head()


def test_a_missing_record_is_found(store: Store):
    """L1: a gap is told by the position that is missing."""
    edit(store, "log", position(5), None)

    assert ("log", 5) == (damaged(store).place, damaged(store).position)


def test_a_missing_index_entry_is_found(store: Store):
    """L2: the record can't be reached by its stream any more."""
    edit(store, "streams", None, None)

    assert "streams" == damaged(store).place


def test_an_index_entry_too_many_is_found(store: Store):
    """What no record accounts for is damage, too."""
    edit(store, "streams", stream_key("ghost", 1), position(1) + (1).to_bytes(4, "big"))

    assert "streams" == damaged(store).place


@pytest.mark.parametrize("how", ["missing", "changed"])
@pytest.mark.parametrize(("content", "at"), [(LARGE, 28), (b"named", 29)])
def test_a_damaged_blob_is_found_at_the_record_that_needs_it(store: Store, how: str, content: bytes, at: int):
    """Both kinds: a payload that was moved out, and a blob that a payload names."""
    path = store.blobs.file(hashlib.sha256(content).hexdigest())
    path.unlink() if how == "missing" else path.write_bytes(content[1:])

    assert ("blobs", at) == (damaged(store).place, damaged(store).position)


@pytest.mark.parametrize("value", [None, bytes(32)])
def test_a_changed_list_of_blobs_is_found(store: Store, value: bytes | None):
    """The list is what garbage collection believes, so it must be right."""
    edit(store, "blobs", position(29), value)

    assert ("blobs", 29) == (damaged(store).place, damaged(store).position)


def test_a_list_of_blobs_behind_the_end_is_found(store: Store):
    """Blobs of a record that isn't there would never be collected."""
    edit(store, "blobs", position(31), bytes(32))

    assert ("blobs", 31) == (damaged(store).place, damaged(store).position)


def test_a_changed_row_is_found_by_its_checksum(store: Store):
    """Without knowing what rows mean."""
    edit(store, "rows", None, b"\x00\x00\x00\x00changed")

    assert "rows" == damaged(store).place


@pytest.mark.parametrize("change", [b"8", None])
def test_l6_a_row_that_is_not_what_the_records_fold_to_is_found(store: Store, change: bytes | None):
    """L6: a wrong row that is whole, and a missing one, are found with the fold and only with it."""
    epoch = store.log.acquire()
    store.log.append([AppendUnit(records=(), rows=((("count", "s1"), change),))], epoch=epoch)

    assert verify(store.path).ok
    found = damaged(store, fold=f"{HERE}:count_rows")
    assert "rows" == found.place
    assert "'s1'" in found.message


def test_l6_a_row_too_many_is_found(store: Store):
    """L6: and a fold that leaves records unread doesn't keep them from being checked."""
    assert "rows" == damaged(store, fold=f"{HERE}:fold_nothing").place
    edit(store, "log", position(5), None)
    assert "log" == damaged(store, fold=f"{HERE}:fold_nothing").place


def test_a_truncated_file_does_not_kill_this_process(store: Store):
    """Pages that aren't there end the child; the report says how it died."""
    path = store.path
    store.close()
    data = path / "log" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 2 * 4096])

    found = verify(path).damage
    assert found is not None
    assert "died of SIG" in found.message or "environment" == found.place


def test_opening_what_was_not_closed_cleanly_finds_damage_first(store: Store):
    """The program gets `StoreDamaged` with the position instead of an end; `check=False` opens all the same."""
    path = store.path
    with store.log.reader() as reader:
        entry = reader.tables.get("log", position(29))
    assert entry is not None
    edit(store, "log", position(29), entry[:-1] + bytes([entry[-1] ^ 1]))
    store.release_ownership(clean=False)
    store.close()

    for read_only in (False, True):
        with pytest.raises(StoreDamaged, match="closed cleanly") as caught:
            open_store(path, read_only=read_only)
        assert 29 == caught.value.position
    open_store(path, check=False).close()


def test_a_killed_owners_store_is_checked_and_opened(tmp_path: Path):
    """A store that was only killed is well, and opens; then it isn't checked while an owner is there."""
    code = """
        import os, signal, sys
        from polos.store.directory import open_store
        from tests.contract.logs import record, unit
        store = open_store(sys.argv[1], map_bytes=64 << 20)
        epoch = store.acquire_ownership()
        store.log.append([unit(record("a", b"1"))], epoch=epoch)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with Child(code, tmp_path / "data") as owner:
        assert -signal.SIGKILL == owner.wait()
    with open_store(tmp_path / "data") as store:
        assert store.acquire_ownership() == 2
        with store.log.reader() as reader:
            assert reader.head().position == 1


def test_flipped_bytes_never_end_this_process(store: Store):
    """Bytes flipped anywhere in the file, page headers above all: a report every time, and no wrong record passes."""
    path = store.path
    well = verify(path)
    store.close()
    data = path / "log" / "data.mdb"
    whole = data.read_bytes()
    draw = random.Random(SEED)
    found = 0
    for _ in range(scaled(12, 2_000)):
        page = draw.randrange(len(whole) // 4096)
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            changed[page * 4096 + draw.randrange(64 if draw.random() < 0.7 else 4096)] ^= 1 << draw.randrange(8)
        data.write_bytes(changed)
        report = verify(path)
        assert report.damage is not None or report == well or report.records < well.records
        found += not report.ok
    print(f"seed {SEED}: {found} of the flips were damage")
    data.write_bytes(whole)
    assert well == verify(path)
