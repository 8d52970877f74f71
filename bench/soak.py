"""
Mixed load for as long as you like, with kills, a disk that fills up, and a clock that jumps.

Run as `python -m bench.soak --minutes 30`, or `make soak`. What breaks after an hour doesn't break in a test of a
second: a list that is never emptied, a descriptor that is never closed, a row that is never removed. So two engines
live side by side, and everything they do is checked by an outside ledger that they don't know.

* One lives from the beginning to the end, and archives its runs when they have been over for a minute of its clock. Its
  disk is full at times and its clock is set forwards and back. Every second its memory, file descriptors, threads and
  the sizes of its log, blobs, archive and inbox are noted. They must not grow: what is compared is the last quarter
  with the second one, for the first is the warming up. Of what is archived a leaf, a row and an entry of the index stay
  in the log, so what its file has to keep to is what it may grow by with a record, and the archive to what it may grow
  by with a run. Blobs that nothing needs are collected after seconds, not after an hour.
* The others are killed, over and over, at moments that have nothing to do with anything, on a disk and with a clock of
  the same kind; some archive what has ended, at once or after seconds. Every minute or so everything is let come to its
  end, and the directory has to show what was promised, in its log and in its archive.

The report has a line for each chapter, the figures, and an exit code that isn't 0 if anything of this doesn't hold.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from polos import Polos, Retention
from polos.clock import Alarm, SystemClock
from polos.engine.codec import decode
from polos.engine.events import RangeSealed
from polos.engine.projections import ARCHIVE_STREAM, sealed_runs
from polos.errors import PolosError
from polos.runtime import app, archiving
from polos.runtime.engine import Engine
from polos.store import blobs
from polos.store.faults import Fault, FaultPlan, FaultyLog
from polos.store.log import STREAM_START
from polos.store.writer import Writer
from tests.crash.children import fork
from tests.crash.engine_lives import client, forked, light, warm
from tests.crash.load import mixed, quick, witness
from tests.crash.shares import broken

__all__ = ["Sample", "main", "soak", "verdict"]

RUNS_AT_ONCE = 4
CHAPTER_SECONDS = 60.0
QUARTERS = 4
# What a quarter may have more than an earlier one before it counts as growth, by figure: a factor and something fixed.
GROWTH = {
    "rss_kib": (1.15, 8_192),
    "descriptors": (1.0, 8),
    "threads": (1.0, 8),
    "blob_bytes": (1.25, 16 << 20),
    "inbox_bytes": (1.0, 1 << 20),
}
# What the archive may grow by with a run; and segments of runs that are about to be counted.
BYTES_PER_ARCHIVED_RUN_MAX = 2_000
ARCHIVE_BYTES_FREE = 1 << 20
GARBAGE_AFTER_SECONDS = 5.0
# What the log may grow by with a record that is archived in time; docs/retention.md has what was measured.
BYTES_PER_RECORD_MAX = 250
# Pages that are free, and runs that have not been over for long.
LOG_BYTES_FREE = 16 << 20
ARCHIVED_AFTER_SECONDS = 60.0


class JumpingClock:
    """The machine's clock, set forwards and back like one that somebody plays with."""

    def __init__(self, offset_us: int = 0) -> None:
        """Begin with the clock set so far from the right time."""
        self._system = SystemClock()
        self.offset_us = offset_us

    def now_us(self) -> int:
        """Microseconds since the epoch, by this clock."""
        return self._system.now_us() + self.offset_us

    def monotonic_us(self) -> int:
        """Microseconds that have passed."""
        return self._system.monotonic_us()

    def call_at(self, due_us: int, callback: Any) -> Alarm:
        """Look every few milliseconds whether the clock has come so far: it may be set at any time."""
        return _Looks(self, due_us, callback)

    def call_after(self, delay_us: int, callback: Any) -> Alarm:
        """Call back when so much time has passed."""
        return self._system.call_after(delay_us, callback)

    def random(self) -> float:
        """A float in [0, 1)."""
        return self._system.random()

    def uuid4(self) -> str:
        """A random UUID."""
        return self._system.uuid4()


