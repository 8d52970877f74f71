"""What a sound log can never take: whoever asked for it is told, once, and nobody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from polos import BatchWorkflowInput, Polos, Worker, WorkflowContext, tool, workflow
from polos.engine import events as e
from polos.errors import (
    EngineNotRunning,
    PolosError,
    PolosInternalError,
    PolosUsageError,
    StoreClosed,
    StoreDamaged,
    StoreFailed,
    StoreFull,
    StoreReadOnly,
)
from polos.runtime.client import PolosClient
from polos.store.lmdb_log import LmdbLog
from polos.store.log import AppendUnit, Epoch, Receipt
from polos.store.memory import MemoryLog
from polos.testing import Simulation
from polos.testing.simulation import QUIET

TOO_LONG = "\x01" * 199  # each character takes two bytes of a key, and a suspend has its name in one twice


@workflow(id="cant-be-recorded")
async def hopeless(ctx: WorkflowContext) -> str:
    await ctx.step.run("first", lambda: "done")
    await ctx.step.suspend(TOO_LONG, {})
    return "never"


@workflow(id="at-once-cant-be-recorded")
async def hopeless_at_once(ctx: WorkflowContext) -> str:
    await ctx.step.suspend(TOO_LONG, {})
    return "never"


@workflow(id="asks-the-hopeless")
async def parent(ctx: WorkflowContext) -> list[Any]:
    found = await ctx.step.batch_invoke_and_wait(
        "all", [BatchWorkflowInput(id=one) for one in (hopeless.id, hopeless_at_once.id, fine.id)]
    )
    return [one.result or str(one.error)[:18] for one in found]


@workflow(id="cleans-up-unrecordably")
async def cleans_up(ctx: WorkflowContext) -> None:
    try:
        await ctx.step.wait_for_signal("go")
    finally:
        await ctx.step.suspend(TOO_LONG, {})


@workflow(id="recorded-beside")
async def fine(ctx: WorkflowContext) -> int:
    return sum([await ctx.step.run("work", lambda: 1) for _ in range(5)])


@tool(id="suspends-in-vain")
async def suspends_in_vain(ctx: WorkflowContext) -> str:
    """Catch what can't be recorded where it is asked for."""
    try:
        await ctx.step.suspend(TOO_LONG, {})
    except PolosUsageError as error:
        return str(error)[:12]
    return "never"


@workflow(id="pays-unrecordably")
async def pays(ctx: WorkflowContext) -> Any:
    return await ctx.step.run("pay", lambda: CALLS.append("pay"))


CALLS: list[str] = []
KNOWN = [hopeless, hopeless_at_once, parent, cleans_up, fine, pays]


