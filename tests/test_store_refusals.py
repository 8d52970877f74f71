"""Errors that a sound store never shows: each `except` of the store that goes on or finds our words, made to happen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import lmdb
import pytest
from polos.clock import SystemClock
from polos.errors import (
    BlobMissing,
    PolosInternalError,
    PolosUsageError,
    StoreDamaged,
    StoreFailed,
    StoreFull,
    StoreReadOnly,
)
from polos.store import inbox_dir, ownership
from polos.store.blobs import MemoryBlobs
from polos.store.chain import EMPTY_CHAIN, blob_reference, decode_entry, encode_entry, next_head, parse_blob_reference
from polos.store.directory import open_store
from polos.store.inbox_dir import DirectoryInbox
from polos.store.layout import decode_row, decode_run, read_position
from polos.store.lmdb_log import LmdbLog
from polos.store.log import AppendUnit, NewRecord, PayloadEncoding, Position, Version
from polos.store.memory import MemoryLog
from polos.store.mirror import Mirror
from polos.store.ownership import LOCK_FILE, owner_info, was_closed_cleanly

from tests.contract.logs import record, unit
from tests.store_children import run_child


def broken(*_: object, **__: object) -> None:
    """Fail like a disk."""
    raise OSError(5, "Input/output error")


# ------------------------------------------------------------------------------------ records and tables


@pytest.mark.parametrize(
    "bad",
    [
        record(""),
        record("s" * 65_536),
        record("s", type="t" * 65_536),
        NewRecord(stream="s", type="t", schema_version=1, time_us=1, payload=b"", blobs=("00" * 32,) * 65_536),
    ],
)
def test_a_record_over_its_limits_is_the_callers_mistake(bad: NewRecord):
    """Names and lists that the header can't hold are refused before anything is written."""
    log = MemoryLog()
    with pytest.raises(PolosUsageError):
        log.append([unit(bad)], epoch=log.acquire())
    with log.reader() as reader:
        assert reader.head().position == 0


@pytest.mark.parametrize("change", [(0, b"\x02"), (1, b"\x09"), (8, (7).to_bytes(8, "big"))])
def test_a_record_that_is_whole_but_makes_no_sense_is_our_bug(change: tuple[int, bytes]):
    """Header format, encoding, position: the digests agree, so the disk isn't to blame."""
    _, entry = encode_entry(record("a"), Position(1), Version(1), EMPTY_CHAIN)
    header = bytearray(entry[32:])
    header[change[0] : change[0] + len(change[1])] = change[1]
    forged = next_head(EMPTY_CHAIN, bytes(header)) + bytes(header)

    with pytest.raises(PolosInternalError, match="record 1"):
        decode_entry(forged, 1, EMPTY_CHAIN)


def test_bytes_that_are_no_key_no_run_no_row_are_damage(tmp_path: Path):
    """Each small decoder tells damage apart from a wrong call."""
    for decode in (
        lambda: read_position(b"short"),
        lambda: decode_run(b"short", bytes(12)),
        lambda: decode_run(bytes(20), b"short"),
        lambda: decode_row(b"key", b"abc"),
    ):
        with pytest.raises(StoreDamaged):
            decode()
    with pytest.raises(PolosInternalError):
        parse_blob_reference(b"short")


def test_an_entry_at_another_entrys_place_is_damage():
    """The last entry says which position it is; the head believes it only if that is where it was found."""
    log = MemoryLog()
    log.append([unit(record("a"))], epoch=log.acquire())
    table = log._tables["log"]
    entry = table.values[(1).to_bytes(8, "big")]
    table.put((2).to_bytes(8, "big"), entry)

    with log.reader() as reader, pytest.raises(StoreDamaged, match="record 2"):
        reader.head()


def test_l1_a_position_is_never_written_twice():
    """L1: a table that disagrees with its own order is our bug, not a reason to write over a record."""
    log = MemoryLog()
    epoch = log.acquire()
    log.append([unit(record("a"))], epoch=epoch)
    log._tables["log"].keys.clear()

    with pytest.raises(PolosInternalError, match="L1"):
        log.append([unit(record("b"))], epoch=epoch)


def test_a_payload_in_a_blob_needs_blobs_of_the_right_length():
    """A log that was opened without blobs says so; a reference that disagrees with its blob is damage."""
    content = b"content"
    digest = hashlib.sha256(content).hexdigest()
    blobs = MemoryBlobs()
    blobs.put(content)

    def log_with(reference: bytes, source: MemoryBlobs | None) -> MemoryLog:
        log = MemoryLog(blobs=source)
        new = NewRecord(
            stream="a", type="T", schema_version=1, time_us=1, payload=reference, encoding=PayloadEncoding.BLOB
        )
        log.append([AppendUnit(records=(new,))], epoch=log.acquire())
        return log

    with log_with(blob_reference(digest, 7), blobs).reader() as reader:
        assert [content] == [found.payload for found in reader.records()]
        assert [(1, (digest,))] == list(reader.blobs())
    with log_with(blob_reference(digest, 8), blobs).reader() as reader, pytest.raises(StoreDamaged):
        list(reader.records())
    with log_with(blob_reference(digest, 7), None).reader() as reader, pytest.raises(BlobMissing):
        list(reader.records())


def test_pins_are_counted():
    """As often as pinned, so often unpinned, and never more."""
    blobs = MemoryBlobs()
    digest = blobs.put(b"x")
    blobs.pin(digest)
    blobs.pin(digest)
    blobs.unpin(digest)
    assert blobs.pins[digest] == 1
    blobs.unpin(digest)
    with pytest.raises(AssertionError):
        blobs.unpin(digest)