class _Looks:
    def __init__(self, clock: JumpingClock, due_us: int, callback: Any) -> None:
        self._clock, self._due_us, self._callback = clock, due_us, callback
        self._handle: Any = None
        self._look()

    def _look(self) -> None:
        left_us = self._due_us - self._clock.now_us()
        if left_us <= 0:
            self._handle = asyncio.get_running_loop().call_soon(self._callback)
        else:
            self._handle = asyncio.get_running_loop().call_later(min(left_us / 1e6, 0.05), self._look)

    def cancel(self) -> None:
        self._handle.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    What the long life has, at a moment.

    Attributes:
        at_seconds: since its beginning.
        rss_kib: resident memory in use, without pages of files.
        descriptors: open file descriptors.
        threads: of the process.
        log_bytes: size of the log's file.
        blob_bytes: of all blobs but the segments of archived runs.
        archive_bytes: of these segments.
        archived: runs that are in them.
        inbox_bytes: of what lies in the inbox, also of what couldn't be read.
        records: that were ever appended.
        runs: that ended.
    """

    at_seconds: float
    rss_kib: int
    descriptors: int
    threads: int
    log_bytes: int
    blob_bytes: int
    archive_bytes: int
    archived: int
    inbox_bytes: int
    records: int
    runs: int


class Archived:
    """What is archived in a store, so far as it was looked at: each look goes on where the last one ended."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.runs = self.bytes = 0
        self._behind = STREAM_START

    def look(self, store: Any) -> None:
        """Count what was archived since."""
        with store.log.reader() as reader:
            for record in reader.stream(ARCHIVE_STREAM, after=self._behind):
                seal = decode(record.type, record.schema_version, record.payload)
                assert isinstance(seal, RangeSealed), "the stream of the archive holds nothing else"
                self.runs += len(sealed_runs(seal))
                self.bytes += sum(_size(store.blobs.file(digest)) for digest in seal.segments)
                self._behind = record.version


def _size(path: Path) -> int:
    """Give how long a file is, or all files below a directory; what is removed meanwhile has nothing."""
    try:
        return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:
        return 0


def _sample(directory: Path, polos: Polos, began: float, runs: int, archived: Archived) -> Sample:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    # What the allocator keeps for later is nobody's: after large results it keeps much, and gives it back when asked.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    # Pages of the log's file that happen to be in memory are the system's to take back.
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    size = (directory / "data" / "log" / "data.mdb").stat().st_size
    store = polos.engine.store
    all_blobs = _size(directory / "data" / "blobs")
    archived.look(store)
    with store.log.reader() as reader:
        records = int(reader.head().position)
    return Sample(
        at_seconds=time.monotonic() - began,
        rss_kib=rss,
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        threads=threading.active_count(),
        log_bytes=size,
        blob_bytes=max(all_blobs - archived.bytes, 0),  # a segment may have come between the two looks
        archive_bytes=archived.bytes,
        archived=archived.runs,
        inbox_bytes=_size(directory / "data" / "inbox"),
        records=records,
        runs=runs,
    )


async def _trouble(plan: FaultPlan, clock: JumpingClock, chance: random.Random) -> None:
    """Fill the disk now and then, break commits off, and set the clock."""
    while True:
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        match chance.randrange(4):
            case 0:
                plan.always(Fault.FULL)
                await asyncio.sleep(chance.uniform(0.05, 0.5))
                plan.never()
            case 1:
                plan.next(chance.choice((Fault.UNKNOWN_LOST, Fault.UNKNOWN_KEPT, Fault.REFUSED)))
            case 2:
                clock.offset_us += chance.randrange(60_000_000)
            case _:
                clock.offset_us -= chance.randrange(5_000_000)


async def _one(polos: Polos, chance: random.Random) -> None:
    """Let a run of some kind come to its end; each that was acknowledged is noted."""
    kind, payload = (quick, {}) if chance.random() < 0.5 else (mixed, {"number": chance.randrange(1_000)})
    try:
        handle = await kind.invoke(polos, payload)
    except PolosError:
        return  # the disk is full for good, as far as this caller is concerned: nothing was promised
    witness.ledger.note("created", handle.id)
    found = await polos._wait_ended(handle.id)  # noqa: SLF001  # ours, and offered for this
    if found["status"] in ("completed", "failed", "cancelled"):
        witness.ledger.note("ended", handle.id, found["result"])


