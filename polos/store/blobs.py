"""
Payloads too large for the log, as files named by their digest.

A blob is written before the record that names it is appended, so a record never names what isn't
there; the other way round, a crash leaves blobs that nothing names. Those are garbage, and only the
owner of the log collects it: what no record up to the head needs, what is older than an hour (somebody
may have put it and be about to name it), and what isn't pinned by a unit that waits to be appended.

A digest says what a blob must contain, so nothing read is believed without it, and a blob that turns out
damaged is repaired by putting the same bytes again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, final

from polos.clock import Clock, SystemClock
from polos.data_class import dataclass
from polos.errors import BlobMissing, PolosUsageError, StoreDamaged
from polos.store.files import TEMPORARY_PREFIX, place_file, read_regular, sync_directory, translated

__all__ = ["Blobs", "Collected", "FileBlobs", "MemoryBlobs"]

GARBAGE_AGE_US = 3600 * 1_000_000
DIGEST_LENGTH = 64


class Blobs(Protocol):
    """Bytes kept under their SHA-256."""

    def put(self, data: bytes) -> str:
        """Keep bytes, durably when this returns, and give their digest as hex."""
        ...

    def get(self, digest: str) -> bytes:
        """
        Give a blob.

        Raises:
            BlobMissing: it isn't there.
            StoreDamaged: it isn't what was put.
        """
        ...

    def pin(self, digest: str) -> None:
        """Keep a blob from being collected until it is unpinned as often as it was pinned."""
        ...

    def unpin(self, digest: str) -> None:
        """Take one pin away."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a garbage collection removed."""

    blobs: tuple[str, ...]
    bytes: int


def is_digest(text: str) -> bool:
    """Tell whether a text is a SHA-256 as hex."""
    return len(text) == DIGEST_LENGTH and set(text) <= set("0123456789abcdef")


def check_digest(digest: str) -> str:
    """Refuse what isn't a digest: it becomes a path."""
    if not is_digest(digest):
        raise PolosUsageError(f"not a SHA-256 as hex: {digest[:80]!r}")
    return digest


@final
class MemoryBlobs:
    """
    `Blobs` that are gone with their process.

    Attributes:
        changes: how often a blob was put in, or some were removed.
    """

    def __init__(self) -> None:
        """Make it empty."""
        self.changes = 0
        self._kept: dict[str, bytes] = {}
        self._unneeded: set[str] = set()
        self.pins: Counter[str] = Counter()

    def copy(self) -> MemoryBlobs:
        """Give others with the same content, and no pins: those are a process's."""
        other = MemoryBlobs()
        other._kept, other._unneeded = self._kept.copy(), self._unneeded.copy()
        return other

    def put(self, data: bytes) -> str:
        """Keep bytes."""
        digest = hashlib.sha256(data).hexdigest()
        self.changes += 1
        self._kept[digest] = bytes(data)
        return digest

    def get(self, digest: str) -> bytes:
        """Give a blob."""
        found = self._kept.get(check_digest(digest))
        if found is None:
            raise BlobMissing(f"blob {digest} isn't there")
        return found

    def collect(self, needed: set[str]) -> Collected:
        """Remove what is neither needed nor pinned, and wasn't the last time: nobody is about to name it."""
        self.changes += 1
        gone = {digest for digest in self._kept if digest not in needed and not self.pins[digest]}
        gone, self._unneeded = gone & self._unneeded, gone
        return Collected(blobs=tuple(gone), bytes=sum(len(self._kept.pop(digest)) for digest in gone))

    def pin(self, digest: str) -> None:
        """Pin a blob."""
        self.pins[check_digest(digest)] += 1

    def unpin(self, digest: str) -> None:
        """Take one pin away."""
        self.pins[digest] -= 1
        assert self.pins[digest] >= 0, "a pin is taken away once"
        self.pins += Counter()


