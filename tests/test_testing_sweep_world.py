"""The crash sweep and the world that steps act upon: fakes, dead processes, connections, ledgers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from polos import workflow
from polos.errors import PolosUsageError
from polos.store.memory import MemoryLog
from polos.testing import CrashOutcome, Outside, crash_sweep
from polos.testing import loop as loops
from polos.testing.audit import Audit
from polos.testing.clock import VirtualClock
from polos.testing.outside import Place
from polos.testing.sweep_calls import CallLedger
from polos.testing.sweep_report import CrashReport

from tests.sweep_workflows import bank
from tests.test_testing_sweep import failure, swept


def test_a_world_that_is_not_made_anew_is_told():
    """A fake that remembers the scenario before fails at the second undisturbed run, which no crash is to blame for."""
    calls: list[int] = []

    @workflow
    async def acts(ctx) -> None:
        await ctx.step.run("act", lambda: calls.append(1))

    def check(outcome: CrashOutcome) -> None:
        assert len(calls) == 1

    failed = failure(acts, check=check)

    assert () == failed.points
    assert "does setup begin anew?" in str(failed)


def test_a_dead_process_writes_nothing():
    """Handlers of cancellations don't run in a step that is killed; what `finally` notes isn't taken."""
    cancelled: list[int] = []

    async def hold() -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise
        finally:
            bank.note("released")

    @workflow
    async def holds(ctx) -> None:
        await ctx.step.run("hold", hold)

    def check(outcome: CrashOutcome) -> None:
        if outcome.crashes == ("inside_effect/await:1",):
            held.append(bank.count("released"))

    held: list[int] = []
    swept(holds, check=check, pairs=0)

    assert ([], [1]) == (cancelled, held)


def test_a_step_that_catches_everything_dies_all_the_same():
    """Whatever a function does with the crash that it catches, and raises when it is closed, the process is dead."""
    closed: list[str] = []

    async def clings() -> str:
        try:
            await asyncio.sleep(1)
        except BaseException as error:
            closed.append(type(error).__name__)
            raise RuntimeError("not me") from None
        return "done"

    @workflow
    async def clinging(ctx) -> Any:
        return await ctx.step.run("cling", clings)

    report = swept(clinging, pairs=0)

    assert report.singles == len(report.points)
    assert {"GeneratorExit"} == set(closed)


def test_steps_may_talk_to_the_real_world():
    """While a function waits for a connection time stands still; a month of sleep beside it costs nothing."""
    ports: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def talk() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
        try:
            writer.write(b"hello\n")
            return (await reader.readline()).decode()
        finally:
            writer.close()

    @workflow
    async def talks(ctx) -> Any:
        said = await ctx.step.run("talk", talk, timeout_seconds=3600, effect="pure")
        await ctx.step.wait_for("month", days=30)
        return said

    async def main() -> CrashReport:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            ports.append(server.sockets[0].getsockname()[1])
            return await crash_sweep(talks, processes=0, pairs=0, check=lambda outcome: seen.append(outcome.result))

    seen: list[str] = []
    report = asyncio.run(main())

    assert report.singles == len(report.points)
    assert {"hello\n"} == set(seen)


@pytest.mark.parametrize("pipe", [None, asyncio.subprocess.PIPE], ids=["inherits", "pipe"])
def test_processes_end_with_the_life_that_began_them(caplog: pytest.LogCaptureFixture, pipe: int | None):
    """Whoever watches over them for asyncio hears of it before its loop is closed, and has nothing to complain of."""
    begun: list[int] = []

    async def run() -> int | None:
        process = await asyncio.create_subprocess_exec("true", stdin=asyncio.subprocess.DEVNULL, stdout=pipe)
        begun.append(process.pid)
        await process.communicate()
        return process.returncode

    @workflow(id=f"swept-process-{pipe}")
    async def runs(ctx) -> Any:
        return await ctx.step.run("run", run)

    report = swept(runs, pairs=4)

    assert 4 == report.pairs
    assert [] == [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    for number in begun:
        with pytest.raises(ChildProcessError):
            os.waitpid(number, os.WNOHANG)


def test_a_process_that_will_not_end_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch):
    """What a kill doesn't end within a moment holds nobody up; here because it isn't killed."""
    monkeypatch.setattr(os, "kill", lambda _process, _signal: None)
    monkeypatch.setattr(loops, "ENDING_LOOKS", 2)

    async def main() -> asyncio.SubprocessTransport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "cat", stdout=None, stderr=None)
        return transport

    loop = loops.SimulatedLoop(VirtualClock())
    loop.is_busy = lambda: True
    process = loop.run_until_complete(main())
    loop.is_busy = None
    loop.end([process])
    still = process.get_returncode()
    monkeypatch.undo()
    loop.end([process])
    process.close()
    loop.run_ready()
    loop.close()

    assert (None, -signal.SIGKILL) == (still, process.get_returncode())


def test_a_connection_that_stays_silent_is_told(monkeypatch: pytest.MonkeyPatch):
    """A function that waits for the real world in vain ends the sweep with its name."""
    monkeypatch.setattr(loops, "PATIENCE_SECONDS", 0.0)

    async def listen() -> None:
        async with await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0):
            await asyncio.get_running_loop().create_future()

    @workflow
    async def listens(ctx) -> None:
        await ctx.step.run("listen", listen)

    with pytest.raises(loops.RealWaitTooLong, match="step listen waits for a connection"):
        swept(listens)


def test_an_outside_keeps_notes_in_memory_beside_a_sweep(tmp_path: Any):
    """Functions of steps can be used in other tests, too; with a directory it reads that one's file."""
    ledger = Outside("ledger")
    ledger.note("paid", cents=3)

    assert [{"kind": "paid", "cents": 3}] == ledger.notes("paid")
    assert 0 == ledger.count("lost")
    assert [] == ledger.notes(directory=tmp_path)
    with pytest.raises(PolosUsageError, match="named by letters"):
        Outside("../ledger")