@dataclass(frozen=True, slots=True)
class Life:
    """
    A life of an engine.

    Attributes:
        name: tells what it makes from what others do.
        seed: of its chance.
        until: the moment by `time.monotonic` at which it starts no more runs; None for never.
        archived_after: seconds after which a run that has ended is archived; None for never.
        sample: whether it notes what it has.
    """

    name: str
    seed: int
    until: float | None = None
    archived_after: float | None = None
    sample: bool = False


async def _live(directory: Path, life: Life) -> None:
    """Own a directory and start runs, until a moment or for ever; then let everything end."""
    chance = random.Random(life.seed)
    plan, clock = FaultPlan(), JumpingClock(chance.randrange(-5_000_000, 5_000_000))

    def appender(log: Any, *rest: Any, **named: Any) -> Any:
        return Writer(FaultyLog(log, plan), *rest, **named)

    vars(app)["Engine"] = partial(Engine, appender=appender)
    if life.sample:
        vars(archiving)["COLLECT_US"] = vars(blobs)["GARBAGE_AGE_US"] = round(GARBAGE_AFTER_SECONDS * 1e6)
    archived = Archived()
    began = time.monotonic()
    ended = 0
    retention = None if life.archived_after is None else Retention(max_age_seconds=life.archived_after)
    async with Polos(data_dir=directory / "data", clock=clock, inbox_poll_seconds=0.01, retention=retention) as polos:
        witness.use(directory, life.name, polos.engine.store.log)
        trouble = asyncio.create_task(_trouble(plan, clock, chance))
        under_way: set[asyncio.Task[None]] = set()
        due = began
        with (directory / "samples").open("a", encoding="utf-8") as samples:
            while life.until is None or time.monotonic() < life.until:
                while len(under_way) < RUNS_AT_ONCE:
                    under_way.add(asyncio.create_task(_one(polos, chance)))
                done, under_way = await asyncio.wait(under_way, return_when="FIRST_COMPLETED", timeout=1.0)
                ended += len(done)
                if life.sample and time.monotonic() >= due:
                    due += 1.0
                    print(
                        json.dumps(vars_of(_sample(directory, polos, began, ended, archived))), file=samples, flush=True
                    )
        trouble.cancel()
        with suppress(asyncio.CancelledError):
            await trouble
        plan.never()
        await asyncio.gather(*under_way)
        await _settled(polos)


async def _settled(polos: Polos) -> None:
    """Wait until every run has ended; some were started in earlier lives."""
    while True:
        alive = [
            row["id"]
            for status in ("running", "waiting", "queued", "pending_cancel")
            for row in await polos.list_executions(status=status, limit=1_000)
        ]
        if not alive:
            return
        await asyncio.wait([asyncio.create_task(polos._wait_ended(run)) for run in alive], timeout=5.0)  # noqa: SLF001


def vars_of(sample: Sample) -> dict[str, Any]:
    """Give a sample as JSON has it."""
    return {name: getattr(sample, name) for name in Sample.__slots__}


def _lived(directory: Path, life: Life) -> None:
    light()
    asyncio.run(_live(directory, life))


def _chapter(directory: Path, number: int, chance: random.Random, seconds: float) -> tuple[int, str | None]:
    """Kill lives on a directory for so long, let everything end, and check; gives the kills and what is wrong."""
    directory.mkdir()
    kills = 0
    archived_after = chance.choice((None, 0.0, 5.0))
    until = time.monotonic() + seconds
    with client(directory):
        while time.monotonic() < until:
            life = Life(f"{number}.{kills}", chance.randrange(1 << 30), archived_after=archived_after)
            forked(partial(_lived, directory, life), kill_after_seconds=chance.uniform(0.1, 3.0))
            kills += 1
        last = Life(f"{number}.last", chance.randrange(1 << 30), time.monotonic(), archived_after)
        code = forked(partial(_lived, directory, last))
    wrong = f"the last life ended with {code}" if code else broken(directory)["promise"]
    return kills, wrong


