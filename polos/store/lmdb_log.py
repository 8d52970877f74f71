"""
The log in LMDB. The one module that imports lmdb.

Five named databases: ``log`` (position → entry), ``streams`` (stream and first version of a run → run),
``rows``, ``blobs`` (position → digests of the blobs its record needs) and ``meta`` (the epoch). The end of
the log is its last entry, not a field of its own: that saves a page in every commit, and two
things that say the same can't disagree.

What a commit costs is decided by the pages it dirties, so keys that are written together lie together:
positions only grow and are appended, a stream's runs are neighbours.

How failures are told apart. LMDB writes data pages, syncs them, then writes the meta page, which is
what makes a transaction count. If the meta page fails, LMDB marks the environment as broken and answers
the next transaction with a panic: the outcome is *unknown*. If it doesn't panic, the meta page was
never touched and the old head stands. Even so an I/O error that isn't explained by a full disk is
reported as unknown: after a failed sync nobody knows what a disk has, and `reopen` costs little.
A full disk shows as ENOSPC, or, when a write was cut short, as EIO; a probe with a file beside tells.

A new log is made beside and linked into place, as whole files are everywhere here: LMDB writes its first pages
where they stay, and doesn't take what a power cut leaves of half of them for a file of its own.

Growing the map pulls it from under the readers of this process, so the writer waits for them to leave.
Reserving 64 GiB of addresses (the file grows as used) makes that the rare path. Readers of other
processes find out when they open their next view.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar, final

import lmdb

from polos.clock import Clock, SystemClock
from polos.errors import (
    ForkedStore,
    NotAPolosStore,
    PolosStoreError,
    PolosUsageError,
    StoreClosed,
    StoreDamaged,
    StoreFailed,
    StoreFenced,
    StoreFull,
    StoreReadOnly,
)
from polos.store.environment import Environment, LogStatistics, ReadersInside, ReaderWatch, Settings, share_environment
from polos.store.files import FULL_CODES, is_full, refuse_fifos, sync_directory, sync_file, temporary_beside, translated
from polos.store.layout import Plan, Table
from polos.store.log import AppendUnit, Epoch, Head, Key, Position, Receipt, Version
from polos.store.reader import EPOCH_KEY, ROWS_KEY, BlobSource, EntryReader, rows_to_replace
from polos.store.sealing import Sealing

__all__ = ["LmdbLog", "LogStatistics"]

_log = logging.getLogger("polos.store")
T = TypeVar("T")

TABLES: Final[tuple[Table, ...]] = ("log", "streams", "rows", "blobs", "meta")
DATA_FILE: Final = "data.mdb"  # the name is LMDB's
LIB_VERSION: Final = 0  # LMDB 0.9: the newer engine in the same library has another file format
READERS_MAX: Final = 1022
SPARE_READERS: Final = 8
VERSIONS_KEPT_MAX: Final = 50_000
PROBE_SLACK_BYTES: Final = 256 << 10
REOPENED_KEY: Final = b"reopened"  # how often `reopen` had to make sure of the head
TOO_LARGE: Final = (lmdb.BadValsizeError, lmdb.TxnFullError)
DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)


@final
class _Raw:
    """An open LMDB environment with its named databases."""

    def __init__(self, path: str, settings: Settings) -> None:
        refuse_fifos(Path(path, DATA_FILE), Path(path, "lock.mdb"))  # before LMDB, or anybody, waits for them
        if not settings.read_only:
            _prepare_log(Path(path, DATA_FILE), settings)
        self.env = _open_env(path, settings)
        try:
            self.dbs = self._open_databases(path, settings)
        except lmdb.Error as error:
            self.env.close()
            raise _translated(error, path) from error
        except BaseException:
            self.env.close()
            raise

    def _open_databases(self, path: str, settings: Settings) -> dict[Table, lmdb._Database]:
        try:
            return {name: self.env.open_db(name.encode(), create=False) for name in TABLES}
        except lmdb.NotFoundError:
            if settings.read_only:
                raise NotAPolosStore(f"{path} holds no log of polos") from None
        with self.env.begin(write=True) as txn:
            return {name: self.env.open_db(name.encode(), txn=txn) for name in TABLES}

    def close(self) -> None:
        self.env.close()


def _prepare_log(path: Path, settings: Settings) -> None:
    """
    Have the file of a log, what is in it, and its name on disk: LMDB syncs what it writes, and not the names it makes.

    What is in it, because after a meta page whose write failed LMDB puts the old one back, and doesn't sync that. The
    next commit may write over pages that the failed one reaches; if a power cut then left the failed one, what is read
    there would be of two commits.
    """
    if not path.exists():
        _make_log(path, settings)
    try:
        if settings.sync:
            sync_file(path)
        sync_directory(path.parent)  # also if it was there: whoever made it may have died before doing this
    except OSError as error:
        raise translated(error, path.parent) from error


def _make_log(path: Path, settings: Settings) -> None:
    """Make the file of an empty log, there whole or not at all whatever dies in between, the power included."""
    temporary = temporary_beside(path)
    try:
        env = _open_env(os.fspath(temporary), replace(settings, sync=True), is_file=True)
        try:
            with env.begin(write=True) as txn:
                for name in TABLES:
                    env.open_db(name.encode(), txn=txn)
        except lmdb.Error as error:
            raise _translated(error, os.fspath(path)) from error
        finally:
            env.close()
        # Not renamed: that would take away the file of another process that is as far, and writes to it already.
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError as error:
        raise translated(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _open_env(path: str, settings: Settings, *, is_file: bool = False) -> lmdb.Environment:
    """Open what is in a directory; or, with `is_file`, a file that nobody else knows of."""
    map_bytes = settings.map_bytes
    lock = not is_file
    while True:
        try:
            env = lmdb.Environment(
                path,
                map_size=map_bytes,
                readonly=settings.read_only,
                create=not settings.read_only,
                sync=settings.sync,
                metasync=settings.sync,
                mode=0o600,
                max_readers=READERS_MAX,
                max_dbs=len(TABLES),
                max_spare_txns=SPARE_READERS,
                lock=lock,
                subdir=not is_file,
                lib_version=LIB_VERSION,
            )
        except lmdb.MemoryError:
            # Addresses are limited here (ulimit -v, 32 bits): a smaller reservation grows when needed.
            if map_bytes <= 1 << 20:
                raise
            map_bytes //= 2
        except lmdb.ReadonlyError as error:
            # On a read-only file system nobody can write, so a reader needs no lock; LMDB wants to make its file.
            if not settings.read_only or not lock:
                raise StoreReadOnly(f"{path} can't be written ({error}); open it read-only") from error
            lock = False
        except lmdb.Error as error:
            raise _translated(error, path) from error
        else:
            if lock:
                env.reader_check()
            return env


def _code(error: lmdb.Error) -> int:
    """Give the number of an error; what the binding itself raises has none."""
    return getattr(error, "code", 0)


def _translated(error: lmdb.Error, path: str) -> PolosStoreError | ForkedStore | NotAPolosStore | StoreReadOnly:
    """Say in our words what LMDB says when it isn't a commit that failed."""
    if isinstance(error, DAMAGE):
        return StoreDamaged(f"{path}: {error}")
    if "already open in this process" in str(error):
        return ForkedStore(f"{path} was opened by the parent of this process; a forked child can't open it again")
    if "closed/deleted/dropped" in str(error):
        return StoreClosed(f"{path}: this reader, or the log, was closed")
    code = _code(error)
    if code == errno.ENOENT:
        return NotAPolosStore(f"{path} holds no log of polos")
    if code in FULL_CODES:
        return StoreFull(f"{path}: {error}")
    return StoreFailed(f"{path}: {error}")


