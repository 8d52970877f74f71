"""
The suite catches an archiver that is nearly right.

As in `test_controls` and `test_power_controls`: with one thing broken a check of the archive must fail and say why,
and with all as it is it must pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from polos.engine import events as e
from polos.engine.codec import encode
from polos.runtime import archiving, portions, reads
from polos.runtime.archiving import Archiving
from polos.store import sealing
from polos.store.faults import Fault
from polos.store.log import Record, Version
from polos.store.sealing import Sealing

from tests import test_pruned, test_retention
from tests.contract import test_sealing
from tests.controls import broken
from tests.controls import broken_parts as parts
from tests.controls.test_part_controls import on_each_log, seen
from tests.controls.test_power_controls import look
from tests.crash.archive_lives import archive_streams, fill_streams
from tests.crash.power_runs import recorded

ARCHIVE = "tests.crash.archive_lives:check_archive"


@pytest.mark.usefixtures("ptrace")
@pytest.mark.parametrize(
    ("broke", "says"),
    [
        (broken.forgets_to_sync_contents, "isn't what was put"),
        (broken.forgets_to_sync_names, "isn't there"),
        (broken.commits_before_the_blob, "isn't there"),
        (broken.nothing, ""),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_records_leave_before_their_segment_is_on_disk(tmp_path: Path, broke: broken.Break, says: str):
    """An archiver that seals what isn't synced yet loses records in a power cut, and the images show it."""

    def lived(directory: Path) -> None:
        broke()
        archive_streams(directory)

    look(tmp_path, recorded(tmp_path / "lived", lived, fill_streams), says, check=ARCHIVE)


def drops_a_leaf(patch: pytest.MonkeyPatch) -> None:
    """Of the records that leave, the last leaves no leaf."""
    whole = vars(sealing)["encode_range"]
    patch.setattr(sealing, "encode_range", lambda first, head, leaves: whole(first, head, leaves[:-32] or leaves))


def swaps_leaves(patch: pytest.MonkeyPatch) -> None:
    """Leaves are kept in another order than that of their records."""
    whole = vars(sealing)["encode_range"]

    def swapped(first: int, head: bytes, leaves: bytes) -> bytes:
        return bytes(whole(first, head, leaves[32:64] + leaves[:32] + leaves[64:]))

    patch.setattr(sealing, "encode_range", swapped)


def forgets_the_sealed_versions(patch: pytest.MonkeyPatch) -> None:
    """A sealed stream begins anew."""
    whole = Sealing.__init__

    def init(self: Sealing, tables: Any, streams: Any, *, epoch: Any) -> None:
        whole(self, tables, streams, epoch=epoch)
        self.put["streams"] = {key: value for key, value in self.put["streams"].items() if value[:8] != bytes(8)}

    patch.setattr(Sealing, "__init__", init)


@pytest.mark.parametrize("broke", [drops_a_leaf, swaps_leaves, parts.nothing], ids=lambda one: one.__name__)
def test_the_chain_misses_a_leaf(tmp_path: Path, broke: parts.PartBreak):
    """L8 is checked over sealed ranges, too."""
    with seen(broke, "L1: the sealed range|doesn't follow"):
        on_each_log(tmp_path, test_sealing.test_l8_the_chain_goes_through_what_was_sealed)


@pytest.mark.parametrize("broke", [forgets_the_sealed_versions, parts.nothing], ids=lambda one: one.__name__)
def test_a_sealed_stream_begins_anew(tmp_path: Path, broke: parts.PartBreak):
    """L2 is checked over sealed streams, too."""
    with seen(broke, r"assert 1 == 3\n.*where 1 = version\('a'\)"):
        on_each_log(tmp_path, test_sealing.test_l2_a_sealed_stream_keeps_its_version)


# ------------------------------------------------------------------------------------------------- the engine


def leaves_rows_behind(patch: pytest.MonkeyPatch) -> None:
    """The rows of archived runs stay."""
    whole = vars(portions)["run_rows"]
    patch.setattr(portions, "run_rows", lambda state: list(whole(state))[:-1])


def takes_out_what_is_not_sealed(patch: pytest.MonkeyPatch) -> None:
    """Records leave the log, and nothing stands for them."""

    def event(self: portions.Portion, now_us: int) -> e.RangeSealed:
        return e.RangeSealed(segments=tuple(self.segments), ranges=(), runs=self.runs[:1], at_us=now_us)

    patch.setattr(portions.Portion, "event", event)


