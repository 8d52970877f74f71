"""
Several processes on one directory: an engine, those that want to be it, and clients that are stopped in their tracks.

Everything here is told by facts: a line in a pipe, a file, a record. A process that is stopped stays stopped until
it is told to go on, so nothing depends on who is quicker.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import threading
import traceback
from typing import Any, Self

import lmdb
import pytest
from polos import Polos, PolosClient, Worker, workflow
from polos.clock import SystemClock
from polos.engine import events as e
from polos.errors import StoreInUse
from polos.points import arm
from polos.store.format import format_content

from tests.crash import engine_checks as checks
from tests.crash.children import fork, in_child
from tests.crash.engine_lives import light
from tests.crash.load import effect, large, quick, witness
from tests.crash.scenes import checked, engine_on, play, until


class Beside:
    """A process beside the test, that runs a scene and tells lines; killed at the end of its `with`."""

    def __init__(self, scene: Any) -> None:
        hear, tell = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(hear)
                light()
                asyncio.run(scene(lambda line: os.write(tell, line.encode() + b"\n")))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(tell)
        self._lines = os.fdopen(hear)

    def hear(self) -> str:
        """Give the next line; "" when the process, and whatever it has forked, is gone."""
        return self._lines.readline().rstrip("\n")

    def wait(self) -> int:
        """Wait for its end; gives its exit code."""
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self._lines.close()


def forever() -> asyncio.Future[None]:
    """Wait until somebody kills this process."""
    return asyncio.get_running_loop().create_future()


def test_two_engines_race_for_a_directory(tmp_path):
    """Of engines that start at the same moment one gets the directory; the others learn pid, host and since when."""
    start, go = os.pipe()

    async def engine(tell: Any) -> None:
        os.read(start, 1)
        try:
            await engine_on(tmp_path).start()
        except StoreInUse as error:
            tell(f"refused {error}")
        else:
            tell(f"owner {os.getpid()}")
        await forever()

    with Beside(engine) as one, Beside(engine) as two, Beside(engine) as three:
        os.write(go, b"123")
        lines = sorted(process.hear() for process in (one, two, three))
    os.close(start)
    os.close(go)

    assert ["owner", "refused", "refused"] == [line.split()[0] for line in lines]
    pid = lines[0].split()[1]
    for line in lines[1:]:
        assert pid in line
        assert platform.node() in line
        assert "since 20" in line


def test_forked_child_holds_nothing(tmp_path):
    """An engine is killed while a child it forked lives on: the next engine gets the directory at once."""

    async def engine(tell: Any) -> None:
        polos = engine_on(tmp_path)
        await polos.start()
        witness.use(tmp_path, "first", polos.engine.store.log)
        await quick.run(polos, {})
        child = fork()
        if child == 0:
            signal.pause()
        tell(str(child))
        await forever()

    with Beside(engine) as first:
        child = int(first.hear())
        os.kill(first.pid, signal.SIGKILL)
        assert -signal.SIGKILL == first.wait()

        async def second() -> None:
            async with engine_on(tmp_path) as polos:
                witness.use(tmp_path, "second", polos.engine.store.log)
                await quick.run(polos, {})

        try:
            os.kill(child, 0)
            play(second)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)

    checked(tmp_path, *checks.CHECKS)


@pytest.mark.parametrize("where", ["before the file has its name", "after the file has its name", "in a read"])
def test_stopped_client_holds_up_nobody(tmp_path, where):
    """A client is stopped in a command, or in a read: the engine goes on, and the command is done later."""

    async def client(tell: Any) -> None:
        polos = PolosClient(data_dir=tmp_path / "data", client_timeout_seconds=60.0)
        place = os.rename

        def stopping(*arguments: Any, **named: Any) -> None:
            if where.startswith("before"):
                tell("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)
            place(*arguments, **named)
            if where.startswith("after"):
                tell("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)

        if where == "in a read":
            with polos._connection().store.log.reader() as reader:
                reader.head()
                tell("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)
        else:
            vars(os)["rename"] = stopping  # the very call that gives a command its name
        run = await quick.invoke(polos, {})
        witness.use(tmp_path, "client").note("created", run.id)
        tell("told")
        await polos._wait_ended(run.id)
        polos.close()

    async def engine(tell: Any) -> None:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "engine", polos.engine.store.log)
            tell("here")
            await until((tmp_path / "stopped").exists)
            for _ in range(20):
                await quick.run(polos, {})
            tell("went on")
            await forever()

    with Beside(engine) as owner:
        assert "here" == owner.hear()
        with Beside(client) as stopped:
            assert "stopping" == stopped.hear()
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
            (tmp_path / "stopped").touch()
            assert "went on" == owner.hear()
            os.kill(stopped.pid, signal.SIGCONT)
            assert "told" == stopped.hear()
            assert 0 == stopped.wait()

    checked(tmp_path, *checks.CHECKS)


def test_client_worker_and_engine_in_one_process(tmp_path):
    """`Polos`, `PolosClient` and `Worker` share a directory in one process: one owns it, the others go through it."""

    async def scene() -> list[Any]:
        client = PolosClient(data_dir=tmp_path / "data")
        early = await quick.invoke(client, {})
        worker = Worker(client, deployment_id="v1", workflows=[quick])
        witness.use(tmp_path, "life", client._log())
        async with engine_on(tmp_path) as polos:
            results = [len(await quick.run(polos, {})), len(await quick.run(client, {}))]
            with pytest.raises(StoreInUse, match=f"{os.getpid()}"):
                await worker.run()
            await client._wait_ended(early.id)
        running = asyncio.ensure_future(worker.run())
        await worker.started()
        results.append(len(await quick.run(client, {})))
        other = Polos(data_dir=tmp_path / "data")
        with pytest.raises(StoreInUse, match=f"{os.getpid()}"):
            await other.start()
        await worker.shutdown()
        await running
        client.close()
        return [early.accepted, *results]

    assert [False, 2, 2, 2] == play(scene)

    checked(tmp_path, *checks.CHECKS)


def test_reader_left_open(tmp_path):
    """A reader that is left open in another process sees what it saw, and keeps nobody from going on."""

    async def reading(tell: Any) -> None:
        polos = PolosClient(data_dir=tmp_path / "data")
        with polos._connection().store.log.reader() as reader:
            before = reader.head().position
            tell(str(before))
            await until((tmp_path / "done").exists)
            tell(str(reader.head().position))
            tell(str(sum(1 for _ in reader.records())))
        with polos._connection().store.log.reader() as reader:
            tell("behind" if reader.head().position > before else "not")
        await forever()

    async def working() -> None:
        async with engine_on(tmp_path) as polos:
            witness.use(tmp_path, "engine", polos.engine.store.log)
            for _ in range(50):
                await quick.run(polos, {})

    play(working)
    with Beside(reading) as reader:
        before = reader.hear()
        play(working)
        (tmp_path / "done").touch()
        seen = [reader.hear() for _ in range(3)]

    assert [before, before, "behind"] == seen
    checked(tmp_path, *checks.CHECKS)


@pytest.mark.parametrize("made", ["nothing", "the format", "the folders", "an empty log"])
def test_maker_killed_half_way(tmp_path, made):
    """A client finds a directory that somebody is making, or was killed while making: it opens it all the same."""
    directory = tmp_path / "data"
    if made != "nothing":
        directory.mkdir(mode=0o700)
        (directory / "format").write_bytes(format_content())
    if made in ("the folders", "an empty log"):
        for name in ("log", "blobs", "inbox"):
            (directory / name).mkdir(mode=0o700)

    async def client() -> bool:
        if made == "an empty log":
            lmdb.Environment(str(directory / "log"), max_dbs=1).close()
        async with PolosClient(data_dir=directory) as polos:
            return (await quick.invoke(polos, {})).accepted

    assert play(client) is False


class Movable:
    """A clock that is set by hand; alarms come as the system's clock has it, and find the time changed."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.by_us = 0
        self.alarms: list[tuple[int, Any]] = []

    def now_us(self) -> int:
        """Give the time."""
        return self._clock.now_us() + self.by_us

    def call_at(self, due_us: int, callback: Any) -> Any:
        """Call back later, or when the clock is set."""
        alarm = _Alarm(self, due_us, callback)
        self.alarms.append((due_us, alarm))
        alarm.handle = asyncio.get_running_loop().call_later(max(due_us - self.now_us(), 0) / 1e6, alarm.ring)
        return alarm

    def jump(self, by_us: int) -> None:
        """Set the clock."""
        self.by_us += by_us
        for due_us, alarm in list(self.alarms):
            if due_us <= self.now_us():
                alarm.ring()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


