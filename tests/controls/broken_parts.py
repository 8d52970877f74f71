"""
Parts of an engine that break one promise each, on purpose.

Where `broken` breaks an engine for good, in a child that is thrown away, these breaks are put back behind the test:
what they break is seen in this process, by checks that need neither a disk nor a kill. Most are off by little. They
count one too far, or forget one thing at one moment, and all that is common goes on as it should; for it isn't the
engine that does nothing that passes a weak test, it is the one that is nearly right.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from polos.engine import admission, evolve
from polos.engine import commands as c
from polos.engine import decide as deciding
from polos.engine import events as e
from polos.engine.admission import Admission, Ticket
from polos.engine.codec import SCHEMA_VERSIONS, UPCASTERS, decode
from polos.engine.decide import Decision
from polos.engine.state import OP_TRANSITIONS, RUN_TRANSITIONS, DebtKind, OpKind, OpStatus, Phase, RunState
from polos.replay.facts import Fact
from polos.runtime import loading
from polos.runtime.debts import Debts
from polos.runtime.engine import Engine
from polos.runtime.timers import Timers, Wanted
from polos.runtime.unit import Resident, Unit, Work
from polos.store import chain, memory
from polos.store.blobs import FileBlobs
from polos.store.layout import Plan
from polos.store.lmdb_log import LmdbLog
from polos.store.log import Position, Version
from polos.store.memory import MemoryLog

from tests.property import test_codec

__all__ = [
    "PartBreak",
    "collects_a_blob_that_is_pinned",
    "collects_what_was_put_again",
    "commits_unit_by_unit",
    "completes_a_step_twice",
    "counts_a_rate_by_grants",
    "counts_versions_of_all_streams_together",
    "decodes_old_bytes_as_new",
    "evicts_what_was_not_seen",
    "fires_twice_after_a_jump",
    "fires_what_has_fired",
    "folds_by_the_batch",
    "forgets_an_upcaster",
    "forgets_slots_in_a_crash",
    "forgets_what_the_attempt_before_finished",
    "gives_one_slot_too_many",
    "leaves_a_gap_between_commits",
    "leaves_time_out_of_the_chain",
    "lets_the_owner_before_append",
    "loses_a_wake_up",
    "nothing",
    "owes_behind_the_end",
    "refuses_what_a_second_attempt_gives",
    "refuses_what_cleans_up",
    "shares_memory_between_states",
    "shows_rows_before_their_records",
    "writes_rows_behind_the_records",
]

PartBreak = Callable[[pytest.MonkeyPatch], None]


def nothing(_patch: pytest.MonkeyPatch) -> None:
    """Break nothing: the check must pass then, or it says nothing."""


# ----------------------------------------------------------------------------------------------------- the log


def leaves_a_gap_between_commits(patch: pytest.MonkeyPatch) -> None:
    """The second commit begins one position too far."""
    whole = Plan.__init__

    def init(self: Plan, units: Any, head: Any, version_of: Any) -> None:
        whole(self, units, replace(head, position=Position(head.position + bool(head.position))), version_of)

    patch.setattr(Plan, "__init__", init)


def counts_versions_of_all_streams_together(patch: pytest.MonkeyPatch) -> None:
    """A process has one counter of versions, whatever the stream."""
    whole = Plan._version
    highest = [0]

    def version(self: Plan, stream: str) -> Version:
        highest[0] = max(highest[0], whole(self, stream), *self.versions.values())
        return Version(highest[0])

    patch.setattr(Plan, "_version", version)


def commits_unit_by_unit(patch: pytest.MonkeyPatch) -> None:
    """Of a group each unit is a commit of its own."""
    for log in (MemoryLog, LmdbLog):

        def append(self: Any, units: Any, *, epoch: Any, whole: Any = log.append) -> Any:
            return [receipt for unit in units for receipt in whole(self, [unit], epoch=epoch)]

        patch.setattr(log, "append", append)


def writes_rows_behind_the_records(patch: pytest.MonkeyPatch) -> None:
    """The rows of a group come in a commit of their own, behind that of its records."""
    whole = LmdbLog.append

    def append(self: LmdbLog, units: Any, *, epoch: Any) -> Any:
        receipts = whole(self, [replace(unit, rows=()) for unit in units], epoch=epoch)
        whole(self, [replace(unit, records=(), expected={}) for unit in units], epoch=epoch)
        return receipts

    patch.setattr(LmdbLog, "append", append)


def shows_rows_before_their_records(patch: pytest.MonkeyPatch) -> None:
    """A reader that is open sees the rows of a later group, and not its records: half of it."""
    whole = MemoryLog._changed

    def changed(self: MemoryLog, name: Any) -> memory._Sorted:
        return self._tables[name] if name == "rows" else whole(self, name)

    patch.setattr(MemoryLog, "_changed", changed)


def lets_the_owner_before_append(patch: pytest.MonkeyPatch) -> None:
    """The fence is off by one: the epoch before the newest may append, older ones may not."""
    for log in (MemoryLog, LmdbLog):

        def append(self: Any, units: Any, *, epoch: Any, whole: Any = log.append) -> Any:
            with self.reader() as reader:
                newest = reader.head().epoch
            return whole(self, units, epoch=newest if epoch == newest - 1 else epoch)

        patch.setattr(log, "append", append)


def leaves_time_out_of_the_chain(patch: pytest.MonkeyPatch) -> None:
    """The hash of a header skips its time, on both sides: what is written is read, and so is another time."""
    whole = chain._sha256
    place = 1 + struct.calcsize(">BBHIQQ")

    def sha256(data: bytes) -> Any:
        is_leaf = data[:2] == bytes((0, chain.HEADER_FORMAT)) and len(data) > chain._FIXED_BYTES
        return whole(data[:place] + data[place + 8 :] if is_leaf else data)

    patch.setattr(chain, "_sha256", sha256)


def collects_a_blob_that_is_pinned(patch: pytest.MonkeyPatch) -> None:
    """A pin that was set while garbage is collected is overlooked: the event that names the blob is on its way."""
    whole = FileBlobs.pin

    def pin(self: FileBlobs, digest: str) -> None:
        meanwhile, self._pinned_meanwhile = self._pinned_meanwhile, None
        whole(self, digest)
        self._pinned_meanwhile = meanwhile

    patch.setattr(FileBlobs, "pin", pin)


def collects_what_was_put_again(patch: pytest.MonkeyPatch) -> None:
    """Bytes that were there already don't get younger when they are put: they are taken as garbage, and then named."""

    def touch(_self: FileBlobs, path: Any) -> bool:
        return bool(path.exists())

    patch.setattr(FileBlobs, "_touch", touch)