def verdict(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """
    Judge the long life.

    Args:
        samples: in order of time.

    Returns:
        Lines for the report, and what is wrong.
    """
    lines, wrong = [], []
    if len(samples) < 2 * QUARTERS:
        return ["too short a life to say anything about growth"], []
    length = samples[-1].at_seconds / QUARTERS
    quarters = [
        [one for one in samples if int(min(one.at_seconds / length, QUARTERS - 1)) == n] for n in range(QUARTERS)
    ]
    if not all(quarters):
        return [], ["for a quarter of its life the engine gave no sample"]
    for name, (factor, fixed) in GROWTH.items():
        medians = [statistics.median(getattr(one, name) for one in quarter) for quarter in quarters]
        lines.append(f"{name:<18}" + "".join(f"{median:>12,.0f}" for median in medians))
        if medians[-1] > medians[1] * factor + fixed:
            wrong.append(f"{name} grew from {medians[1]:,.0f} to {medians[-1]:,.0f}")
    last = samples[-1]
    grown, records = (_growth(quarters[1], quarters[-1], name) for name in ("log_bytes", "records"))
    each = f"{grown / max(records, 1):,.0f} bytes"
    lines.append(f"the log's file has {last.log_bytes / 2**20:,.0f} MiB, {each} more with each record")
    if grown > BYTES_PER_RECORD_MAX * records + LOG_BYTES_FREE:
        wrong.append(f"the log grew by {each} a record since its second quarter, though runs are archived")
    grown, runs = (_growth(quarters[1], quarters[-1], name) for name in ("archive_bytes", "archived"))
    each = f"{grown / max(runs, 1):,.0f} bytes"
    lines.append(
        f"the archive has {last.archive_bytes / 2**20:,.1f} MiB, {each} more with each of {last.archived:,} runs"
    )
    if grown > BYTES_PER_ARCHIVED_RUN_MAX * runs + ARCHIVE_BYTES_FREE:
        wrong.append(f"the archive grew by {each} a run since its second quarter")
    lines.append(f"runs {last.runs:,}, records {last.records:,}, in {last.at_seconds:,.0f} s")
    return lines, wrong


def _growth(earlier: Sequence[Sample], later: Sequence[Sample], name: str) -> float:
    """Give by how much the median of a figure is larger later."""
    before, after = (statistics.median(float(getattr(one, name)) for one in some) for some in (earlier, later))
    return after - before


def soak(directory: Path, *, seconds: float, seed: int) -> int:
    """
    Soak.

    Args:
        directory: where everything lies; empty.
        seconds: how long.
        seed: of all chance; what the operating system does isn't drawn from it.

    Returns:
        0 if everything holds.
    """
    chance = random.Random(seed)
    warm()
    began = time.monotonic()
    wrong: list[str] = []
    long_life = directory / "long"
    long_life.mkdir()
    print(f"soak for {seconds:,.0f} s, seed {seed}, in {directory}", flush=True)
    child = fork()
    if child == 0:
        code = 1
        try:
            with client(long_life):
                _lived(long_life, Life("long", seed, began + seconds, ARCHIVED_AFTER_SECONDS, sample=True))
            code = 0
        except BaseException:  # noqa: BLE001  # it dies of it, and says so
            traceback.print_exc()
        finally:
            os._exit(code)
    number = kills_in_all = 0
    while (left := began + seconds - time.monotonic()) > 0:
        place = directory / f"chapter-{number}"
        kills, lost = _chapter(place, number, chance, min(CHAPTER_SECONDS, left))
        kills_in_all += kills
        print(f"chapter {number}: {kills} kills, {lost or 'everything holds'}", flush=True)
        wrong += [f"chapter {number}: {lost}"] if lost else []
        number += 1
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = {"promise": f"it ended with {code}", "runs": 0} if code else broken(long_life)
    wrong += [f"the long life: {found['promise']}"] if found["promise"] else []
    samples = [Sample(**json.loads(line)) for line in (long_life / "samples").read_text(encoding="utf-8").splitlines()]
    lines, grown = verdict(samples)
    print(f"\n{kills_in_all} kills in {number} chapters")
    print(f"the long life, of which all {found['runs']:,} runs were looked at, each event; median of each quarter:")
    print("\n".join(lines))
    for line in wrong + grown:
        print(f"WRONG: {line}")
    print("everything holds" if not wrong + grown else f"{len(wrong + grown)} promises don't hold")
    return 1 if wrong + grown else 0


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description="Mixed load, with everything going wrong."
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (%(default)s)")
    parser.add_argument("--directory", type=Path, help="an empty directory; a temporary one otherwise")
    options = parser.parse_args(arguments)
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
        return soak(options.directory, seconds=options.minutes * 60, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        return soak(Path(folder), seconds=options.minutes * 60, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