class Refusing:
    """A log in memory that refuses events of a type, for as long as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kinds: set[str] | str, error: Callable[[], Exception]) -> None:
        self.on, self.refused = True, 0
        kinds = {kinds} if isinstance(kinds, str) else kinds
        append = MemoryLog.append

        def refuse(log: MemoryLog, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
            if self.on and any(record.type in kinds for unit in units for record in unit.records):
                self.refused += 1
                raise error()
            return append(log, units, epoch=epoch)

        monkeypatch.setattr(MemoryLog, "append", refuse)


def failure(sim: Simulation, run: str) -> str:
    end = sim.audit.end_of(run)
    assert isinstance(end, e.RunFailed)
    return f"{end.error.type}: {end.error.message[:18]}"


def test_runs_that_ask_for_what_no_key_can_hold_fail_and_others_go_on():
    """The first refusal concerns them all, a second one finds who it was; nothing is tried for ever."""
    with Simulation(KNOWN) as sim:
        calls = [sim.create(one, None) for one in (hopeless, fine, hopeless_at_once, fine)]
        sim.settle()

        assert {"accepted"} == {call.reply["outcome"] for call in calls if call.reply}
        assert ["PolosUsageError: a key of 894 bytes"] * 2 == [failure(sim, calls[0].run), failure(sim, calls[2].run)]
        assert [5, 5] == [sim.result(calls[1].run), sim.result(calls[3].run)]
        assert 6 > sim.engine.writer.statistics().failures
        assert not sim.engine.suspects.careful


def test_a_parent_learns_that_its_child_couldnt_be_recorded():
    """Children of one batch are decided in one unit; only those who are to blame fail, each by itself."""
    with Simulation(KNOWN) as sim:
        asked = sim.create(parent, None)
        sim.settle()

        assert ["a key of 894 bytes", "a key of 894 bytes", 5] == sim.result(asked.run)


@pytest.mark.parametrize("crash", [False, True])
def test_a_run_that_is_cancelled_and_asks_for_what_cant_be_recorded_fails(crash: bool):
    """Also a run that cleans up after a cancellation, and one that another engine goes on with."""
    with Simulation(KNOWN) as sim:
        asked = sim.create(cleans_up, None)
        sim.run_for(1)
        if crash:
            sim.recover()
        sim.send("cancel", run=asked.run, by="me")
        sim.settle()

        assert "PolosUsageError: a key of 894 bytes" == failure(sim, asked.run)


def test_a_body_that_isnt_replayed_can_catch_what_cant_be_recorded():
    """The error is raised at the line that asked, as any other wrong argument."""
    with Simulation([suspends_in_vain]) as sim:
        asked = sim.create(suspends_in_vain, None)
        sim.settle()

        assert "a key of 894" == sim.result(asked.run)


@pytest.mark.parametrize("error", [PolosUsageError, PolosInternalError])
def test_a_command_that_the_log_cant_take_is_refused(monkeypatch: pytest.MonkeyPatch, error: type[PolosError]):
    """With the log's own error, which doesn't concern what was asked for beside it."""
    with Simulation(KNOWN) as sim:
        log = Refusing(monkeypatch, "QueueConfigured", lambda: error("too much"))
        told = sim.send("queue", queue="q", changes={"paused": True}, create=True)
        beside = sim.create(fine, None)
        again = sim.send("queue", queue="q2", changes={"paused": True}, create=True)
        sim.settle()

        assert [error, error] == [type(told.error), type(again.error)]
        assert "too much" == str(told.error)
        assert 5 == sim.result(beside.run)
        assert 5 > log.refused


def test_a_command_in_the_inbox_that_the_log_cant_take_is_refused(monkeypatch: pytest.MonkeyPatch):
    """It is recorded as refused with the error that its client raises, and its file is gone."""
    with Simulation(KNOWN) as sim:
        Refusing(monkeypatch, "QueueConfigured", lambda: PolosUsageError("too much"))
        command = {"kind": "queue", "queue": "q", "changes": {"paused": True}, "create": True}
        sim.store.inbox.put("01", orjson.dumps({"command": command}))
        for _ in range(3):
            sim.engine.intake.look()
            sim.settle()

        with sim.store.log.reader() as reader:
            row = reader.row(("command", "01"))
        assert row is not None
        assert ["refused", {"error": "PolosUsageError", "message": "too much"}] == [
            orjson.loads(row)[name] for name in ("outcome", "detail")
        ]
        assert [] == list(sim.store.inbox.pending(limit=10))


def test_an_outcome_that_a_bug_keeps_from_being_recorded_is_kept(monkeypatch: pytest.MonkeyPatch):
    """The run is set aside, others go on, and when it is let in again its step isn't called a second time."""
    CALLS.clear()
    with Simulation(KNOWN) as sim:
        log = Refusing(monkeypatch, "StepCompleted", lambda: PolosInternalError("L3: version 7"))
        asked = sim.create(pays, None)
        sim.run_for(60)
        aside = sim.engine.loader.get(asked.run).state.aside
        refused = log.refused
        log.on = False
        beside = sim.create(fine, None)
        sim.send("readmit", run=asked.run)
        sim.settle()

        assert ["internal_error", ["pay"]] == [aside, CALLS]
        assert 5 > refused
        assert isinstance(sim.audit.end_of(asked.run), e.RunCompleted)
        assert 5 == sim.result(beside.run)


def test_what_is_kept_of_a_run_that_is_set_aside_doesnt_hold_up_the_end(monkeypatch: pytest.MonkeyPatch):
    """An engine that stops waits for steps that run, not for outcomes that nobody will record."""
    with Simulation(KNOWN) as sim:
        Refusing(monkeypatch, "StepCompleted", lambda: PolosInternalError("L3: version 7"))
        sim.create(pays, None)
        sim.run_for(60)
        before, grace_seconds = sim.clock.now_us(), sim.engine.settings.stop_grace_seconds
        sim.stop()

        assert grace_seconds * 1e6 / 2 > sim.clock.now_us() - before


def test_a_run_whose_setting_aside_cant_be_recorded_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """Nothing more is tried for it; the log's own troubles are told once for each try, not for ever."""
    with Simulation(KNOWN) as sim:
        kinds = {"StepScheduled", "RunSetAside"}
        log = Refusing(monkeypatch, kinds, lambda: PolosInternalError("L3: version 7"))
        asked = sim.create(pays, None)
        sim.run_for(3_600)

        assert None is sim.engine.loader.get(asked.run).state.aside
        assert 10 > log.refused


