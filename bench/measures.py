"""
How a piece of work is measured: time, processor, commits, device flushes, and the disk's mood beside them.

Three things make such numbers lie, and each has its answer here. A disk's flush takes a fraction of a millisecond or
several, and changes by the minute: so what is compared takes turns, round by round, ratios are taken within a round,
and one `fdatasync` is timed in each. The first round warms up files and caches: it isn't counted. And a commit may
cost more flushes than one thinks: commits are read from LMDB's own meta pages, two flushes each, and the device's
counter of flushes, which counts everybody's, stands beside them where the system keeps one.
"""

from __future__ import annotations

import gc
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FLUSHES_A_COMMIT", "Budget", "Sample", "Subject", "compare", "flush_seconds", "measured"]

FLUSHES_A_COMMIT = 2  # the data, then the meta page
_META = struct.Struct("<16x II QQ 96x QQ")  # page header; magic, version, address, size, two trees, last page, txnid
_META_MAGIC = 0xBEEFC0DE
_META_BYTES = 4096


@dataclass
class Sample:
    """What so many units of work cost."""

    units: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    commits: int = 0
    device_flushes: int | None = None
    flush_seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What the engine may take for a unit, from docs and design: at the floor's flushes, so beside the disk's mood."""

    per_second: float
    cpu_us: float | None = None
    commits: float | None = None


@dataclass(frozen=True)
class Subject:
    """
    One way to do the work.

    Attributes:
        name: as it stands in the table.
        work: does it in an empty directory, and gives what it cost.
        budget: if it has one.
    """

    name: str
    work: Callable[[Path], Sample]
    budget: Budget | None = None
    samples: list[Sample] = field(default_factory=list)


@contextmanager
def measured(units: int, folder: Path) -> Iterator[Sample]:
    """Measure what happens inside; `folder` holds the LMDB environment that is committed to, at any depth."""
    sample = Sample(units)
    data = next(folder.rglob("data.mdb"), None)
    gc.collect()
    commits, flushes = _commits(data), _device_flushes(folder)
    wall, cpu = time.perf_counter(), time.process_time()
    yield sample
    sample.seconds = time.perf_counter() - wall
    sample.cpu_seconds = time.process_time() - cpu
    sample.commits = _commits(data) - commits
    now = _device_flushes(folder)
    sample.device_flushes = None if now is None or flushes is None else now - flushes


def flush_seconds(folder: Path, count: int = 50) -> float:
    """Time one `fdatasync` behind one written page."""
    path = folder / "flushed"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        os.pwrite(descriptor, bytes(8 * 4096), 0)
        os.fsync(descriptor)
        begin = time.perf_counter()
        for at in range(count):
            os.pwrite(descriptor, bytes(4096), 4096 * (at % 8))
            os.fdatasync(descriptor)
        return (time.perf_counter() - begin) / count
    finally:
        os.close(descriptor)
        path.unlink()


def compare(title: str, subjects: Sequence[Subject], *, root: Path | None, rounds: int) -> None:
    """Let subjects take turns, and print a table; the first is the floor that the others are held against."""
    for number in range(rounds + 1):
        for subject in subjects:
            with tempfile.TemporaryDirectory(dir=root) as name:
                folder = Path(name)
                flush = flush_seconds(folder)
                sample = subject.work(folder)
                sample.flush_seconds = flush
            if number:
                subject.samples.append(sample)
    print(f"\n{title}")
    print(
        f"{'':26}{'a second':>10}{'of floor':>10}{'CPU µs':>9}{'commits':>9}{'flushes':>9}{'device':>8}{'fsync µs':>10}"
    )
    for subject in subjects:
        print(_line(subject, subjects[0]))
        if subject.budget is not None:
            print(_budget_line(subject.budget))


def _line(subject: Subject, floor: Subject) -> str:
    samples = subject.samples
    units = samples[0].units
    best = min(sample.seconds for sample in samples)
    ratio = statistics.median(
        base.seconds / sample.seconds for base, sample in zip(floor.samples, samples, strict=True)
    )
    cpu = min(sample.cpu_seconds for sample in samples) / units * 1e6
    commits = statistics.median(sample.commits for sample in samples) / units
    seen = [sample.device_flushes for sample in samples if sample.device_flushes is not None]
    device = f"{min(seen) / units:9.2f}" if seen else f"{'?':>9}"
    flush = statistics.median(sample.flush_seconds for sample in samples) * 1e6
    return (
        f"{subject.name:26}{units / best:10,.0f}{ratio:10.0%}{cpu:9.1f}{commits:9.3f}"
        f"{commits * FLUSHES_A_COMMIT:9.3f}{device}{flush:9.0f}"
    )


def _budget_line(budget: Budget) -> str:
    cpu = "" if budget.cpu_us is None else f"{budget.cpu_us:.0f}"
    commits = "" if budget.commits is None else f"{budget.commits:.3f}"
    flushes = "" if budget.commits is None else f"{budget.commits * FLUSHES_A_COMMIT:.3f}"
    return f"{'  its budget':26}{budget.per_second:10,.0f}{'':10}{cpu:>9}{commits:>9}{flushes:>9}"


def _commits(data: Path | None) -> int:
    """Read how many transactions an LMDB file has seen, without opening it as one: that would drop its locks."""
    if data is None:
        return 0
    with data.open("rb") as file:
        pages = (file.read(_META_BYTES), file.read(_META_BYTES))
    found = [_META.unpack_from(page) for page in pages if len(page) == _META_BYTES]
    assert all(meta[0] == _META_MAGIC for meta in found), f"{data} isn't laid out as expected"
    return max((meta[5] for meta in found), default=0)


def _device_flushes(folder: Path) -> int | None:
    """Read the device's own count of flushes, everybody's; None where there is none."""
    device = folder.stat().st_dev
    file = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    fields = file.read_text().split() if file.is_file() else []
    return int(fields[15]) if len(fields) > 15 else None