def forgets_the_rest(patch: pytest.MonkeyPatch) -> None:
    """What a killed engine sealed and left in the log stays there."""
    patch.setattr(archiving, "_left", lambda _reader: {})


def seals_again_after_an_unknown_outcome(patch: pytest.MonkeyPatch) -> None:
    """A commit that turned out well is decided once more as if it hadn't."""
    patch.setattr(Archiving, "_is_sealed", staticmethod(lambda _reader, _portion: False))


def forgets_idempotency(patch: pytest.MonkeyPatch) -> None:
    """A run is archived though its key still counts."""
    patch.setattr(portions.Keeps, "until_us", lambda _self, _state: 0)


def forgets_children(patch: pytest.MonkeyPatch) -> None:
    """A root is archived, and whatever is below it stays."""
    patch.setattr(reads, "tree_runs", lambda _reader, root: [root])


def stops_half_way(patch: pytest.MonkeyPatch) -> None:
    """Of a stream only the first half leaves the log."""
    whole = archiving._portions
    patch.setattr(
        archiving, "_portions", lambda streams: whole({name: Version((at + 1) // 2) for name, at in streams.items()})
    )


def prunes(wanted: str, number: int | None = None) -> parts.PartBreak:
    """What is pruned are records of this type, and their number of deltas is said to be this one."""

    def broke(patch: pytest.MonkeyPatch) -> None:
        whole = portions._Packer._size

        def size(self: portions._Packer, record: Record) -> int:
            found = whole(self, record)
            if record.type == wanted:
                chunk = e.StreamChunk(name="say", attempt=1, first_index=0, pruned=number or 1)
                self._pruned[record.position] = encode(chunk)[2]
            return found

        patch.setattr(portions._Packer, "_size", size)

    return broke


def keeps_deltas(patch: pytest.MonkeyPatch) -> None:
    """Nothing is pruned."""
    patch.setattr(portions._Packer, "_size", lambda _self, record: len(record.payload))


KILLED = ("archive_sealed_before_taken_out", 1)
FOLD = "L6: rows differ from the fold"
SEALED_TWICE = r"assert 1 == 2\n.*where 2 = len\(\[RangeSealed"
STILL_THERE = r"assert not \[Record\(position=1, stream='run/"
PRUNED = "test_deltas_are_pruned_and_nothing_else"
CAUGHT: list[tuple[parts.PartBreak, str, tuple[Any, ...], str]] = [
    (leaves_rows_behind, "test_a_tree_leaves_the_log_when_its_time_has_come", (), FOLD),
    (takes_out_what_is_not_sealed, "test_a_tree_goes_as_a_whole", (), FOLD),
    (forgets_the_rest, "test_a_kill_at_any_step_loses_nothing_and_doubles_nothing", KILLED, STILL_THERE),
    (seals_again_after_an_unknown_outcome, "test_a_log_that_refuses_the_seal", (Fault.UNKNOWN_KEPT,), SEALED_TWICE),
    (forgets_idempotency, "test_an_idempotency_key_keeps_its_run", (), "the same request is the same run"),
    (forgets_idempotency, "test_a_start_that_counts_keeps_its_run", (), r"assert \(2, \[\]\) == \(0, \['"),
    (forgets_children, "test_a_tree_goes_as_a_whole", (), "Right contains one more item: '019"),
    (stops_half_way, "test_a_tree_leaves_the_log_when_its_time_has_come", (), "StepCompleted in phase absent"),
    (prunes("StepCompleted"), PRUNED, (), "a StepCompleted, isn't what was written"),
    (prunes("StreamChunk", 7), PRUNED, (), "deltas of 'say' from 0 on, after 7"),
    (keeps_deltas, PRUNED, (), r"At index 3 diff: \(StreamChunk\(.*deltas=\(\), pruned=2\)"),
]


@pytest.mark.parametrize("number", range(len(CAUGHT)), ids=lambda number: f"{number}-{CAUGHT[number][0].__name__}")
@pytest.mark.parametrize("is_broken", [True, False])
def test_an_archiver_that_is_nearly_right(number, is_broken, monkeypatch):
    """Each break is caught by the test that is about it, which passes with all as it is."""
    broke, name, arguments, says = CAUGHT[number]
    check = getattr(test_pruned if name == PRUNED else test_retention, name)
    with seen(broke if is_broken else parts.nothing, says):
        check(*arguments, *((monkeypatch,) if arguments is KILLED else ()))
