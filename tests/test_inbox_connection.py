"""How commands reach an engine: by hand in its process, through the inbox from elsewhere, and not at all."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import orjson
import polos.errors
import pytest
from polos.clock import SystemClock
from polos.engine import events as e
from polos.errors import (
    ClientTimeout,
    CommandRefused,
    EngineNotRunning,
    NotAPolosStore,
    StoreClosed,
    StoreFull,
    UnknownRun,
    UpdateRejected,
)
from polos.runtime.connection import Command, InboxConnection, LocalConnection, StoreConnection, connect
from polos.runtime.following import LogMoves
from polos.store.directory import open_store
from polos.store.inbox import InboxItem
from polos.store.log import Position

from tests.histories import FakeEngine, FakeStore, History, Owner, created, eventually, run_id

pytestmark = pytest.mark.anyio

A = run_id(1)
PUBLISH: Command = {"kind": "publish", "topic": "orders", "events": []}


@pytest.fixture
def history() -> History:
    """An empty history in memory."""
    return History()


@pytest.fixture
def store(history: History) -> FakeStore:
    """A store that nobody owns."""
    return FakeStore(history.log)


def accepted(_id: str, _command: Command) -> dict[str, Any]:
    return {"outcome": "accepted"}


# -------------------------------------------------------------------------------- another process


async def test_answer_comes_from_the_row(history: History, store: FakeStore):
    """A command is put into the inbox whole, and its outcome is what the engine recorded."""
    owner = Owner(history, store)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(InboxConnection(store).execute(PUBLISH))
        await eventually(store.inbox.pending)
        (item,) = store.inbox.pending()
        assert orjson.loads(item.payload)["command"] == PUBLISH
        assert not asked.done()
        owner.take("published", {"sequence_ids": [4096]})

    assert {"outcome": "published", "detail": {"sequence_ids": [4096]}} == asked.result()


async def test_answer_that_is_there_already(history: History, store: FakeStore):
    """A command that is sent again under its id gets the outcome that it had."""
    store.owned = True
    history.consume("again", "existing")

    assert {"outcome": "existing", "detail": None} == await InboxConnection(store).execute(PUBLISH, command_id="again")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ("UpdateRejected", UpdateRejected),
        ("UnknownRun", UnknownRun),
        ("CommandRefused", CommandRefused),
        ("KeyError", CommandRefused),  # no name of ours
        ("StoreFull", CommandRefused),  # ours, but no refusal
        ("annotations", CommandRefused),  # a name in that module, and no class
        (None, CommandRefused),
    ],
)
async def test_refusals_keep_their_class(
    history: History, store: FakeStore, error: str | None, raised: type[Exception]
):
    """A refusal is raised as the class that the engine named, if it is one of our refusals."""
    owner = Owner(history, store)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(caught(InboxConnection(store).execute(PUBLISH)))
        await owner.take_next("refused", {"error": error, "message": "no, because"})

    assert (raised, "no, because") == (type(asked.result()), str(asked.result()))


async def test_refusal_without_a_word(history: History, store: FakeStore):
    """A refusal that gives no reason is one all the same."""
    store.owned = True
    history.consume("c", "refused")

    with pytest.raises(CommandRefused, match="no reason"):
        await InboxConnection(store).execute(PUBLISH, command_id="c")


async def caught(asked: Any) -> Exception:
    """Give what a command raised."""
    try:
        return AssertionError(f"nothing was raised: {await asked}")
    except Exception as error:
        return error


async def test_no_answer_in_time(store: FakeStore):
    """An owner that doesn't answer is a timeout; the command is kept, and may happen yet."""
    store.owned = True

    with pytest.raises(ClientTimeout, match="client_timeout_seconds") as raised:
        await InboxConnection(store, timeout_seconds=0.001).execute(PUBLISH)

    assert raised.value.maybe_happened
    assert [raised.value.command_id] == [item.command_id for item in store.inbox.pending()]


async def test_owner_goes_while_the_client_waits(history: History, store: FakeStore):
    """An owner that went without an answer counts as none."""
    store.owned = True
    connection = InboxConnection(store, timeout_seconds=0.05)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(caught(connection.execute(PUBLISH)))
        await eventually(store.inbox.pending)
        store.owned = False

    assert isinstance(asked.result(), EngineNotRunning)


# --------------------------------------------------------------------------------------- no engine


