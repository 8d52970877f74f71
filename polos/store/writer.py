"""
The one thread that appends, and the bounded queue in front of it.

A commit costs two device flushes whatever is in it. So while one is under way, units gather, and all
of them go into the next: under load a commit carries hundreds of units, at rest a unit waits for
nobody. Results are handed back in one call for each group, on this thread, because one wake-up of an
event loop for each unit would cost more than the units.

**Large payloads** leave the log before they enter it: a small pool of threads writes them as blobs, and
the record carries a reference. A unit that waits for its blob may be overtaken, or a result of 50 MB
would hold up everybody; but only by units that have nothing to do with it: none of its streams, none
of its rows (two units may change the same row without sharing a stream, and the later value was made
knowing the earlier one), and nothing in common with anything else that is held back. A unit that
expects its position overtakes nothing, and nothing overtakes it.

**A failure fails everything that waits.** What is queued was decided on top of what failed, so none of it
may be written. Each unit gets its outcome, `following` says which only stood behind; the writer
refuses further units until `reset`, which finds out what the disk has. A queue that isn't bounded hides
a slow disk until memory is full, so `submit` refuses instead, and calls when there is room again.

No user code runs here. All state is under one condition; `_busy` says that somebody is appending, so a
second path that appends on the caller's thread can be added with the same two variables.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, Protocol, TypeAlias, TypeVar, final

from polos.data_class import dataclass
from polos.errors import PolosError, PolosInternalError, PolosStoreError, StoreClosed, StoreFenced
from polos.points import reach
from polos.store.chain import blob_reference
from polos.store.environment import forked
from polos.store.log import AppendUnit, Epoch, Head, Log, NewRecord, PayloadEncoding, Receipt

__all__ = [
    "BlobSink",
    "Committed",
    "Outcome",
    "Refused",
    "Unknown",
    "Writer",
    "WriterFailed",
    "WriterFull",
    "WriterStatistics",
    "check_owner",
]

Token = TypeVar("Token")

ROW_BYTES = 64  # what a row or a record weighs in the queue besides its value
BLOB_THREADS = 2
_ALL = object()  # is held back: nothing may go any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The unit is in the log, durably."""

    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The unit isn't in the log; `following` if only something before it failed."""

    error: Exception
    following: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Whether the unit is in the log only the disk knows; `Writer.reset` asks it."""

    error: Exception


Outcome: TypeAlias = Committed | Refused | Unknown


class WriterFull(Exception):  # never seen by programs: the engine waits and submits again
    """The queue has no room; `on_room` is called when it has."""


class WriterFailed(Exception):  # as above
    """
    An append failed, and nothing is taken until `reset`.

    Attributes:
        error: what failed.
    """

    def __init__(self, error: Exception) -> None:
        """Take what failed."""
        super().__init__(f"the writer stopped at: {error}")
        self.error = error


class BlobSink(Protocol):
    """Where large payloads go."""

    def put(self, data: bytes) -> str:
        """Keep bytes, durably when this returns, and give their SHA-256 as hex."""
        ...

    def pin(self, digest: str) -> None:
        """Keep a blob from being collected."""
        ...

    def unpin(self, digest: str) -> None:
        """Take one pin away."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStatistics:
    """What the writer did, and what waits."""

    commits: int
    units: int
    failures: int
    queue_units: int
    queue_bytes: int


@final
class _Item(Generic[Token]):
    """A unit in the queue."""

    __slots__ = ("gone", "largest", "pins", "ready", "size", "token", "unit")

    def __init__(self, unit: AppendUnit, token: Token) -> None:
        self.unit = unit
        self.token = token
        size, largest = ROW_BYTES * (len(unit.records) + len(unit.rows)), 0
        self.pins: tuple[str, ...] = ()
        for record in unit.records:
            length = len(record.payload)
            size += length
            largest = max(largest, length)
            if record.blobs:
                self.pins += record.blobs
        for _, value in unit.rows:
            size += len(value or b"")
        self.size = size
        self.largest = largest  # of the payloads
        self.ready = True  # its large payloads are blobs
        self.gone = False  # it left the queue as failed

    def touches(self) -> set[object]:
        """Give what units that may change places must not have in common."""
        found: set[object] = {record.stream for record in self.unit.records}
        found.update(self.unit.expected)
        found.update(key for key, _ in self.unit.rows)
        return found