# ---------------------------------------------------------------------------------------------------- the core


def _before(patch: pytest.MonkeyPatch, kind: type[Any], break_: Callable[[RunState], None]) -> None:
    """Have something done to the state before an event of that kind is folded."""
    whole = evolve._APPLY[kind]

    def apply(state: RunState, event: Any, time_us: int) -> None:
        break_(state)
        whole(state, event, time_us)

    patch.setitem(evolve._APPLY, kind, apply)


def shares_memory_between_states(patch: pytest.MonkeyPatch) -> None:
    """What is finished is noted in the state that was folded last of that run, too, which may be a copy by then."""
    last: dict[str, RunState] = {}
    for kind, whole in evolve._APPLY.items():

        def apply(state: RunState, event: Any, time_us: int, whole: Any = whole) -> None:
            whole(state, event, time_us)
            if state.run in last:
                last[state.run].finished.update(state.finished)
            last[state.run] = state

        patch.setitem(evolve._APPLY, kind, apply)


def refuses_what_cleans_up(patch: pytest.MonkeyPatch) -> None:
    """What a step gives while its run is being cancelled can't be recorded."""
    patch.delitem(RUN_TRANSITIONS[Phase.CANCELLING], e.StepCompleted)


def refuses_what_a_second_attempt_gives(patch: pytest.MonkeyPatch) -> None:
    """A step that failed once can't be completed any more."""
    patch.delitem(OP_TRANSITIONS[OpKind.STEP][OpStatus.BACKOFF], e.StepCompleted)


def completes_a_step_twice(patch: pytest.MonkeyPatch) -> None:
    """A step that is reported as done is recorded as done twice."""
    whole = deciding._DECIDE[c.CompleteStep]

    def complete(state: RunState, command: Any, now_us: int) -> Decision:
        decision = whole(state, command, now_us)
        return Decision([*decision.events, *decision.events])

    patch.setitem(deciding._DECIDE, c.CompleteStep, complete)


def owes_behind_the_end(patch: pytest.MonkeyPatch) -> None:
    """Who ends goes on owing what it owed."""
    whole = evolve._end

    def end(state: RunState, time_us: int) -> None:
        owed = state.owed
        whole(state, time_us)
        state.owed = owed

    patch.setattr(evolve, "_end", end)


def folds_by_the_batch(patch: pytest.MonkeyPatch) -> None:
    """Events that are folded into one state in a row have the time of the first of them."""
    batches: dict[int, tuple[RunState, int]] = {}  # with the states, so that no other gets their number
    for kind, whole in evolve._APPLY.items():

        def apply(state: RunState, event: Any, time_us: int, whole: Any = whole) -> None:
            _, first_us = batches.setdefault(id(state), (state, time_us))
            whole(state, event, first_us)

        patch.setitem(evolve._APPLY, kind, apply)


def forgets_what_the_attempt_before_finished(patch: pytest.MonkeyPatch) -> None:
    """Another attempt of a run finds nothing that the one before it has done."""
    _before(patch, e.RunRetried, lambda state: state.finished.clear())