class _Alarm:
    def __init__(self, clock: Movable, due_us: int, callback: Any) -> None:
        self.clock, self.due_us, self.callback = clock, due_us, callback
        self.handle: Any = None

    def ring(self) -> None:
        """Call back, once."""
        self.cancel()
        self.callback()

    def cancel(self) -> None:
        """Let it be."""
        self.handle.cancel()
        if (self.due_us, self) in self.clock.alarms:
            self.clock.alarms.remove((self.due_us, self))


@workflow(id="sleeper")
async def sleeper(ctx, payload: dict) -> int:
    """Sleep for a month, in three parts, at once, and do something after each."""

    async def part(days: int) -> None:
        await ctx.step.wait_for(f"{days} days", days=days)
        await ctx.step.run(f"after {days} days", effect)

    await asyncio.gather(part(10), part(20), part(30))
    return 60


@pytest.mark.parametrize("back", [False, True])
def test_clock_that_jumps(tmp_path, back):
    """A clock that jumps forward fires what is due, once; one that goes back before, or after, changes no record."""

    async def scene() -> list[Any]:
        clock = Movable()
        async with engine_on(tmp_path, clock=clock) as polos:
            witness.use(tmp_path, "life", polos.engine.store.log)
            runs = [await sleeper.invoke(polos, {}) for _ in range(3)]
            await until(lambda: not polos.engine.in_flight)
            day_us = 86_400_000_000
            if back:
                clock.jump(-2 * day_us)
            clock.jump(25 * day_us + 2 * day_us * back)
            await quick.run(polos, {})
            clock.jump(-24 * day_us)
            await quick.run(polos, {})
            clock.jump(40 * day_us)
            for run in runs:
                await polos._wait_ended(run.id)
            return [(await polos.get_execution(run.id))["result"] for run in runs]

    assert [60, 60, 60] == play(scene)

    def fired() -> list[int]:
        found = checks.find(tmp_path)
        return [len(list(found.events(kind))) for kind in (e.TimerStarted, e.TimerFired, e.TimerCancelled)]

    assert [9, 9, 0] == in_child(fired)
    checked(tmp_path, *checks.CHECKS)


