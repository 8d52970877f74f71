"""
What is to be archived next, found and packed on a thread.

Everything here reads the log in short views and puts blobs; nothing is decided. What it gives is checked once more
where it is decided, because runs may have changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Final, Protocol, final

from polos.data_class import dataclass
from polos.engine import events as e
from polos.engine.codec import decode, encode
from polos.engine.evolve import evolve
from polos.engine.json import Json
from polos.engine.projections import queue_of, run_rows, run_stream, sealed
from polos.engine.state import ENDED, RunState
from polos.retention import Retention
from polos.runtime import reads
from polos.store.log import Key, Log, Reader, Record, Version
from polos.store.segments import PRUNABLE, encode_segment

__all__ = ["Found", "Keeps", "Portion", "Tree", "look", "pack"]

KEYS_A_VIEW: Final = 200
RECORDS_A_VIEW: Final = 1_000
PORTION_RECORDS: Final = 1_000
SEGMENT_BYTES: Final = 4 << 20  # before it is compressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeps:
    """
    What keeps a tree from being archived beside its policy.

    Attributes:
        idempotency_us: for how long an idempotency key counts.
        rate_us: for each queue with a rate, for how long a start counts against it.
    """

    idempotency_us: int
    rate_us: Mapping[str, int]

    def until_us(self, state: RunState) -> int:
        """Tell until when a run that ended must stay; 0 if nothing keeps it."""
        until_us = 0
        if state.idempotency_key is not None:
            until_us = state.created_us + self.idempotency_us
        for started_us in state.counted_us:
            until_us = max(until_us, started_us + self.rate_us.get(queue_of(state), 0))
        return until_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A tree that is due: its runs, the root first, and why."""

    runs: tuple[str, ...]
    reason: str


@dataclass(slots=True)
class Found:
    """Trees that are due, and when the next one will be, if that is known."""

    trees: list[Tree] = field(default_factory=list[Tree])
    next_us: int | None = None

    def not_before(self, due_us: int) -> None:
        """Note a moment at which something will be due."""
        if self.next_us is None or due_us < self.next_us:
            self.next_us = due_us


@dataclass(slots=True)
class Portion:
    """
    Trees that are packed, to be sealed in one commit.

    Attributes:
        segments: blobs that hold their records.
        runs: what stays of each run.
        versions: how long the stream of each run was when it was packed.
        positions: where their records stand.
        rows: keys of the rows that go.
        pruned: of how many records the payload isn't in the segments.
        reason: why they are archived.
    """

    reason: str
    segments: list[str] = field(default_factory=list[str])
    runs: list[Json] = field(default_factory=list[Json])
    versions: dict[str, Version] = field(default_factory=dict[str, Version])
    positions: list[int] = field(default_factory=list[int])
    rows: list[Key] = field(default_factory=list[Key])
    pruned: int = 0

    def event(self, now_us: int) -> e.RangeSealed:
        """Give what is recorded of them."""
        return e.RangeSealed(
            segments=tuple(self.segments), ranges=tuple(_ranges(sorted(self.positions))), runs=self.runs, at_us=now_us,
            reason=self.reason, pruned=self.pruned,
        )  # fmt: skip


def _ranges(positions: Sequence[int]) -> Iterator[int]:
    first = last = 0
    for position in positions:
        if position != last + 1 and first:
            yield from (first, last + 1 - first)
            first = 0
        first = first or position
        last = position
    if first:
        yield from (first, last + 1 - first)


# ------------------------------------------------------------------------------------------ looking


def look(log: Log, workflow: str, policy: Retention, now_us: int) -> Found:
    """Find the trees of a workflow that its policy wants archived, the oldest first."""
    found = Found()
    age_us = None if policy.max_age_seconds is None else round(policy.max_age_seconds * 1e6)
    over: list[Tree] = []  # in order of creation; the last ones of them are those that are kept
    for created_us, tree, ended_us in _trees(log, workflow, policy):
        if age_us is not None and created_us + age_us > now_us and policy.max_count is None:
            found.not_before(created_us + age_us)  # all others are younger
            break
        if age_us is not None and ended_us + age_us <= now_us:
            found.trees.append(Tree(runs=tree, reason="age"))
            continue
        if age_us is not None:
            found.not_before(ended_us + age_us)
        if policy.max_count is not None:
            over.append(Tree(runs=tree, reason="count"))
    if policy.max_count is not None and len(over) > policy.max_count:
        found.trees += over[: len(over) - policy.max_count]
    return found


def _trees(log: Log, workflow: str, policy: Retention) -> Iterator[tuple[int, tuple[str, ...], int]]:
    """Give the trees of a workflow that have ended as the policy says: creation, runs, and end of the last of them."""
    after: Key | None = None
    while True:
        seen: list[tuple[int, tuple[str, ...], int]] = []
        with log.reader() as reader:
            keys = [key for key, _ in reader.rows(("workflow", workflow), after=after, limit=KEYS_A_VIEW)]
            for key in keys:
                tree = _ended_tree(reader, str(key[3]), policy)
                if tree is not None:
                    seen.append((int(key[2]), *tree))
        yield from seen
        if len(keys) < KEYS_A_VIEW:
            return
        after = keys[-1]


