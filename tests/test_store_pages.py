"""Files of logs that are cut short: told before LMDB looks at pages that aren't there, also after a clean end."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

import pytest
from polos.errors import StoreDamaged, StoreReadOnly
from polos.store.check import SMALL_BYTES, UNWRITTEN_PAGES_MAX, Damage, check_before_opening
from polos.store.directory import open_store
from polos.store.lmdb_log import LmdbLog
from polos.store.log import AppendUnit
from polos.store.pages import missing_pages
from polos.store.walk import NOTE, _Walk

from tests.contract.logs import record, unit

PAGE = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a store of some dozens of pages that was closed cleanly."""
    with open_store(tmp_path / "data") as store:
        epoch = store.acquire_ownership()
        for number in range(40):
            store.log.append([unit(record("s", bytes(1000)), rows={("row", number): bytes(500)})], epoch=epoch)
    return tmp_path / "data"


def cut(directory: Path, pages: int) -> Path:
    """Take pages off the end of a log's file; gives the file."""
    file = directory / "log" / "data.mdb"
    whole = file.read_bytes()
    assert len(whole) > 2 * pages * PAGE
    file.write_bytes(whole[: len(whole) - pages * PAGE])
    return file


def test_missing_pages_are_counted(directory: Path):
    """What LMDB thinks it has and the file doesn't is counted, whichever meta page is the newer one."""
    file = directory / "log" / "data.mdb"
    assert 0 == missing_pages(file)
    cut(directory, 3)
    assert 3 == missing_pages(file)
    whole = file.read_bytes()
    # The other meta page counts after a commit that changes nothing but the epoch.
    file.write_bytes(whole[PAGE : PAGE * 2] + whole[:PAGE] + whole[2 * PAGE :])
    assert 3 == missing_pages(file)


@pytest.mark.parametrize("content", [b"", b"short", bytes(8192), b"\xff" * 8192])
def test_what_is_no_log_is_left_to_lmdb(tmp_path: Path, content: bytes):
    """Nothing is said of a file that isn't LMDB's, or isn't there."""
    file = tmp_path / "data.mdb"
    assert 0 == missing_pages(file)
    file.write_bytes(content)

    assert 0 == missing_pages(file)


def test_a_file_of_one_page_is_no_log(directory: Path):
    """A file that ends behind its first page is told by that page alone."""
    file = directory / "log" / "data.mdb"
    file.write_bytes(file.read_bytes()[:PAGE])

    assert missing_pages(file) > 0


@pytest.mark.parametrize("read_only", [False, True])
def test_a_cleanly_closed_store_that_was_cut_short_is_refused(directory: Path, read_only: bool):
    """A store whose file lost its end is damaged, to engines and readers, although its owner said it is well."""
    cut(directory, 12)

    with pytest.raises(StoreDamaged, match=r"is damaged .*SIGBUS"):
        open_store(directory, read_only=read_only)


def test_pages_that_nobody_refers_to_may_be_missing(tmp_path: Path):
    """A file that is short of pages which a transaction gave back is well."""
    draw = random.Random(1)
    with open_store(tmp_path / "data", sync="off") as store:
        epoch = store.acquire_ownership()
        for _ in range(500):
            gone = [("gone", draw.randrange(1 << 40)) for _ in range(draw.choice([0, 200]))]
            rows = (*((key, bytes(200)) for key in gone), *((key, None) for key in gone))
            kept = record("s", bytes(draw.randrange(2000)))
            store.log.append([AppendUnit(records=(kept,), rows=rows)], epoch=epoch)
            if missing_pages(tmp_path / "data" / "log" / "data.mdb"):
                break
    assert 0 < missing_pages(tmp_path / "data" / "log" / "data.mdb") <= UNWRITTEN_PAGES_MAX

    with open_store(tmp_path / "data") as store:
        assert 2 == store.acquire_ownership()


def test_a_large_file_is_verified_only_if_it_lost_much(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a large store that lost little only the end is checked, so that opening it stays quick."""
    verified: list[Path] = []
    monkeypatch.setattr("polos.store.check.SMALL_BYTES", 0)

    class Report:
        damage = Damage(place="rows", position=None, message="found")

    def verify(path: Path) -> type[Report]:
        verified.append(path)
        return Report

    monkeypatch.setattr("polos.store.check.verify", verify)
    cut(directory, 1)
    check_before_opening(directory, clean=True, writing=True)
    assert [] == verified
    cut(directory, UNWRITTEN_PAGES_MAX)

    assert Report.damage == check_before_opening(directory, clean=True, writing=True)
    assert SMALL_BYTES > 0


def test_a_log_that_is_gone_is_not_made_anew(directory: Path):
    """A directory that had an owner and has no log any more is damaged, not empty."""
    (directory / "log" / "data.mdb").unlink()

    with pytest.raises(StoreDamaged, match="is gone"):
        open_store(directory)


def test_a_commit_is_rehearsed_and_taken_back(directory: Path):
    """What the first commit would touch is touched by the check, and nothing of it stays."""
    file = directory / "log" / "data.mdb"
    before = file.read_bytes()

    assert check_before_opening(directory, clean=False, writing=True) is None
    assert before == file.read_bytes()


def test_a_rehearsal_that_finds_no_room_is_no_damage(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the map is too small for the rehearsal nothing is wrong: a commit would let it grow."""
    monkeypatch.setattr("polos.store.walk.LmdbLog", partial(LmdbLog, map_bytes=1 << 19))
    with tempfile.TemporaryFile() as shared:
        shared.write(bytes(NOTE.size))
        shared.flush()
        walk = _Walk(directory, shared.fileno())
        walk.run("open", "")

        assert walk.report().ok


def test_a_commit_that_fails_in_rehearsal_is_damage(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever LMDB says while a commit is rehearsed, but for want of room, is what is wrong with the store."""
    monkeypatch.setattr("polos.store.walk.REHEARSAL_BYTES", -1)  # bytes can't be so few
    with tempfile.TemporaryFile() as shared:
        shared.write(bytes(NOTE.size))
        shared.flush()

        with pytest.raises(StoreDamaged, match="nothing can be written"):
            _Walk(directory, shared.fileno()).run("open", "")


def test_a_store_that_can_not_be_written_is_not_rehearsed(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """Where nothing may be written the check finds no damage, and whoever opens the store is told why it can't."""

    def opening(path: Path, *, read_only: bool = False) -> LmdbLog:
        if not read_only:
            raise StoreReadOnly("this can't be written")
        return LmdbLog(path, read_only=True)

    monkeypatch.setattr("polos.store.walk.LmdbLog", opening)
    with tempfile.TemporaryFile() as shared:
        shared.write(bytes(NOTE.size))
        shared.flush()
        walk = _Walk(directory, shared.fileno())
        walk.run("open", "")

        assert walk.report().ok
