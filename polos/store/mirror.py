"""
Two logs in lock-step, as a test of both.

Everything is asked of both, everything they answer is compared, and the first difference is an
`AssertionError` that says where. Run any test on ``Mirror(MemoryLog(), LmdbLog(...))`` and it tests, on
the side, that the simple log and the real one are the same log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar, final

from polos.errors import PolosError
from polos.store.log import (
    LOG_START,
    STREAM_START,
    AppendUnit,
    Epoch,
    Head,
    Key,
    Log,
    Position,
    Reader,
    Receipt,
    Record,
    Version,
)

__all__ = ["Mirror"]

T = TypeVar("T")


@final
class Mirror:
    """A `Log` that is two."""

    def __init__(self, first: Log, second: Log) -> None:
        """Take two logs that are in the same state, and are used by nobody else."""
        self.first = first
        self.second = second
        self._together = threading.RLock()  # a view of both is of the same moment

    @contextmanager
    def reader(self) -> Generator[Reader]:
        """Open a view of both."""
        with ExitStack() as both:
            with self._together:
                one = both.enter_context(self.first.reader())
                two = both.enter_context(self.second.reader())
            yield _MirrorReader(one, two)

    def acquire(self) -> Epoch:
        """Take the next epoch of both."""
        return _both("acquire", self.first.acquire, self.second.acquire)

    def append(self, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
        """Append to both; receipts and the heads behind them must be the same."""
        with self._together:
            receipts = _both(
                "append", lambda: self.first.append(units, epoch=epoch), lambda: self.second.append(units, epoch=epoch)
            )
        with self.reader() as reader:
            reader.head()
        return receipts

    def replace_rows(self, rows: Mapping[Key, bytes], *, version: int, at: Position, epoch: Epoch) -> int:
        """Replace the rows of both."""
        with self._together:
            return _both(
                "replace_rows",
                lambda: self.first.replace_rows(rows, version=version, at=at, epoch=epoch),
                lambda: self.second.replace_rows(rows, version=version, at=at, epoch=epoch),
            )

    def seal(self, streams: Mapping[str, Version], *, epoch: Epoch) -> int:
        """Seal the same in both."""
        with self._together:
            return _both(
                "seal", lambda: self.first.seal(streams, epoch=epoch), lambda: self.second.seal(streams, epoch=epoch)
            )

    def subscribe(self, callback: Callable[[Position], None]) -> Callable[[], None]:
        """Call back after the commit of the second, which is when both have it."""
        return self.second.subscribe(callback)

    def reopen(self) -> Head:
        """Open both again."""
        return _both("reopen", self.first.reopen, self.second.reopen)

    def close(self) -> None:
        """Close both."""
        self.first.close()
        self.second.close()


@final
class _MirrorReader:
    def __init__(self, one: Reader, two: Reader) -> None:
        self._one = one
        self._two = two

    def head(self) -> Head:
        return _both("head", self._one.head, self._two.head)

    def version(self, stream: str) -> Version:
        return _both(f"version({stream!r})", lambda: self._one.version(stream), lambda: self._two.version(stream))

    def records(self, *, after: Position = LOG_START, limit: int | None = None) -> Iterator[Record]:
        return _each(
            f"records(after={after}, limit={limit})",
            self._one.records(after=after, limit=limit),
            self._two.records(after=after, limit=limit),
        )

    def stream(
        self, stream: str, *, after: Version = STREAM_START, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Record]:
        return _each(
            f"stream({stream!r}, after={after}, limit={limit}, reverse={reverse})",
            self._one.stream(stream, after=after, limit=limit, reverse=reverse),
            self._two.stream(stream, after=after, limit=limit, reverse=reverse),
        )

    def row(self, key: Key) -> bytes | None:
        return _both(f"row({key!r})", lambda: self._one.row(key), lambda: self._two.row(key))

    def rows_version(self) -> int:
        return _both("rows_version", self._one.rows_version, self._two.rows_version)

    def rows(
        self, prefix: Key = (), *, after: Key | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[Key, bytes]]:
        return _each(
            f"rows({prefix!r}, after={after!r}, limit={limit}, reverse={reverse})",
            self._one.rows(prefix, after=after, limit=limit, reverse=reverse),
            self._two.rows(prefix, after=after, limit=limit, reverse=reverse),
        )

    def blobs(self) -> Iterator[tuple[Position, tuple[str, ...]]]:
        return _each("blobs()", self._one.blobs(), self._two.blobs())


def _both(what: str, ask_one: Callable[[], T], ask_two: Callable[[], T]) -> T:
    """Ask both; they must give the same, or raise the same type of error."""
    try:
        one = ask_one()
    except PolosError as error:
        try:
            two = ask_two()
        except PolosError as other:
            if type(error) is type(other):
                raise
            raise AssertionError(f"{what}: the first raised {error!r}, the second {other!r}") from error
        raise AssertionError(f"{what}: the first raised {error!r}, the second gave {two!r}") from error
    two = ask_two()
    assert one == two, f"{what}: the first gave {one!r}, the second {two!r}"
    return one


def _each(what: str, one: Iterator[T], two: Iterator[T]) -> Iterator[T]:
    at = 0
    for left in one:
        right = next(two, None)
        assert left == right, f"{what}[{at}]: the first gave {left!r}, the second {right!r}"
        yield left
        at += 1
    assert next(two, None) is None, f"{what}: the second goes on behind item {at - 1}"