def check_owner(head: Head, epoch: Epoch) -> None:
    """
    Look whether whoever goes on from a head still owns the log.

    An append would be refused anyway. But who reads the log before, to go on from there, finds what its new owner has
    recorded, and would call functions that are the new owner's to call.

    Raises:
        StoreFenced: another epoch owns it (L7).
    """
    if head.epoch != epoch:
        raise StoreFenced(f"L7: epoch {epoch} may not go on, {head.epoch} owns the log")


@final
class Writer(Generic[Token]):
    """
    Appends units in groups, on a thread of its own.

    Example:
        >>> from polos.store.memory import MemoryLog
        >>> log = MemoryLog()
        >>> writer = Writer(log, log.acquire(), None, on_commit=lambda outcomes: print(outcomes[0][0]))
        >>> writer.submit(AppendUnit(records=()), "the token")
        >>> writer.close()
        the token
    """

    def __init__(
        self,
        log: Log,
        epoch: Epoch,
        blobs: BlobSink | None,
        *,
        on_commit: Callable[[list[tuple[Token, Outcome]]], None],
        on_room: Callable[[], None] | None = None,
        queue_units_max: int = 10_000,
        queue_bytes_max: int = 256 << 20,
        group_units_max: int = 2_000,
        group_bytes_max: int = 16 << 20,
        inline_bytes_max: int = 65_536,
    ) -> None:
        """
        Start the thread.

        Args:
            log: what is appended to. Nobody else may append while the writer lives.
            epoch: under which.
            blobs: where large payloads go; None keeps all payloads in the log.
            on_commit: called once a group, on the writer's thread, with each unit's token and outcome.
            on_room: called on the writer's thread when `submit` had refused and has room again.
            queue_units_max: units that may wait.
            queue_bytes_max: bytes that may wait; a single larger unit is taken when nothing else waits.
            group_units_max: units in one commit.
            group_bytes_max: bytes in one commit, one larger unit excepted.
            inline_bytes_max: payloads over this become blobs.
        """
        self._log = log
        self._epoch = epoch
        self._blobs = blobs
        self._on_commit = on_commit
        self._on_room = on_room
        self._queue_units_max = queue_units_max
        self._queue_bytes_max = queue_bytes_max
        self._group_units_max = group_units_max
        self._group_bytes_max = group_bytes_max
        self._inline_bytes_max = inline_bytes_max
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._queue: deque[_Item[Token]] = deque()
        self._queue_bytes = 0
        self._waiting = 0  # items in it that aren't ready
        self._failed: list[tuple[_Item[Token], Outcome]] = []  # left the queue, and weren't handed back yet
        self._busy = False  # somebody appends, or hands back outcomes
        self._refused_for_room = False
        self._failure: Exception | None = None
        self._failure_unknown = False
        self._closing = False
        self._commits = self._units = self._failures = 0
        self._pool: ThreadPoolExecutor | None = None
        self._thread = threading.Thread(target=self._run, name="polos-writer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------ the loop's side

    def submit(self, unit: AppendUnit, token: Token) -> None:
        """
        Queue a unit; never blocks. Its outcome comes by `on_commit`, with `token`.

        Raises:
            WriterFull: the queue has no room; nothing was queued.
            WriterFailed: an append failed and `reset` wasn't called yet.
            StoreClosed: the writer is closing.
            ForkedStore: this is a forked child.
        """
        if self._pid != os.getpid():
            raise forked("the log")
        item = _Item(unit, token)
        large = self._blobs is not None and item.largest > self._inline_bytes_max
        with self._changed:
            if self._closing:
                raise StoreClosed("the writer is closing")
            if self._failure is not None:
                raise WriterFailed(self._failure)
            if not self._fits(item.size):
                self._refused_for_room = True
                raise WriterFull(f"{len(self._queue)} units with {self._queue_bytes} bytes wait")
            self._pin(item)
            self._queue.append(item)
            self._queue_bytes += item.size
            if large:
                item.ready = False
                self._waiting += 1
                self._blob_threads().submit(self._move_to_blobs, item)
            elif not self._busy:
                self._changed.notify_all()

    def has_room(self) -> bool:
        """Tell whether a small unit would be taken now."""
        with self._changed:
            return self._failure is None and not self._closing and self._fits(0)

    def reset(self) -> Head:
        """
        Take units again after a failure, and give the head that is on disk.

        Blocks: it may open the environment again. Call it when the failed outcomes have been seen.

        Raises:
            PolosStoreError: what is on disk can't be found out now; the writer still refuses.
            StoreFenced: another epoch owns the log by now; the writer refuses for ever.
            StoreClosed: the writer is closing.
        """
        own = threading.current_thread() is self._thread
        with self._changed:
            self._changed.wait_for(lambda: own or self._failure is None or not (self._busy or self._failed))
            if self._closing:
                raise StoreClosed("the writer is closing")
            # Nothing is queued and nothing is taken while `_failure` stands, so the log is ours here.
            unknown = self._failure_unknown
        if unknown:
            head = self._log.reopen()
        else:
            with self._log.reader() as reader:
                head = reader.head()
        check_owner(head, self._epoch)
        with self._changed:
            self._failure, self._failure_unknown = None, False
        return head

    def close(self, *, drain: bool = True) -> None:
        """
        Stop the thread. Closing twice is fine.

        Args:
            drain: append what is queued first; otherwise it is handed back as refused.
        """
        if self._pid != os.getpid():
            return
        with self._changed:
            self._closing = True
            if not drain and self._queue:
                self._fail_queue(StoreClosed("the writer was closed before this was appended"))
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def statistics(self) -> WriterStatistics:
        """Tell what was done and what waits."""
        with self._changed:
            return WriterStatistics(
                commits=self._commits,
                units=self._units,
                failures=self._failures,
                queue_units=len(self._queue),
                queue_bytes=self._queue_bytes,
            )

    # ------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while self._work():
                pass
        except BaseException as error:
            with self._changed:
                self._failure = PolosInternalError(f"the writer's thread died of {error!r}")
                self._busy = False
                self._changed.notify_all()
            raise

    def _work(self) -> bool:
        """Bring one group to its outcome; False when there is nothing left to do, ever."""
        with self._changed:
            self._busy = False
            if self._failure is not None:
                self._changed.notify_all()  # `reset` waits for this
            while (group := self._next_group()) is None:
                self._changed.wait()
            if not group and not self._failed:
                return False
            self._busy = True
        outcomes = self._append(group) if group else []
        with self._changed:
            outcomes += self._failed
            self._failed = []
            room = self._refused_for_room and self._is_half_empty()
            if room:
                self._refused_for_room = False
        for item, _ in outcomes:
            self._unpin(item)
        self._on_commit([(item.token, outcome) for item, outcome in outcomes])
        if room and self._on_room is not None:
            self._on_room()
        return True

    def _next_group(self) -> list[_Item[Token]] | None:
        """Take what goes into the next commit; None to wait, nothing if only failures are to be handed back."""
        if self._failed:
            return []
        group = self._take_group()
        if group or (self._closing and not self._queue):
            return group
        return None

    def _take_group(self) -> list[_Item[Token]]:
        group: list[_Item[Token]] = []
        kept: deque[_Item[Token]] = deque()
        held: set[object] = set()
        size = 0
        while self._queue and len(group) < self._group_units_max:
            item = self._queue[0]
            if group and size + item.size > self._group_bytes_max:
                break
            self._queue.popleft()
            # With nothing waiting for a blob, which is nearly always, order needs no thought.
            if self._waiting and not self._may_go(item, held):
                kept.append(item)
                continue
            group.append(item)
            size += item.size
        self._queue_bytes -= size
        self._queue.extendleft(reversed(kept))
        return group

    @staticmethod
    def _may_go(item: _Item[Token], held: set[object]) -> bool:
        touches = item.touches()
        placed = item.unit.first is not None
        if item.ready and _ALL not in held and held.isdisjoint(touches) and not (placed and held):
            return True
        held |= touches
        if placed:
            held.add(_ALL)
        return False

    def _append(self, group: Sequence[_Item[Token]]) -> list[tuple[_Item[Token], Outcome]]:
        reach("before_append")
        try:
            receipts = self._log.append([item.unit for item in group], epoch=self._epoch)
        except PolosError as error:
            unknown = isinstance(error, PolosStoreError) and error.maybe_happened
            return self._group_failed(group, error, unknown=unknown)
        except Exception as error:  # noqa: BLE001  # our bug; who waits for an outcome must still get one
            bug = PolosInternalError(f"an append raised {error!r}")
            bug.__cause__ = error
            return self._group_failed(group, bug, unknown=True)
        self._commits += 1  # only this thread counts, so no lock
        self._units += len(group)
        reach("after_append_before_handback")
        return [(item, Committed(receipt=receipt)) for item, receipt in zip(group, receipts, strict=True)]

    def _group_failed(
        self, group: Sequence[_Item[Token]], error: Exception, *, unknown: bool
    ) -> list[tuple[_Item[Token], Outcome]]:
        with self._changed:
            self._fail_queue(error, unknown=unknown)
        outcome = Unknown(error=error) if unknown else Refused(error=error)
        return [(item, outcome) for item in group]

    # ------------------------------------------------------------------------------------ under the condition

    def _fail_queue(self, error: Exception, *, unknown: bool = False, culprit: _Item[Token] | None = None) -> None:
        """Stop taking units, and fail all that wait."""
        self._failures += 1
        self._failure = self._failure or error
        self._failure_unknown = self._failure_unknown or unknown
        for item in self._queue:
            item.gone = True
            self._failed.append((item, Refused(error=error, following=item is not culprit)))
        self._queue.clear()
        self._queue_bytes = self._waiting = 0
        self._refused_for_room = False
        self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        if not self._queue:
            return True
        return len(self._queue) < self._queue_units_max and self._queue_bytes + size <= self._queue_bytes_max

    def _is_half_empty(self) -> bool:
        """Call for more only when there is room for many: each call wakes an event loop."""
        return len(self._queue) <= self._queue_units_max // 2 and self._queue_bytes <= self._queue_bytes_max // 2

    # ------------------------------------------------------------------------------------ blobs

    def _blob_threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(BLOB_THREADS, thread_name_prefix="polos-blobs")
        return self._pool

    def _move_to_blobs(self, item: _Item[Token]) -> None:
        """Write the large payloads of an item as blobs, on a thread of the pool, and let the item go."""
        try:
            if not item.gone:
                records = tuple(self._moved(item, record) for record in item.unit.records)
                item.unit = replace(item.unit, records=records)
        except Exception as error:  # noqa: BLE001  # a pool would swallow it, and the unit would wait for ever
            with self._changed:
                if not item.gone:
                    self._fail_queue(error, culprit=item)
        with self._changed:
            if not item.gone:
                item.ready = True
                self._waiting -= 1
                self._changed.notify_all()
                return
        self._unpin(item)  # what was pinned after the item had been handed back

    def _moved(self, item: _Item[Token], record: NewRecord) -> NewRecord:
        assert self._blobs is not None, "only a writer with blobs moves payloads to them"
        if len(record.payload) <= self._inline_bytes_max:
            return record
        digest = self._blobs.put(record.payload)
        self._blobs.pin(digest)  # it was put just now, so it isn't old enough to have been collected in between
        reach("blob_before_append")
        with self._changed:
            item.pins += (digest,)
        return replace(record, payload=blob_reference(digest, len(record.payload)), encoding=PayloadEncoding.BLOB)

    def _pin(self, item: _Item[Token]) -> None:
        if self._blobs is not None:
            for digest in item.pins:
                self._blobs.pin(digest)

    def _unpin(self, item: _Item[Token]) -> None:
        # Without a look first, every unit would take the lock once more for nothing.
        if self._blobs is not None and item.pins:
            with self._changed:
                pins, item.pins = item.pins, ()
            for digest in pins:
                self._blobs.unpin(digest)