@workflow(id="heavy")
async def heavy(ctx, payload: dict) -> int:
    """Have a large result."""
    return len(await ctx.step.run("large", large))


@workflow(id="asks")
async def asks(ctx, payload: dict) -> Any:
    """Wait for an answer."""
    return (await ctx.step.suspend("ask", {})).data


def test_clock_set_back_behind_an_overtaken_record(tmp_path):
    """The last record of a log need not be the newest: one that waited for its blob is older, and time still stands."""
    may_go = threading.Event()

    async def first() -> None:
        async with engine_on(tmp_path, record_sources=False) as polos:
            ledger = witness.use(tmp_path, "first", polos.engine.store.log)

            def hold(point: str) -> None:
                if point == "blob_before_append":
                    may_go.wait()

            arm(hold)
            run = await heavy.invoke(polos, {})
            await until(lambda: ledger.lines("done") and polos.engine.in_flight)
            other = await asks.invoke(polos, {})
            ledger.note("created", other.id)
            await until(lambda: len(polos.engine.in_flight) == 1)
            may_go.set()
            await polos._wait_ended(run.id)

    async def second() -> None:
        clock = Movable()
        clock.by_us = -3_600_000_000
        async with engine_on(tmp_path, clock=clock) as polos:
            witness.use(tmp_path, "second", polos.engine.store.log)
            (row,) = await polos.list_executions(workflow_id="asks")
            await polos.resume("asks", row["id"], "ask", "yes")
            await polos._wait_ended(row["id"])

    play(first)
    play(second)

    checked(tmp_path, *checks.CHECKS)


def test_clock_set_back_between_lives(tmp_path):
    """An engine that starts with a clock behind the log goes on from the log's time."""

    def life(by_us: int) -> Any:
        async def scene() -> None:
            clock = Movable()
            clock.by_us = by_us
            async with engine_on(tmp_path, clock=clock) as polos:
                witness.use(tmp_path, str(by_us), polos.engine.store.log)
                await quick.run(polos, {})

        return scene

    for hours in (0, -1, 5, 1):
        play(life(hours * 3_600_000_000))

    def whole() -> bool:
        with_times = checks.find(tmp_path)
        firsts = [with_times.times[f"run/{run}"][0] for run in with_times.runs]
        return firsts == sorted(firsts)

    assert in_child(whole)
    checked(tmp_path, *checks.CHECKS)