# ------------------------------------------------------------------------------- what no test can know before


@workflow(id="swept-asks-under-new-names")
async def asks(ctx) -> list[Any]:
    keys = [f"ask_{await ctx.step.uuid(name)}" for name in ("one", "two")]
    return [(await ctx.step.suspend(key, {})).data for key in (*keys, "ask_for_all", "ask_me")]


def test_questions_whose_keys_nobody_knows_before_are_answered_by_how_they_begin():
    """A star answers all that begin so, but for those that a longer beginning or the name itself answers."""
    results: list[Any] = []
    answers = {"*": "no", "ask_*": "any", "ask_for*": "long", "ask_me": "me", "ask_m": "nobody"}
    swept(asks, points=3, pairs=0, answers=answers, check=lambda outcome: results.append(outcome.result))

    assert [["any", "any", "long", "me"]] * 4 == results[:4]


@workflow(id="swept-child-that-is-left")
async def left(ctx) -> None:
    pass


@workflow(id="swept-tells-ids")
async def tells_ids(ctx) -> dict[str, Any]:
    handle = await ctx.step.invoke("left", left, {})
    return {"root": ctx.execution_id, "children": [handle.id, str(handle.id)]}


def test_the_id_of_a_child_in_a_result_is_its_place():
    """A child that a crash had started anew has another id, which says nothing; the run's own is always the same."""
    results: list[Any] = []
    report = swept(tells_ids, pairs=0, check=lambda outcome: results.append(outcome.result))

    assert (report.singles, len(set(map(str, results)))) == (len(report.points), 1)
    assert ["<id of child 'left'>"] * 2 == results[0]["children"]
    assert not results[0]["root"].startswith("<")


def test_a_note_is_written_where_the_directory_was_taken_away(tmp_path: Path):
    """A step that tidies up too much loses what was noted; what comes then is kept."""
    ledger, directory = Outside("swept-away"), tmp_path / "outside"
    Place.current = Place(directory)
    try:
        ledger.note("charged", cents=1)
        shutil.rmtree(directory)
        ledger.note("charged", cents=2)
        assert [2] == [note["cents"] for note in ledger.notes("charged")]
    finally:
        Place.current = None


@pytest.mark.parametrize("torn", [b"", b"\n", b"\n{", b'\n{"kind": "charged", "cents": 1'])
def test_a_note_that_a_kill_broke_off_was_never_written(tmp_path: Path, torn: bytes):
    """The kernel may write a part of a line of a process that is killed in it; the lines around it are whole."""
    ledger, calls = Outside("torn"), tmp_path / "calls"
    (tmp_path / "torn.jsonl").write_bytes(b'\n{"kind": "charged", "cents": 1}\n' + torn)
    calls.write_bytes(b'\n["run", "charge", 1, 1]\n' + torn.replace(b"{", b"["))

    Place.current = Place(tmp_path)
    try:
        ledger.note("charged", cents=2)
        assert [1, 2] == [note["cents"] for note in ledger.notes("charged")]
    finally:
        Place.current = None
    CallLedger(calls).call(Audit(MemoryLog()), "run", "charge", 2, "pure")
    assert {"charge": 2} == CallLedger(calls).by_step()