@pytest.mark.parametrize("kind", ["create", "cancel", "resume", "signal", "resolve", "readmit"])
async def test_what_can_wait_is_queued(store: FakeStore, kind: str):
    """What the caller can go on without is kept, and called queued."""
    answer = await InboxConnection(store).execute({"kind": kind}, command_id="c")

    assert {"outcome": "queued", "command_id": "c"} == answer
    assert ["c"] == [item.command_id for item in store.inbox.pending()]


@pytest.mark.parametrize("kind", ["publish", "update"])
async def test_what_wants_an_answer_says_that_nobody_is_there(store: FakeStore, kind: str):
    """Who wants something back is told that the command is kept and how to take it back."""
    connection = InboxConnection(store)
    with pytest.raises(EngineNotRunning, match="is kept") as raised:
        await connection.execute({"kind": kind}, command_id="c")

    assert ("c", True) == (raised.value.command_id, 'client.take_back("c")' in str(raised.value))
    assert await connection.take_back("c")
    assert [] == list(store.inbox.pending())
    assert not await connection.take_back("c")


async def test_a_query_is_not_kept(store: FakeStore):
    """A question that nobody can answer now isn't asked later."""
    with pytest.raises(EngineNotRunning, match="query functions") as raised:
        await InboxConnection(store).execute({"kind": "query"})

    assert (None, []) == (raised.value.command_id, list(store.inbox.pending()))


async def test_decided_just_before_the_engine_went(history: History, store: FakeStore):
    """An outcome that is recorded counts, also when its engine is gone by the time it is looked for."""
    history.consume("c", "published", {"sequence_ids": []})

    assert "published" == (await InboxConnection(store).execute(PUBLISH, command_id="c"))["outcome"]


# --------------------------------------------------------------------------------------- take back


async def test_an_engine_decides_what_it_can_see(history: History, store: FakeStore):
    """With an engine running a command isn't taken back: it may be being decided."""
    store.inbox.put("c", b"{}")
    store.owned = True

    assert not await InboxConnection(store).take_back("c")
    assert ["c"] == [item.command_id for item in store.inbox.pending()]


async def test_a_decided_command_is_not_taken_back(history: History, store: FakeStore):
    """A command whose outcome is recorded has happened, though its file was still there."""
    history.consume("c", "accepted")
    store.inbox.put("c", b"{}")

    assert not await InboxConnection(store).take_back("c")


class Racing(FakeStore):
    """A store on which an engine comes up while a command is being taken back."""

    looks = 0

    def owner(self) -> object | None:
        """Give nobody at the first look."""
        self.looks += 1
        return None if self.looks == 1 else "an engine"


@pytest.mark.parametrize("decides", [True, False])
async def test_an_engine_comes_up_at_that_very_moment(history: History, decides: bool):
    """An engine that may have read the command before it was removed has the last word."""
    store = Racing(history.log)
    store.inbox.put("c", b"{}")
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(InboxConnection(store, timeout_seconds=0.05).take_back("c"))
        if decides:
            await eventually(lambda: store.looks > 1)
            history.consume("c", "accepted")

    assert asked.result() is not decides


# ------------------------------------------------------------------------------------ this process


async def test_the_engine_of_this_loop_is_asked_directly(store: FakeStore):
    """On the engine's own loop a command is handed over; no file is written."""
    engine = FakeEngine(store, accepted)

    assert {"outcome": "accepted"} == await LocalConnection(engine).execute(PUBLISH, command_id="c")
    assert ([("c", PUBLISH)], []) == (engine.commands, list(store.inbox.pending()))


@pytest.mark.parametrize(("closes", "error"), [(False, ClientTimeout), (True, EngineNotRunning)])
def test_an_engine_whose_loop_stands_still_is_not_waited_for_for_ever(
    store: FakeStore, closes: bool, error: type[Exception]
):
    """From another thread nobody answers for a loop that ended: that is told when the time is over."""
    loop = asyncio.new_event_loop()  # never runs
    given: list[Any] = []

    class Engine:
        """An engine on that loop."""

        def __init__(self) -> None:
            self.store, self.watchers, self.previews, self.loop = store, None, None, loop

        def execute(self, command_id: str, command: Command) -> Any:
            """Be handed over."""
            given.append(held())
            return given[-1]

        def create(self, runs: Any) -> Any:
            """Not be asked for it."""

        def is_under_way(self, run: str) -> bool:
            """Not be asked for it."""
            return False

    async def held() -> dict[str, Any]:
        return {"outcome": "accepted"}

    async def ask() -> Exception:
        asked = asyncio.create_task(caught(LocalConnection(Engine(), timeout_seconds=0.01).execute(PUBLISH)))
        await asyncio.sleep(0)
        if closes:
            loop.close()
        return await asked

    try:
        found = asyncio.run(asyncio.wait_for(ask(), 20))
    finally:
        loop.close()
        for coroutine in given:
            coroutine.close()

    assert isinstance(found, error)


