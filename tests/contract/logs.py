"""
The logs under contract, and small makers for what is appended to them.

Each maker takes a directory and gives a fresh log, so that a test is written once against the
protocol and runs on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polos.store.lmdb_log import LmdbLog
from polos.store.log import AppendUnit, Key, Log, NewRecord, Position, Record, RowChange, Version
from polos.store.memory import MemoryLog
from polos.store.mirror import Mirror

MAP_BYTES = 64 << 20


def memory(_: Path) -> Log:
    """Make a log in memory."""
    return MemoryLog()


def lmdb_full(where: Path) -> Log:
    """Make a log in LMDB that syncs every commit."""
    return LmdbLog(where, map_bytes=MAP_BYTES)


def lmdb_off(where: Path) -> Log:
    """Make a log in LMDB that leaves syncing to the system."""
    return LmdbLog(where, map_bytes=MAP_BYTES, sync=False)


def mirror(where: Path) -> Log:
    """Make both, in lock-step."""
    return Mirror(MemoryLog(), LmdbLog(where, map_bytes=MAP_BYTES))


LOGS: dict[str, Callable[[Path], Log]] = {
    "memory": memory,
    "lmdb-full": lmdb_full,
    "lmdb-off": lmdb_off,
    "mirror": mirror,
}
ON_DISK = ("lmdb-full", "lmdb-off")


def record(stream: str, payload: bytes = b"", *, type: str = "Happened", time_us: int = 1) -> NewRecord:
    """Make a record."""
    return NewRecord(stream=stream, type=type, schema_version=1, time_us=time_us, payload=payload)


def unit(
    *records: NewRecord,
    expected: dict[str, int] | None = None,
    rows: dict[Key, bytes | None] | None = None,
    first: int | None = None,
) -> AppendUnit:
    """Make a unit."""
    changes: tuple[RowChange, ...] = tuple((rows or {}).items())
    return AppendUnit(
        records=records,
        expected={stream: Version(at) for stream, at in (expected or {}).items()},
        rows=changes,
        first=None if first is None else Position(first),
    )


def payloads(records: list[Record]) -> list[bytes]:
    """Give the payloads of records."""
    return [item.payload for item in records]