def _ended_tree(reader: Reader, run: str, policy: Retention) -> tuple[tuple[str, ...], int] | None:
    row = reads.run_row(reader, run)
    if row is None or row.root != run or not row.ended:
        return None
    last = reads.last_row(reader, run)
    if last is None or last.status not in policy.statuses:
        return None
    runs = reads.tree_runs(reader, run)
    ended_us = 0
    for member in runs:
        found = reads.run_row(reader, member)
        if found is None or found.ended_us is None:
            return None
        ended_us = max(ended_us, found.ended_us)
    return tuple(runs), ended_us


# ------------------------------------------------------------------------------------------ packing


class Puts(Protocol):
    """Where segments go."""

    def put(self, data: bytes) -> str:
        """Keep bytes, durably when this returns, and give their digest."""
        ...


def pack(
    log: Log,
    blobs: Puts,
    trees: Sequence[Tree],
    keeps: Keeps,
    now_us: int,
    *,
    deltas: bool = True,
    packed: Callable[[], None],
) -> tuple[Portion | None, int, int | None]:
    """
    Pack the first of some trees, as many as make a portion.

    Args:
        log: where they are.
        blobs: where their segments go.
        trees: all that are due, of one reason.
        keeps: what keeps them.
        now_us: the time.
        deltas: whether what steps sent while they ran is kept.
        packed: called when a segment is durable.

    Returns:
        The portion, None if all of the trees that were looked at are kept; how many were looked at; and when the first
        of those that are kept isn't any more.
    """
    packer = _Packer(log, blobs, packed, deltas=deltas)
    portion = Portion(reason=trees[0].reason)
    kept_us: int | None = None
    taken = 0
    for tree in trees:
        if tree.reason != portion.reason or len(portion.positions) >= PORTION_RECORDS:
            break
        taken += 1
        states = [_fold(log, run) for run in tree.runs]
        if any(state.phase not in ENDED or state.owed for state in states):
            continue  # something happened since; its end is told again, or its message is delivered some day
        until_us = max(map(keeps.until_us, states))
        if until_us > now_us:
            kept_us = until_us if kept_us is None else min(kept_us, until_us)
            continue
        packer.add(portion, states)
    packer.flush(portion)
    return (portion if portion.runs else None), taken, kept_us


def _fold(log: Log, run: str) -> RunState:
    state = RunState(run=run)
    for record in _records(log, run):
        evolve(state, decode(record.type, record.schema_version, record.payload), time_us=record.time_us)
    return state


def _records(log: Log, run: str) -> Iterator[Record]:
    version = Version(0)
    while True:
        with log.reader() as reader:
            records = list(reader.stream(run_stream(run), after=version, limit=RECORDS_A_VIEW))
        yield from records
        if len(records) < RECORDS_A_VIEW:
            return
        version = records[-1].version


@final
class _Packer:
    """Puts the records of trees into segments of about the same size."""

    def __init__(self, log: Log, blobs: Puts, packed: Callable[[], None], *, deltas: bool) -> None:
        self._log = log
        self._blobs = blobs
        self._packed = packed
        self._deltas = deltas
        self._pruned: dict[int, bytes] = {}
        self._records: list[Record] = []
        self._bytes = 0
        self._waiting: list[list[Json]] = []  # lists of segments that get the one that is being filled

    def add(self, portion: Portion, states: Sequence[RunState]) -> None:
        """Take a tree, the root first."""
        segments: list[Json] = []
        self._waiting.append(segments)
        for state in states:
            for record in _records(self._log, state.run):
                if record.version > state.version:
                    break
                assert not record.blobs, "no event of a run names blobs: they would go with it"
                portion.positions.append(record.position)
                self._records.append(record)
                self._bytes += self._size(record)
                if self._bytes >= SEGMENT_BYTES:
                    self.flush(portion)
                    self._waiting.append(segments)
            portion.versions[run_stream(state.run)] = Version(state.version)
            portion.rows += run_rows(state)
            portion.runs.append(sealed(state, segments if state.run == state.root else None))

    def _size(self, record: Record) -> int:
        """Give what a record takes; of deltas that aren't kept, their number is."""
        if self._deltas or record.type != PRUNABLE:
            return len(record.payload)
        chunk = decode(record.type, record.schema_version, record.payload)
        assert isinstance(chunk, e.StreamChunk), "deltas are what may be pruned"
        instead = encode(replace(chunk, deltas=(), pruned=len(chunk.deltas)))[2]
        self._pruned[record.position] = instead
        return len(instead)

    def flush(self, portion: Portion) -> None:
        """Make a segment of what was taken."""
        if not self._records:
            self._waiting.clear()
            return
        digest = self._blobs.put(encode_segment(self._records, self._pruned))
        self._packed()
        portion.segments.append(digest)
        portion.pruned += len(self._pruned)
        self._pruned.clear()
        for segments in self._waiting:
            if digest not in segments:
                segments.append(digest)
        self._waiting.clear()
        self._records.clear()
        self._bytes = 0