def test_a_mirror_ends_at_the_first_difference():
    """Another head, another error, an error on one side only, more records on one side."""
    one, two = MemoryLog(), MemoryLog()
    mirror = Mirror(one, two)
    epoch = mirror.acquire()
    with mirror.reader():
        pass
    two.append([unit(record("a"))], epoch=epoch)
    with mirror.reader() as reader:
        for ask in (
            reader.head,
            lambda: reader.version("a"),
            lambda: list(reader.records()),
            lambda: list(reader.stream("a")),
        ):
            with pytest.raises(AssertionError):
                ask()
    with pytest.raises(AssertionError, match="the first raised"):
        mirror.append([unit(record("b"), expected={"a": 1})], epoch=epoch)
    two.close()
    with pytest.raises(AssertionError, match="the first raised"):
        mirror.append([unit(record("b"), expected={"a": 1})], epoch=epoch)


# ------------------------------------------------------------------------------------ LMDB


def test_damage_met_while_writing_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What LMDB finds before the commit is told as what it is, and nothing was written."""

    def corrupted(*_: object) -> None:
        raise lmdb.CorruptedError("planned")

    log = LmdbLog(tmp_path)
    epoch = log.acquire()
    monkeypatch.setattr(log, "_write", corrupted)
    with pytest.raises(StoreDamaged):
        log.append([unit(record("a"))], epoch=epoch)
    monkeypatch.undo()
    assert 1 == log.append([unit(record("a"))], epoch=epoch)[0].first
    log.close()


def test_a_copy_or_a_sync_that_fails_is_told_in_our_words(tmp_path: Path):
    """A target that isn't there; an environment that is closed below."""
    log = LmdbLog(tmp_path)
    with pytest.raises(PolosUsageError):
        log.copy_to(tmp_path / "nowhere" / "at all")
    log.environment.raw.env.close()
    with pytest.raises(StoreFailed):
        log.flush()
    log.close()


# ------------------------------------------------------------------------------------ ownership


def test_ownership_that_can_not_be_written_down_is_not_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the disk fails while an owner writes who it is, there is no owner; a later try works."""
    with open_store(tmp_path / "data") as store:
        monkeypatch.setattr(ownership, "_write_info", broken)
        with pytest.raises(StoreFailed):
            store.acquire_ownership()
        assert store.owner() is None
        monkeypatch.undo()
        store.acquire_ownership()
        monkeypatch.setattr(ownership, "_write_info", broken)
        with pytest.raises(StoreFailed):
            store.release_ownership()
        assert store.owner() is None
        monkeypatch.undo()
        assert not was_closed_cleanly(tmp_path / "data")


def test_ownership_without_an_epoch_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A full disk at the epoch leaves nobody as the owner."""

    def full() -> None:
        raise StoreFull("planned")

    with open_store(tmp_path / "data") as store:
        monkeypatch.setattr(store.log, "acquire", full)
        with pytest.raises(StoreFull):
            store.acquire_ownership()
        assert store.owner() is None
        monkeypatch.undo()
        assert 1 == store.acquire_ownership()


def test_a_lock_file_that_is_none_is_told(tmp_path: Path):
    """A directory in its place, or a file that may not be read: the path is named."""
    path = tmp_path / "data"
    with open_store(path) as store:
        (path / LOCK_FILE).mkdir()
        with pytest.raises(StoreFailed, match=LOCK_FILE):
            store.acquire_ownership()
        with pytest.raises(StoreFailed, match=LOCK_FILE):
            was_closed_cleanly(path)
    (path / LOCK_FILE).rmdir()
    (path / LOCK_FILE).write_bytes(b"")
    (path / LOCK_FILE).chmod(0o000)
    code = """
        import sys
        from polos.store.ownership import owner_info
        try:
            owner_info(sys.argv[1])
        except Exception as error:
            print(type(error).__name__)
    """
    assert f"{StoreReadOnly.__name__}\n" == run_child(code, path, unprivileged=True)
    assert owner_info(path) is None


# ------------------------------------------------------------------------------------ inbox


def test_a_command_that_goes_away_while_it_is_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another thread of the owner removed it; the others are given."""
    inbox = DirectoryInbox(tmp_path)
    inbox.put("a", b"1")
    inbox.put("b", b"2")
    real = inbox_dir._read

    def vanishing(path: Path) -> bytes:
        if path.name == "a":
            path.unlink()
        return real(path)

    monkeypatch.setattr(inbox_dir, "_read", vanishing)
    assert ["b"] == [item.command_id for item in inbox.pending()]


def test_what_can_not_be_removed_or_moved_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file system's own words become ours, with the path."""
    inbox = DirectoryInbox(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises((StoreFailed, StoreReadOnly), match="folder"):
        inbox.remove("folder")
    monkeypatch.setattr(inbox_dir, "sync_directory", broken)
    with pytest.raises(StoreFailed):
        inbox.pending()


def test_a_leftover_that_goes_away_is_no_leftover(tmp_path: Path):
    """A slow client finished between the listing and the look; a link to nothing stands for it."""
    (tmp_path / ".new-1-1").symlink_to(tmp_path / "gone")
    clock = SystemClock()

    assert 0 == DirectoryInbox(tmp_path, clock=clock).clear_leftovers()