def forgets_an_upcaster(patch: pytest.MonkeyPatch) -> None:
    """The schema version of an event was raised, and nobody wrote what old bytes become."""
    patch.setitem(SCHEMA_VERSIONS, "TimerFired", 2)


def decodes_old_bytes_as_new(patch: pytest.MonkeyPatch) -> None:
    """Of several upcasters only the last is asked."""

    def decoded(name: str, schema_version: int, payload: bytes) -> e.Event:
        newest = SCHEMA_VERSIONS[name]
        return decode(name, max(schema_version, newest - 1) if (name, newest - 1) in UPCASTERS else newest, payload)

    patch.setattr(test_codec, "decode", decoded)


# --------------------------------------------------------------------------------------------------- the shell


def loses_a_wake_up(patch: pytest.MonkeyPatch) -> None:
    """A run whose facts had to be durable first isn't looked at again when they are."""
    whole = Engine._after

    def after(self: Engine, resident: Resident) -> None:
        with pytest.MonkeyPatch.context() as inner:
            if not resident.ended:
                inner.setattr(self, "wake", lambda _run: None)
            whole(self, resident)

    patch.setattr(Engine, "_after", after)


def tells_a_place_too_far(patch: pytest.MonkeyPatch) -> None:
    """Code is told of the place behind that of its answer, before the answer is in the log."""
    whole = Unit._place

    def place(self: Unit, fact: Fact) -> None:
        whole(self, fact)
        fact.position += 1

    patch.setattr(Unit, "_place", place)


def evicts_what_was_not_seen(patch: pytest.MonkeyPatch) -> None:
    """A run may leave memory although its code hasn't seen a fact, and counts as having seen all that is recorded."""
    evicted: set[str] = set()
    evict, revive, replay = Engine.evict, loading.Loader._revive, loading.replay

    def evicting(self: Engine, run: str) -> bool:
        evicted.add(run)
        return evict(self, run)

    def reviving(self: loading.Loader, resident: Resident, events: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            if resident.run in evicted:
                inner.setattr(loading, "replay", lambda *given, **named: replay(*given, **named) and [])
            revive(self, resident, events)

    patch.setattr(Resident, "idle", property(lambda resident: not resident.in_flight))
    patch.setattr(Engine, "evict", evicting)
    patch.setattr(loading.Loader, "_revive", reviving)


def fires_twice_after_a_jump(patch: pytest.MonkeyPatch) -> None:
    """What is overdue, because the clock has jumped, comes up twice."""
    whole = Timers._wake

    def wake(self: Timers) -> None:
        on_due, now_us = self._on_due, self._clock.now_us()
        overdue = {wanted for wanted, due_us in self._known.items() if due_us < now_us}

        def twice(wanted: Wanted) -> None:
            for _ in range(1 + (wanted in overdue)):
                on_due(wanted)

        self._on_due = twice
        try:
            whole(self)
        finally:
            self._on_due = on_due

    patch.setattr(Timers, "_wake", wake)


def fires_what_has_fired(patch: pytest.MonkeyPatch) -> None:
    """What comes up twice is recorded twice: nobody looks whether it is still owed, nor whether it is still open."""
    whole = Debts.due

    def due(self: Debts, wanted: Wanted) -> None:
        run, kind, name = wanted

        def fire(unit: Unit) -> None:
            resident = self._engine.loader.find(run)
            if resident is not None:
                self._engine.decide_on(unit, resident, c.FireTimer(name=name))

        if kind == DebtKind.FIRE:
            self._engine.post(Work(fire))
        else:
            whole(self, wanted)

    fires_twice_after_a_jump(patch)
    patch.setattr(Debts, "due", due)
    patch.setitem(deciding._DECIDE, c.FireTimer, lambda _, command, __: Decision([e.TimerFired(name=command.name)]))


def gives_one_slot_too_many(patch: pytest.MonkeyPatch) -> None:
    """The limits of queues and keys are off by one."""
    patch.setattr(admission, "_below", lambda count, limit: limit is None or count <= limit)


def forgets_slots_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A run that was running when the engine died doesn't count for its queue any more."""

    def hold(self: Admission, ticket: Ticket) -> None:
        self._take(replace(ticket, queue=f"formerly {ticket.queue}"))

    patch.setattr(Admission, "hold", hold)


def counts_a_rate_by_grants(patch: pytest.MonkeyPatch) -> None:
    """A rate counts when somebody was let go, and not when its start is recorded, however much later that is."""
    whole = Admission._grant

    def grant(self: Admission, now_us: int) -> list[str]:
        granted = whole(self, now_us)
        for run in granted:
            self._settle_start(self._holders[run], now_us)
        return granted

    patch.setattr(Admission, "_grant", grant)