@final
class FileBlobs:
    """`Blobs` in a directory: the first two digits of the digest, then the rest."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        """Take the directory, which exists, and the clock by which garbage ages."""
        self.path = path
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._durable: set[str] = set()  # the directories in here whose names are known to be on disk
        self._pinned_meanwhile: set[str] | None = None  # since the garbage collection under way began

    def put(self, data: bytes) -> str:
        """
        Keep bytes, durably when this returns, and give their digest as hex.

        Raises:
            StoreFull: no space.
            StoreReadOnly: the directory can't be written.
            StoreFailed: the write failed.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.file(digest)
        try:
            if self._touch(path) and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                # Whoever wrote it may have died before the name was durable, so that is done again.
                sync_directory(path.parent)
                sync_directory(self.path)
                return digest
            with suppress(FileExistsError):
                path.parent.mkdir(mode=0o700)
            if path.parent.name not in self._durable:
                # Also if it was there: whoever made it may have died before syncing its name, or be about to.
                sync_directory(self.path)
                self._durable.add(path.parent.name)
        except OSError as error:
            raise translated(error, path) from error
        place_file(path, data)
        return digest

    def get(self, digest: str) -> bytes:
        """Give a blob, verified."""
        path = self.file(digest)
        try:
            data = read_regular(path)
        except FileNotFoundError:
            raise BlobMissing(f"blob {digest} isn't there; {path} is gone") from None
        except OSError as error:
            raise translated(error, path) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreDamaged(f"blob {digest} isn't what was put; see {path}")
        return data

    def pin(self, digest: str) -> None:
        """Pin a blob."""
        check_digest(digest)
        with self._lock:
            self._pins[digest] += 1
            if self._pinned_meanwhile is not None:
                self._pinned_meanwhile.add(digest)

    def unpin(self, digest: str) -> None:
        """Take one pin away."""
        with self._lock:
            self._pins[digest] -= 1
            assert self._pins[digest] >= 0, "a pin is taken away once"
            if not self._pins[digest]:
                del self._pins[digest]

    def digests(self) -> Iterator[str]:
        """Give the digests of what is there."""
        for path in self.path.glob("??/*"):
            digest = path.parent.name + path.name
            if is_digest(digest):  # what else lies about is nobody's blob
                yield digest

    def collect(self, needed: Callable[[], set[str]]) -> Collected:
        """
        Remove garbage. Only the owner of the log may call it.

        Args:
            needed: gives the blobs that records need, as of the moment it is called.
        """
        oldest_us = self._clock.now_us() - GARBAGE_AGE_US
        with self._lock:
            assert self._pinned_meanwhile is None, "one collection at a time"
            self._pinned_meanwhile = set(self._pins)
        try:
            candidates = [digest for digest in self.digests() if self._is_older(self.file(digest), oldest_us)]
            # Asked for behind the listing: what was named in between is needed, or was pinned meanwhile.
            kept = needed() if candidates else set[str]()
            removed: list[str] = []
            size = 0
            for digest in candidates:
                with self._lock:
                    path = self.file(digest)
                    if digest in kept or digest in self._pinned_meanwhile or not self._is_older(path, oldest_us):
                        continue
                    size += path.stat().st_size
                    path.unlink()
                removed.append(digest)
            for leftover in self.path.glob(f"??/{TEMPORARY_PREFIX}*"):
                if self._is_older(leftover, oldest_us):
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise translated(error, self.path) from error
        finally:
            with self._lock:
                self._pinned_meanwhile = None
        return Collected(blobs=tuple(removed), bytes=size)

    def file(self, digest: str) -> Path:
        """Give the path of a blob."""
        check_digest(digest)
        return self.path / digest[:2] / digest[2:]

    def _touch(self, path: Path) -> bool:
        """Make a blob young again, so that no garbage collection takes it; False if it isn't there."""
        with self._lock:
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            return True

    @staticmethod
    def _is_older(path: Path, time_us: int) -> bool:
        try:
            return path.stat().st_mtime_ns // 1000 < time_us
        except FileNotFoundError:
            return False
