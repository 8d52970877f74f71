"""Blobs: durable, verified, repaired by putting them again, and collected only when nothing can need them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from polos.clock import SystemClock
from polos.errors import BlobMissing, PolosUsageError, StoreDamaged, StoreFailed, StoreFull
from polos.store import files
from polos.store.blobs import Blobs, FileBlobs, MemoryBlobs

from tests.store_children import run_child

DATA = os.urandom(100_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["memory", "files"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Each kind in turn."""
    return MemoryBlobs() if request.param == "memory" else FileBlobs(tmp_path)


def age(path: Path) -> None:
    """Make a file two hours old."""
    then = SystemClock().now_us() / 1e6 - 7200
    os.utime(path, (then, then))


def test_what_is_put_is_got_under_its_digest(blobs: Blobs):
    """The digest is the SHA-256; putting the same again gives the same."""
    assert DIGEST == blobs.put(DATA) == blobs.put(DATA)
    assert DATA == blobs.get(DIGEST)


def test_what_is_not_there_is_missing(blobs: Blobs):
    """A blob nobody put is `BlobMissing`, by its digest."""
    with pytest.raises(BlobMissing, match=DIGEST):
        blobs.get(DIGEST)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 63 + "/"])
def test_what_is_no_digest_is_refused(blobs: Blobs, digest: str):
    """A digest becomes a path, so anything else is refused."""
    with pytest.raises(PolosUsageError):
        blobs.get(digest)
    with pytest.raises(PolosUsageError):
        blobs.pin(digest)


def test_a_damaged_blob_is_told_and_repaired_by_putting_it_again(tmp_path: Path):
    """Bytes that don't match the digest are never given; the right bytes replace them."""
    blobs = FileBlobs(tmp_path)
    blobs.put(DATA)
    path = blobs.file(DIGEST)
    path.write_bytes(DATA[:-1])
    with pytest.raises(StoreDamaged, match=DIGEST):
        blobs.get(DIGEST)

    blobs.put(DATA)
    assert DATA == blobs.get(DIGEST)


def test_a_blob_that_can_not_be_read_is_a_failure_of_the_store(tmp_path: Path):
    """Neither missing nor damaged: the file system's own words are passed on."""
    blobs = FileBlobs(tmp_path)
    blobs.file(DIGEST).mkdir(parents=True)
    with pytest.raises(StoreFailed):
        blobs.get(DIGEST)
    with pytest.raises(StoreFailed):
        blobs.put(DATA)


def test_a_full_disk_leaves_no_blob_and_no_half_of_one(tmp_path: Path):
    """A write that is cut short is `StoreFull`, and the directory is as before."""
    code = """
        import os, pathlib, resource, signal, sys
        from polos.store.blobs import FileBlobs
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            FileBlobs(pathlib.Path(sys.argv[1])).put(os.urandom(100_000))
        except Exception as error:
            print(type(error).__name__)
    """

    assert f"{StoreFull.__name__}\n" == run_child(code, tmp_path)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_outcome_is_unknown_when_the_directory_can_not_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Behind the rename nobody can say any more that nothing happened."""

    def broken(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync_directory", broken)
    with pytest.raises(StoreFailed) as caught:
        FileBlobs(tmp_path).put(DATA)
    assert caught.value.maybe_happened


def test_garbage_is_what_is_old_unneeded_and_not_pinned(tmp_path: Path):
    """Each of the three reasons keeps a blob by itself."""
    blobs = FileBlobs(tmp_path)
    garbage, needed, pinned, young = (blobs.put(bytes([at]) * 10) for at in range(4))
    for digest in (garbage, needed, pinned):
        age(blobs.file(digest))
    leftover = blobs.file(garbage).with_name(f"{files.TEMPORARY_PREFIX}1-1")
    leftover.write_bytes(b"half")
    age(leftover)
    blobs.pin(pinned)

    collected = blobs.collect(lambda: {needed})
    assert ((garbage,), 10) == (collected.blobs, collected.bytes)
    assert {needed, pinned, young} == set(blobs.digests())
    assert not leftover.exists()
    blobs.unpin(pinned)
    assert (pinned,) == blobs.collect(lambda: {needed}).blobs


def test_a_blob_that_is_wanted_while_garbage_is_collected_stays(tmp_path: Path):
    """Put again, or pinned and unpinned again, between the listing and the removal: both keep it."""
    blobs = FileBlobs(tmp_path)
    again, pinned = blobs.put(b"again"), blobs.put(b"pinned")
    for digest in (again, pinned):
        age(blobs.file(digest))

    def meanwhile() -> set[str]:
        blobs.put(b"again")
        blobs.pin(pinned)
        blobs.unpin(pinned)
        return set()

    assert () == blobs.collect(meanwhile).blobs
    assert {again, pinned} == set(blobs.digests())


def test_a_blob_that_goes_away_by_itself_does_not_stop_the_collection(tmp_path: Path):
    """Somebody removed the file by hand between the listing and the look at its age."""
    blobs = FileBlobs(tmp_path)
    gone = blobs.put(b"gone")
    age(blobs.file(gone))

    def meanwhile() -> set[str]:
        blobs.file(gone).unlink()
        return set()

    assert () == blobs.collect(meanwhile).blobs


def test_a_collection_that_fails_says_so_and_the_next_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An error in the middle leaves pins and locks as they were."""
    blobs = FileBlobs(tmp_path)
    age(blobs.file(blobs.put(b"x")))

    def broken() -> set[str]:
        raise OSError(5, "Input/output error")

    with pytest.raises(StoreFailed):
        blobs.collect(broken)
    assert 1 == len(blobs.collect(set).blobs)
