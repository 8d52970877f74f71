"""
What the log costs beside bare LMDB: commits a second, CPU for each, and the device flushes under both.

Run as `python -m bench.bench_append [directory]`. The floor puts the same bytes under the same kinds of keys, and
does nothing else: no chain, no versions, no checksums, no thread. Log and floor take turns, round by round, because
a disk has moods; what holds anywhere is the ratio, and the time of one `fdatasync` is printed beside.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lmdb

from polos.store.lmdb_log import LmdbLog
from polos.store.log import AppendUnit, NewRecord
from polos.store.writer import Outcome, Writer

ROUNDS = 5
COMMITS = 300
GROUP = 100
PAYLOAD = b"x" * 200
ENTRY = bytes(340)  # what such a record takes with head and header


class Floor:
    """Bare LMDB, with the puts that a commit can't do without."""

    def __init__(self, where: Path) -> None:
        self.env = lmdb.open(str(where), map_size=64 << 30, max_dbs=3)
        self.log, self.streams, self.rows = (self.env.open_db(name) for name in (b"log", b"streams", b"rows"))
        self.position = 0

    def commit(self, units: int) -> None:
        with self.env.begin(write=True) as txn:
            for unit in range(units):
                for _ in range(2):
                    self.position += 1
                    txn.put(self.position.to_bytes(8, "big"), ENTRY, append=True, db=self.log)
                txn.put(b"run/%012d" % unit + self.position.to_bytes(8, "big"), bytes(12), db=self.streams)
                txn.put(b"run/%012d" % unit, bytes(100), db=self.rows)

    def close(self) -> None:
        self.env.close()


class Log:
    """The log, appended to by the caller."""

    def __init__(self, where: Path) -> None:
        self.log = LmdbLog(where)
        self.epoch = self.log.acquire()
        self.units = [make_unit(unit) for unit in range(GROUP)]

    def commit(self, units: int) -> None:
        self.log.append(self.units[:units], epoch=self.epoch)

    def close(self) -> None:
        self.log.close()


class Threaded:
    """The log behind its writer thread; a caller waits for each outcome."""

    def __init__(self, where: Path) -> None:
        self.log = LmdbLog(where)
        self.done = threading.Semaphore(0)
        self.writer = Writer[None](self.log, self.log.acquire(), None, on_commit=self.take)
        self.units = [make_unit(unit) for unit in range(GROUP)]

    def take(self, outcomes: list[tuple[None, Outcome]]) -> None:
        self.done.release(len(outcomes))

    def commit(self, units: int) -> None:
        for unit in self.units[:units]:
            self.writer.submit(unit, None)
        for _ in range(units):
            self.done.acquire()

    def close(self) -> None:
        self.writer.close()
        self.log.close()


def make_unit(number: int) -> AppendUnit:
    """Make what a step costs: its result and the next intent, and one row of its run."""
    stream = f"run/{number:012}"
    record = NewRecord(stream=stream, type="StepCompleted", schema_version=1, time_us=1, payload=PAYLOAD)
    return AppendUnit(records=(record, record), rows=((("run", stream), bytes(100)),))


def flush_seconds(where: Path) -> float:
    """Measure one `fdatasync` behind one page."""
    descriptor = os.open(where / "flushed", os.O_CREAT | os.O_RDWR)
    begin = time.perf_counter()
    for at in range(100):
        os.pwrite(descriptor, bytes(4096), 4096 * (at % 8))
        os.fdatasync(descriptor)
    seconds = (time.perf_counter() - begin) / 100
    os.close(descriptor)
    return seconds


def measure(commit: Callable[[int], None], units: int, commits: int) -> tuple[float, float]:
    """Give seconds and CPU seconds of a unit."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(commits):
        commit(units)
    return (time.perf_counter() - wall) / commits / units, (time.process_time() - cpu) / commits / units


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=root) as name:
        kinds: dict[str, Floor | Log | Threaded] = {}
        for kind, make in (("floor", Floor), ("log", Log), ("writer thread", Threaded)):
            where = Path(name, kind)
            where.mkdir()
            kinds[kind] = make(where)
        print(f"{'':24}{'units/s':>10}{'CPU µs/unit':>13}{'of floor':>10}{'fdatasync µs':>14}")
        for units, commits in ((1, COMMITS), (GROUP, COMMITS // 10)):
            best: dict[str, tuple[float, float]] = {}
            flush = min(flush_seconds(Path(name)) for _ in range(3))
            for _ in range(ROUNDS):
                for kind, subject in kinds.items():
                    found = measure(subject.commit, units, commits)
                    best[kind] = min(best.get(kind, found), found)
            for kind, (wall, cpu) in best.items():
                ratio = best["floor"][0] / wall
                label = f"{kind}, {units} a commit"
                print(f"{label:24}{1 / wall:10,.0f}{cpu * 1e6:13.1f}{ratio:10.0%}{flush * 1e6:14.0f}")
        for subject in kinds.values():
            subject.close()


if __name__ == "__main__":
    main()