@final
class _View:
    """`Tables` in a transaction."""

    __slots__ = ("_dbs", "_path", "_txn")

    def __init__(self, path: str, txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database]) -> None:
        self._path = path
        self._txn = txn
        self._dbs = dbs

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._txn.get(key, db=self._dbs[table])

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._txn.cursor(db=self._dbs[table])
            if reverse:
                found = cursor.last() if stop is None or not cursor.set_range(stop) else cursor.prev()
                for key, value in cursor.iterprev() if found else ():
                    if key < start:
                        return
                    yield key, value
                return
            found = cursor.set_range(start) if start else cursor.first()
            for key, value in cursor.iternext() if found else ():
                if stop is not None and key >= stop:
                    return
                yield key, value
        except lmdb.Error as error:
            # An iterator may outlive the `with` of its reader, where nothing else would translate this.
            raise _translated(error, self._path) from error


@final
class _Reading:
    """The `with` of a reader. A class, not a generator: it is entered for every query and every wake-up."""

    __slots__ = ("_log", "_reader", "_token", "_txn")

    def __init__(self, log: LmdbLog) -> None:
        self._log = log

    def __enter__(self) -> EntryReader:
        self._token, self._txn, view = self._log.begin_reading()
        self._reader = EntryReader(view, self._log.blobs)
        return self._reader

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.close()
        self._txn.abort()
        self._log.end_reading(self._token)
        if isinstance(error, lmdb.Error):
            raise _translated(error, self._log.path) from error