async def test_an_engine_on_another_threads_loop_is_asked_there(store: FakeStore):
    """From another thread's loop a command is carried over to the engine's, and its answer back."""
    threads: list[str] = []

    def answer(_id: str, _command: Command) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        if not threads[1:]:
            return {"outcome": "accepted"}
        raise CommandRefused("no")

    connection = LocalConnection(FakeEngine(store, answer))

    def elsewhere() -> tuple[dict[str, Any], Exception]:
        given = asyncio.run(connection.execute(PUBLISH))
        return given, asyncio.run(caught(connection.execute(PUBLISH)))

    given, refused = await asyncio.to_thread(elsewhere)

    assert {"outcome": "accepted"} == given
    assert isinstance(refused, CommandRefused)
    assert [threading.current_thread().name] * 2 == threads


async def test_each_command_finds_the_engine_of_its_time(history: History, store: FakeStore):
    """An engine may come and go between two commands of one client."""
    connection = StoreConnection(store)
    before = await connection.execute({"kind": "create"})
    engine = FakeEngine(store, accepted)
    during = await connection.execute({"kind": "create"})
    store.owner_engine = None
    after = await connection.execute({"kind": "create"})

    assert ["queued", "accepted", "queued"] == [answer["outcome"] for answer in (before, during, after)]
    assert 1 == len(engine.commands)


async def test_an_engine_whose_loop_is_gone_is_none(store: FakeStore):
    """A program that let its loop go without stopping the engine doesn't answer; a client isn't stuck on it."""

    async def forgotten() -> None:
        FakeEngine(store, accepted)

    await asyncio.to_thread(lambda: asyncio.run(forgotten()))
    connection = StoreConnection(store, timeout_seconds=0.001)

    assert connection.engine is None
    with pytest.raises(ClientTimeout):
        await connection.execute(PUBLISH)


# --------------------------------------------------------------------------------------- following


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_moves_in_the_engines_process_come_from_its_hook(history: History, store: FakeStore):
    """With the engine here a commit wakes who waits, without the head being polled."""
    FakeEngine(store, accepted)
    moves = LogMoves(store, poll_seconds=1e9)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(moves.behind(history.head())) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.to_thread(history.begin, A)

    assert [2, 2, 2] == [task.result() for task in waiting]


async def test_moves_made_elsewhere_are_polled(history: History, store: FakeStore):
    """Without an engine here the head is looked at, and a move is noticed."""
    moves = LogMoves(store, poll_seconds=0.0001)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(moves.behind(history.head()))
        await asyncio.sleep(0)
        history.begin(A)

    assert 2 == waiting.result()


async def test_a_position_that_is_passed_already(history: History, store: FakeStore):
    """Who asks for a position behind which there is something doesn't wait."""
    history.begin(A)
    assert 2 == await LogMoves(store).behind(Position(0))


async def test_listening_ends_when_nobody_waits_any_more(history: History, store: FakeStore):
    """One hook serves all who wait, and it is let go at the first look that finds nobody."""
    hooks: list[Any] = []
    FakeEngine(store, accepted)

    def subscribe(callback: Any) -> Any:
        hooks.append(callback)
        return hooks.clear

    history.log.subscribe = subscribe  # type: ignore[method-assign]
    moves = LogMoves(store, recheck_seconds=0.0001)
    for _ in range(2):
        first, second = (asyncio.ensure_future(moves.behind(Position(0))) for _ in range(2))
        await asyncio.sleep(0)
        assert 1 == len(hooks)
        await cancelled(first)
        assert 1 == len(hooks)
        await cancelled(second)
        await eventually(lambda: not hooks)


