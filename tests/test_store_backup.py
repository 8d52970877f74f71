"""Backups: of a store at work, whole or recognisable as not."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from polos.errors import BlobMissing, NotAPolosStore, PolosUsageError, StoreReadOnly
from polos.store import backup as module
from polos.store.backup import backup
from polos.store.check import verify
from polos.store.directory import open_store
from polos.store.writer import Writer

from tests.contract.logs import payloads, record, unit
from tests.store_children import PATIENCE_SECONDS

LARGE = os.urandom(100_000)


@pytest.fixture
def source(tmp_path: Path):
    """A store with records, rows, a large payload, garbage among its blobs, and a command in its inbox."""
    with open_store(tmp_path / "source", map_bytes=64 << 20) as store:
        writer = Writer[int](store.log, store.acquire_ownership(), store.blobs, on_commit=lambda _: None)
        writer.submit(unit(record("a", b"small"), record("a", LARGE), rows={("count",): b"2"}), 1)
        writer.close()
        store.blobs.put(b"garbage")
        store.inbox.put("command", b"do it")
        (store.inbox.path / ".new-1-1").write_bytes(b"half")
        yield store


def test_a_copy_has_everything_and_nothing_else(source, tmp_path: Path):
    """Records, rows, needed blobs and commands; the copy verifies, opens, and is owned anew."""
    report = backup(source.path, tmp_path / "deep" / "copy")
    with source.log.reader() as reader:
        head = reader.head()

    assert (head, 1, 1) == (report.head, report.blobs, report.commands)
    assert verify(tmp_path / "deep" / "copy").ok
    assert {"format", "log", "blobs", "inbox"} == set(os.listdir(tmp_path / "deep" / "copy"))
    with open_store(tmp_path / "deep" / "copy", map_bytes=64 << 20) as copy:
        assert 2 == copy.acquire_ownership()
        with copy.log.reader() as reader:
            assert [b"small", LARGE] == payloads(list(reader.stream("a")))
            assert reader.row(("count",)) == b"2"
        assert [b"do it"] == [item.payload for item in copy.inbox.pending()]
        assert 1 == len(list(copy.blobs.digests()))


def test_a_store_at_work_is_copied_as_of_one_moment(source, tmp_path: Path):
    """While another thread appends, each copy is a prefix of the log with exactly its rows and blobs."""
    with source.log.reader() as reader:
        epoch = reader.head().epoch
    writer = Writer[int](source.log, epoch, source.blobs, on_commit=lambda _: None)
    over = threading.Event()

    def work() -> None:
        count = 2
        while not over.is_set():
            if writer.has_room() and writer.statistics().queue_units < 50:
                count += 1
                payload = os.urandom(70_000) if count % 10 == 0 else b"%d" % count
                writer.submit(unit(record("a", payload), rows={("count",): b"%d" % count}), count)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        reports = [backup(source.path, tmp_path / f"copy{at}") for at in range(3)]
    finally:
        over.set()
        thread.join(PATIENCE_SECONDS)
        writer.close()

    for at, report in enumerate(reports):
        found = verify(tmp_path / f"copy{at}")
        assert found.ok
        assert (report.head.position, report.head.chain.hex()) == (found.records, found.chain)
        with open_store(tmp_path / f"copy{at}", read_only=True) as copy, copy.log.reader() as reader:
            assert reader.row(("count",)) == b"%d" % report.head.position
            with source.log.reader() as original:
                wanted = list(original.records(limit=report.head.position))
            assert wanted == list(reader.records())


@pytest.mark.parametrize("read_only", [False, True])
def test_a_copy_that_broke_off_is_no_store(source, tmp_path: Path, read_only: bool):
    """A blob that is missing stops the copy; what is there isn't opened, and isn't taken as a target."""
    (blob,) = [path for path in source.blobs.path.glob("*/*") if path.stat().st_size == len(LARGE)]
    blob.unlink()
    with pytest.raises(BlobMissing):
        backup(source.path, tmp_path / "copy")

    with pytest.raises(NotAPolosStore):
        open_store(tmp_path / "copy", read_only=read_only)
    with pytest.raises(PolosUsageError, match="empty"):
        backup(source.path, tmp_path / "copy")


def test_a_target_that_is_not_empty_is_left_alone(source, tmp_path: Path):
    """A stranger's file stays the only one there."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "precious").write_text("mine")
    with pytest.raises(PolosUsageError, match="empty"):
        backup(source.path, tmp_path / "copy")

    assert ["precious"] == os.listdir(tmp_path / "copy")


def test_what_is_no_store_is_not_copied(tmp_path: Path):
    """And no target is made for it."""
    with pytest.raises(NotAPolosStore):
        backup(tmp_path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_file_system_that_refuses_is_told_in_our_words(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An error while copying names the target."""

    def broken(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "sync_file", broken)
    with pytest.raises(StoreReadOnly, match="copy"):
        backup(source.path, tmp_path / "copy")


def test_a_command_decided_while_it_is_copied_is_left_out(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its file went away between listing and reading; its outcome is in the log that is copied next."""
    real = Path.is_file

    def vanishing(path: Path) -> bool:
        was = real(path)
        if path.name == "command":
            path.unlink()
        return was

    monkeypatch.setattr(Path, "is_file", vanishing)
    report = backup(source.path, tmp_path / "copy")

    assert 0 == report.commands
    shutil.rmtree(tmp_path / "copy")