@final
class LmdbLog:
    """
    A `Log` in an LMDB environment.

    Attributes:
        path: the directory of the environment.
        blobs: where large payloads are.
        environment: the share in what is open below.
        read_only: whether it may not be written through this object.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        sync: bool = True,
        map_bytes: int = 64 << 30,
        map_bytes_max: int = 1 << 42,
        blobs: BlobSource | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Open the log in a directory that exists, making it if it isn't there.

        Args:
            path: the directory.
            read_only: never write; nothing is made.
            sync: sync each commit. Without, an acknowledged append survives a killed process, not a power cut.
            map_bytes: address space reserved for the file.
            map_bytes_max: the file never grows over this.
            blobs: where payloads are that were moved out of the log.
            clock: by which the age of readers is told.

        Raises:
            NotAPolosStore: there is no log, and `read_only`.
            StoreReadOnly: it can't be written.
            StoreDamaged: LMDB doesn't recognise it.
            ForkedStore: the parent of this process has it open.
        """
        settings = Settings(read_only=read_only, sync=sync, map_bytes=map_bytes, map_bytes_max=map_bytes_max)
        clock = clock or SystemClock()
        self.environment: Environment[_Raw] = share_environment(os.fspath(path), _Raw, settings, clock=clock)
        self.path = self.environment.path
        self.blobs = blobs
        self.read_only = read_only
        self._closed = False
        self._closing = threading.Lock()
        self._subscribers: list[Callable[[Position], None]] = []
        # Versions behind the head we wrote last; worth nothing once somebody else has written.
        self._known_versions: dict[str, Version] = {}
        self._known_head: tuple[int, bytes] | None = None
        self._watch = ReaderWatch(self.environment, clock)

    # ------------------------------------------------------------------------------------ reading

    def reader(self) -> _Reading:
        """Open a consistent view."""
        return _Reading(self)

    def begin_reading(self) -> tuple[object, lmdb.Transaction[bytes], _View]:
        """Begin what a reader needs; `_Reading` is what calls this."""
        environment = self.environment
        while True:
            token = environment.gate.enter()
            try:
                self._check_open()
                raw = environment.raw
                txn = raw.env.begin()
                return token, txn, _View(self.path, txn, raw.dbs)
            except lmdb.MapResizedError:
                environment.gate.leave(token)
                self._adopt_map_size()
            except lmdb.ReadersFullError as error:
                environment.gate.leave(token)
                raise StoreFailed(f"{self.path}: all {READERS_MAX} readers of all processes are taken") from error
            except lmdb.Error as error:
                environment.gate.leave(token)
                raise _translated(error, self.path) from error
            except BaseException:
                environment.gate.leave(token)
                raise

    def end_reading(self, token: object) -> None:
        """End what `begin_reading` began."""
        self.environment.gate.leave(token)

    def statistics(self) -> LogStatistics:
        """Tell how large the log is and who reads it."""
        readers = tuple(self.environment.gate.readers())
        with self.reader() as reader:
            head = reader.head()
            env = self.environment.raw.env
            info = env.info()
            page = env.stat()["psize"]
        return LogStatistics(
            head=head,
            map_bytes=info["map_size"],
            used_bytes=(info["last_pgno"] + 1) * page,
            readers=readers,
            reader_slots=info["num_readers"],
        )

    # ------------------------------------------------------------------------------------ writing

    def acquire(self) -> Epoch:
        """Take the next epoch, durably."""
        with self.environment.writing:
            self._check_writable()
            return self._committed(self._take_epoch, 0)

    def append(self, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
        """Write a group of units in one commit; durable when it returns."""
        with self.environment.writing:
            self._check_writable()
            size = sum(len(record.payload) + 512 for unit in units for record in unit.records)
            plan = self._committed(lambda txn, dbs: self._write(txn, dbs, units, epoch), size)
            self._known_head = (plan.head.position, plan.head.chain)
            if len(self._known_versions) > VERSIONS_KEPT_MAX:
                self._known_versions.clear()
            self._known_versions.update(plan.versions)
        self._watch.look(self.environment.raw.env)
        for callback in tuple(self._subscribers):
            callback(plan.head.position)
        return plan.receipts

    def replace_rows(self, rows: Mapping[Key, bytes], *, version: int, at: Position, epoch: Epoch) -> int:
        """Make these all the rows there are, in one commit; durable when it returns."""

        def write(txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database]) -> int:
            changes = rows_to_replace(_View(self.path, txn, dbs), rows, at=at, epoch=epoch)
            _write_rows(txn, dbs, changes)
            txn.put(ROWS_KEY, version.to_bytes(8, "big"), db=dbs["meta"])
            return len(changes)

        with self.environment.writing:
            self._check_writable()
            return self._committed(write, sum(map(len, rows.values())) + 128 * len(rows))

    def seal(self, streams: Mapping[str, Version], *, epoch: Epoch) -> int:
        """Take the first records of streams out of the log, in one commit; durable when it returns."""

        def write(txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database]) -> int:
            sealing = Sealing(_View(self.path, txn, dbs), streams, epoch=epoch)
            for table, keys in sealing.deleted.items():
                for key in keys:
                    txn.delete(key, db=dbs[table])
            for table, pairs in sealing.put.items():
                txn.cursor(db=dbs[table]).putmulti(sorted(pairs.items()))
            return sealing.records

        with self.environment.writing:
            self._check_writable()
            return self._committed(write, 64 * sum(streams.values()))

    def subscribe(self, callback: Callable[[Position], None]) -> Callable[[], None]:
        """Call back, on the appending thread, after each commit made through this object; gives the way to stop it."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def reopen(self) -> Head:
        """Close and open the environment, and make the head that is found durable."""
        with self.environment.writing:
            self._check_writable()
            self._known_head = None
            try:
                self.environment.swap(self.environment.settings)
            except ReadersInside as error:
                raise StoreFailed(f"{self.path} can't be opened again: {error}") from error
            # Pages in the cache of the kernel may say more than the disk has. A commit of our own that
            # succeeds syncs everything before it, whatever became of the one that failed.
            self._committed(_touch, 0)
            with self.reader() as reader:
                return reader.head()

    def flush(self) -> None:
        """Make everything appended durable, also where commits aren't synced."""
        self._check_writable()
        try:
            self.environment.raw.env.sync(True)
        except lmdb.Error as error:
            raise StoreFailed(f"{self.path}: {error}", maybe_happened=True) from error

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """Write a compact copy, as of now, into an empty directory; appends go on meanwhile."""
        token = self.environment.gate.enter()
        try:
            self._check_open()
            self.environment.raw.env.copy(os.fspath(path), compact=True)
        except lmdb.Error as error:
            raise _translated(error, self.path) from error
        finally:
            self.environment.gate.leave(token)

    def close(self) -> None:
        """Close it. Closing twice is fine."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.environment.release()

    # ------------------------------------------------------------------------------------ private

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} was closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise StoreReadOnly(f"{self.path} was opened read-only")

    def _write(
        self, txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database], units: Sequence[AppendUnit], epoch: Epoch
    ) -> Plan:
        before = EntryReader(_View(self.path, txn, dbs))
        head = before.head()
        if epoch != head.epoch:
            raise StoreFenced(f"L7: epoch {epoch} may not append to {self.path}, {head.epoch} owns the log")
        if self._known_head != (head.position, head.chain):
            self._known_versions.clear()
        known = self._known_versions
        plan = Plan(units, head, lambda stream: known[stream] if stream in known else before.version(stream))
        for table, pairs in plan.appended():
            if table == "streams":
                txn.cursor(db=dbs[table]).putmulti(pairs)
            elif pairs:
                # `append` refuses a key that isn't behind all others: L1 again, asserted by LMDB.
                txn.cursor(db=dbs[table]).putmulti(pairs, append=True)
        _write_rows(txn, dbs, plan.rows)
        return plan

    def _take_epoch(self, txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database]) -> Epoch:
        epoch = Epoch(EntryReader(_View(self.path, txn, dbs)).head().epoch + 1)
        txn.put(EPOCH_KEY, epoch.to_bytes(8, "big"), db=dbs["meta"])
        return epoch

    def _committed(self, write: Callable[[lmdb.Transaction[bytes], dict[Table, lmdb._Database]], T], size: int) -> T:
        """Run `write` in a transaction and commit it, growing the map if need be."""
        while True:
            raw = self.environment.raw
            committing = False
            try:
                with raw.env.begin(write=True) as txn:
                    result = write(txn, raw.dbs)
                    committing = True
                return result
            except lmdb.MapFullError:
                self._grow_map(size)
            except lmdb.MapResizedError:
                self._adopt_map_size()
            except lmdb.Error as error:
                raise self._failure(raw, error, size, committing=committing) from error

    def _failure(self, raw: _Raw, error: lmdb.Error, size: int, *, committing: bool) -> Exception:
        """Tell a refused write from one of unknown outcome."""
        if not committing:
            if isinstance(error, TOO_LARGE):  # however often it is tried
                return PolosUsageError(f"{self.path} can't take this in one commit: {error}")
            return _translated(error, self.path)
        if self._is_broken(raw):
            return StoreFailed(f"{self.path}: the commit broke off at the meta page: {error}", maybe_happened=True)
        code = _code(error)
        file = Path(self.path, DATA_FILE)
        if code in FULL_CODES or (code == errno.EIO and is_full(file, more_bytes=2 * size + PROBE_SLACK_BYTES)):
            return StoreFull(f"{self.path}: no space is left on the device; nothing was written ({error})")
        return StoreFailed(f"{self.path}: the commit failed: {error}", maybe_happened=True)

    @staticmethod
    def _is_broken(raw: _Raw) -> bool:
        try:
            raw.env.begin(write=True).abort()
        except lmdb.Error:
            return True
        return False

    def _grow_map(self, size: int) -> None:
        settings = self.environment.settings
        present = self.environment.raw.env.info()["map_size"]
        wanted = min(max(2 * present, present + 4 * size), settings.map_bytes_max)
        if wanted <= present:
            raise StoreFull(f"{self.path} has reached map_bytes_max ({settings.map_bytes_max} bytes)")
        grown = replace(settings, map_bytes=wanted)
        try:
            with self.environment.gate.alone():
                self.environment.raw.env.set_mapsize(wanted)
            self.environment.settings = grown
        except ReadersInside as error:
            raise StoreFull(f"{self.path} must grow, and can't while {error}") from error
        except lmdb.Error as error:
            # LMDB gives the old map up before it asks for the new one; open it again as it was.
            self.environment.swap(settings)
            raise StoreFull(f"{self.path} can't grow to {wanted} bytes: {error}") from error
        _log.info("%s: the map grew to %d bytes", self.path, wanted)

    def _adopt_map_size(self) -> None:
        """Follow a map that another process has grown."""
        try:
            with self.environment.gate.alone():
                self.environment.raw.env.set_mapsize(0)
        except ReadersInside as error:
            raise StoreFailed(
                f"{self.path} was grown by another process, and can't be followed while {error}"
            ) from error


def _write_rows(
    txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database], changes: Sequence[tuple[bytes, bytes | None]]
) -> None:
    rows = dbs["rows"]
    for key, value in changes:
        if value is None:
            txn.delete(key, db=rows)
        else:
            txn.put(key, value, db=rows)


def _touch(txn: lmdb.Transaction[bytes], dbs: dict[Table, lmdb._Database]) -> None:
    """Change a page, so that there is something to commit."""
    count = int.from_bytes(txn.get(REOPENED_KEY, db=dbs["meta"]) or b"", "big")
    txn.put(REOPENED_KEY, (count + 1).to_bytes(8, "big"), db=dbs["meta"])