def test_a_commit_that_went_well_before_its_error_counts(monkeypatch: pytest.MonkeyPatch):
    """Whoever is told of appends fails behind the commit: the outcome is unknown, and the head on disk decides."""
    with Simulation(KNOWN) as sim:
        append = MemoryLog.append
        failing = 3

        def late(log: MemoryLog, units: Sequence[AppendUnit], *, epoch: Epoch) -> list[Receipt]:
            nonlocal failing
            told = append(log, units, epoch=epoch)
            if failing:
                failing -= 1
                raise PolosInternalError("behind the commit")
            return told

        monkeypatch.setattr(MemoryLog, "append", late)
        asked = sim.create(fine, None)
        sim.settle()

        assert 5 == sim.result(asked.run)


def test_a_blob_for_which_the_disk_has_no_room_is_no_bug(monkeypatch: pytest.MonkeyPatch):
    """What is written beside the log is tried again as the log is; no run is set aside for it."""
    with Simulation(KNOWN, settings=replace(QUIET, record_sources=True)) as sim:
        full = True
        put = sim.store.blobs.put

        def no_room(data: bytes) -> str:
            if full:
                raise StoreFull("no space left")
            return put(data)

        monkeypatch.setattr(sim.store.blobs, "put", no_room)
        asked = sim.create(fine, None)
        sim.run_for(1)
        full = False
        sim.settle()

        assert 5 == sim.result(asked.run)
        assert {} == sim.engine.recovery.stuck


# ------------------------------------------------------------------------------------ a log that is over


def damaged(*_: object, **__: object) -> list[Receipt]:
    raise StoreDamaged("page 7 isn't one")


def test_serve_ends_with_the_error_of_a_damaged_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program that only serves isn't left standing there with an engine that does nothing."""

    async def main() -> None:
        polos = Polos(data_dir=tmp_path)
        await polos.start()
        monkeypatch.setattr(LmdbLog, "append", damaged)
        serving = asyncio.create_task(polos.serve())
        with pytest.raises((StoreFailed, EngineNotRunning)):
            await fine.invoke(polos)
        with pytest.raises(StoreDamaged, match="page 7"):
            await serving

    asyncio.run(main())


def test_a_worker_ends_with_the_error_of_a_damaged_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As `serve` does."""

    async def main() -> None:
        worker = Worker(PolosClient(data_dir=tmp_path), deployment_id="d", workflows=[fine])
        running = asyncio.create_task(worker.run())
        await worker.started()
        monkeypatch.setattr(LmdbLog, "append", damaged)
        with pytest.raises((StoreFailed, EngineNotRunning)):
            await fine.invoke(worker.client)
        with pytest.raises(StoreDamaged, match="page 7"):
            await running

    asyncio.run(main())


@pytest.mark.parametrize("error", [RuntimeError, StoreClosed])
def test_a_log_that_cant_be_opened_again_for_good_ends_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
):
    """What waits is refused, and so is what comes later, with the reason; the program itself goes on."""

    def reopen(_log: LmdbLog) -> None:
        raise error("it is gone")

    def unknown(*_: object, **__: object) -> list[Receipt]:
        raise StoreFailed("who knows", maybe_happened=True)

    async def main() -> None:
        async with Polos(data_dir=tmp_path) as polos:
            await fine.run(polos)
            monkeypatch.setattr(LmdbLog, "append", unknown)
            monkeypatch.setattr(LmdbLog, "reopen", reopen)
            with pytest.raises(StoreFailed, match="the engine gave up"):
                await fine.invoke(polos)
            with pytest.raises(EngineNotRunning, match="it is gone"):
                await fine.invoke(polos)

    asyncio.run(main())


def test_a_disk_that_is_away_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Mounted for reading alone, as kernels do after an error: the log is opened again when it can be."""
    reopen, left = LmdbLog.reopen, 3

    def read_only(log: LmdbLog) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise StoreReadOnly("it is mounted for reading")
        monkeypatch.setattr(LmdbLog, "append", append)
        return reopen(log)

    def unknown(*_: object, **__: object) -> list[Receipt]:
        raise StoreFailed("who knows", maybe_happened=True)

    append = LmdbLog.append

    async def main() -> None:
        async with Polos(data_dir=tmp_path, retry_append_seconds=0.001) as polos:
            await fine.run(polos)
            monkeypatch.setattr(LmdbLog, "append", unknown)
            monkeypatch.setattr(LmdbLog, "reopen", read_only)

            assert 5 == await fine.run(polos)

    asyncio.run(main())