async def test_a_follower_reads_the_head_once(history: History, store: FakeStore):
    """Who waits from commit to commit in the engine's process learns the head from the hook, not by reading."""
    FakeEngine(store, accepted)
    moves = LogMoves(store, recheck_seconds=1e9)
    waiting = asyncio.ensure_future(moves.behind(history.head()))
    await asyncio.sleep(0)
    moves.head = None  # type: ignore[method-assign,assignment]
    history.begin(A)
    assert 2 == await waiting
    history.end(A)
    assert 3 == await moves.behind(Position(2))


async def test_the_engine_comes_while_somebody_waits(history: History, store: FakeStore):
    """Who waits by polling goes over to the hook when an engine starts in this process."""
    moves = LogMoves(store, poll_seconds=0.0001)
    hooked = asyncio.Event()
    subscribe = history.log.subscribe

    def noticed(callback: Any) -> Any:
        hooked.set()
        return subscribe(callback)

    history.log.subscribe = noticed  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(moves.behind(history.head()))
        await asyncio.sleep(0)
        FakeEngine(store, accepted)
        await hooked.wait()
        history.begin(A)

    assert 2 == waiting.result()


async def test_closing_wakes_who_waits(history: History, store: FakeStore):
    """Who waits for a log that is closed is told so."""
    moves = LogMoves(store, poll_seconds=0.0001)
    waiting = asyncio.ensure_future(moves.behind(history.head()))
    await asyncio.sleep(0)
    history.log.close()
    with pytest.raises(StoreClosed):
        await waiting


async def test_a_commit_after_the_loop_was_closed(history: History, store: FakeStore):
    """A loop that was closed with somebody inside doesn't harm the thread that commits."""
    FakeEngine(store, accepted)
    moves = LogMoves(store)

    def abandoned() -> None:
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(moves.behind(history.head()))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]

    await asyncio.to_thread(abandoned)
    history.begin(A)
    history.end(A)

    assert 3 == history.head()


# --------------------------------------------------------------------------------------- opening


async def test_connect_makes_a_store(tmp_path: Path):
    """A client's first command may come before the first engine: the directory is made, the command kept."""
    connection = connect(tmp_path / "new")
    answer = await connection.execute({"kind": "create", "runs": []})
    connection.store.close()

    assert "queued" == answer["outcome"]
    with open_store(tmp_path / "new") as store:
        assert 1 == len(store.inbox.pending())


async def test_connect_refuses_somebody_elses_directory(tmp_path: Path):
    """A directory that holds something else isn't touched."""
    (tmp_path / "diary.txt").write_text("dear diary")

    with pytest.raises(NotAPolosStore):
        connect(tmp_path)

    assert ["diary.txt"] == [path.name for path in tmp_path.iterdir()]


async def test_connect_finds_the_engine_of_its_process(tmp_path: Path):
    """A client that opens the directory by itself finds the engine that another object runs on it."""
    with open_store(tmp_path) as store:
        connection = connect(tmp_path)
        assert connection.engine is None
        store.owner_engine = marker = FakeEngine(FakeStore(store.log), accepted)
        assert marker is connection.engine
        connection.store.close()


async def test_an_inbox_that_cannot_be_written(history: History):
    """A command that couldn't be kept is an error, and nobody waits for its answer."""

    class Full:
        def put(self, command_id: str, payload: bytes) -> None:
            raise StoreFull("no space")

        def pending(self, *, limit: int | None = None) -> list[InboxItem]:
            return []

        def remove(self, command_id: str) -> bool:
            return False

    store = FakeStore(history.log, inbox=Full(), owned=True)

    with pytest.raises(StoreFull):
        await InboxConnection(store, SystemClock()).execute(PUBLISH)


def test_every_refusal_can_be_made_from_its_message():
    """Each of our refusals can be raised again from a recorded name and message."""
    for name in polos.errors.__all__:
        cls = getattr(polos.errors, name)
        if issubclass(cls, polos.errors.PolosUsageError):
            assert "why" == str(cls("why"))


async def test_rows_of_other_kinds_are_no_outcome(history: History, store: FakeStore):
    """A run's row isn't taken for the outcome of a command of the same id."""
    history.run(A, created(A), e.RunStarted(attempt=1))
    store.owned = True

    with pytest.raises(ClientTimeout):
        await InboxConnection(store, timeout_seconds=0.001).execute(PUBLISH, command_id=A)
