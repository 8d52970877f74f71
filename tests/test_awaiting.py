"""Waiting for the end of a run: by the engine's word where it is near, by the log from anywhere else."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from polos import Polos, WorkflowContext, workflow
from polos.engine import events as e
from polos.errors import StoreClosed, WorkflowTimeoutError
from polos.runtime import reads
from polos.runtime.client import PolosClient
from polos.runtime.connection import Answer, Command
from polos.values import decode

from tests.histories import FakeEngine, FakeStore, History, Owner, created, run_id

pytestmark = pytest.mark.anyio

A, B = run_id(1), run_id(2)


@pytest.fixture
def history() -> History:
    """An empty history in memory."""
    return History()


@pytest.fixture
def store(history: History) -> FakeStore:
    """A store that nobody owns."""
    return FakeStore(history.log)


@pytest.fixture
def client(store: FakeStore) -> PolosClient:
    """A client of that store."""
    return PolosClient.over(store)


def accepted(_id: str, _command: Command) -> Answer:
    return {"outcome": "accepted"}


async def test_waiting_here_is_by_the_engines_word(history: History, store: FakeStore, client: PolosClient):
    """In the engine's process the end comes as a future: the log isn't polled, nor listened to."""
    engine = FakeEngine(store, accepted)
    history.log.subscribe = None  # type: ignore[method-assign,assignment]
    history.begin(A)
    waiting = asyncio.ensure_future(client._wait_ended(A))
    await asyncio.sleep(0)
    history.end(A, 0)
    assert not waiting.done()
    engine.watchers.ended(A)
    ended = await waiting

    assert ("completed", 0) == (ended["status"], ended["result"])
    assert {} == engine.watchers._futures
    assert ended == await client._wait_ended(A)
    await asyncio.sleep(0)
    assert {} == engine.watchers._futures


async def test_waiting_elsewhere_follows_the_log(history: History, client: PolosClient):
    """From another process the end is found in the log."""
    history.begin(A)
    waiting = asyncio.ensure_future(client._wait_ended(A, 60))
    await asyncio.sleep(0)
    history.publish("orders", {})
    history.run(A, e.RunFailed(cause=2, error=e.Failure(type="ValueError", message="no card")))

    ended = await waiting
    assert ("failed", "no card") == (ended["status"], ended["error"])


async def test_waiting_on_another_threads_loop(history: History, store: FakeStore, client: PolosClient):
    """A client of another thread of the engine's process waits by the log's hook."""
    FakeEngine(store, accepted)
    history.begin(A)
    subscribed = asyncio.Event()
    loop, subscribe = asyncio.get_running_loop(), history.log.subscribe

    def noticed(callback: Any) -> Any:
        loop.call_soon_threadsafe(subscribed.set)
        return subscribe(callback)

    history.log.subscribe = noticed  # type: ignore[method-assign]
    waiting = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(client._wait_ended(A))))
    await subscribed.wait()
    history.end(A, 1)

    assert 1 == (await waiting)["result"]


@pytest.mark.parametrize("here", [True, False])
async def test_waiting_goes_on_through_successors(history: History, store: FakeStore, client: PolosClient, here: bool):
    """The end that is waited for is that of the last successor."""
    engine = FakeEngine(store, accepted) if here else None

    def ended(run: str) -> None:
        if engine is not None:
            engine.watchers.ended(run)

    history.begin(A)
    waiting = asyncio.ensure_future(client._wait_ended(A))
    await asyncio.sleep(0)
    history.record(
        (f"run/{A}", e.RunContinued(cause=2, successor=B, workflow="order")),
        (f"run/{B}", created(A, continues=A, chain=A)),
    )
    ended(A)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    history.run(B, e.RunStarted(attempt=1))
    history.end(B, "done")
    ended(B)

    found = await waiting
    assert (A, "done") == (found["id"], found["result"])


async def test_the_engine_stops_while_somebody_waits(history: History, store: FakeStore, client: PolosClient):
    """Who waits by the engine's word goes over to the log when the engine stops."""
    engine = FakeEngine(store, accepted)
    history.begin(A)
    waiting = asyncio.ensure_future(client._wait_ended(A))
    await asyncio.sleep(0)
    store.owner_engine = None
    engine.watchers.close()
    history.end(A, "by the next engine")

    assert "by the next engine" == (await waiting)["result"]


@pytest.mark.parametrize("here", [True, False])
async def test_waiting_in_vain(history: History, store: FakeStore, client: PolosClient, here: bool):
    """A timeout names the run and what it waits for, and leaves nobody waiting."""
    engine = FakeEngine(store, accepted)
    if not here:
        store.owner_engine = None
    history.begin(A)
    history.run(A, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok"))
    with pytest.raises(WorkflowTimeoutError, match="suspend") as raised:
        await client._wait_ended(A, 0.001)

    assert (A, 0.001, "suspend") == (
        raised.value.execution_id,
        raised.value.timeout_seconds,
        raised.value.waiting_reason,
    )
    assert {} == engine.watchers._futures


async def test_waiting_for_a_run_that_is_not_there_yet(store: FakeStore, history: History, client: PolosClient):
    """A run that waits in the inbox can be waited for."""
    handle = await client.invoke("order", {})
    with pytest.raises(WorkflowTimeoutError):
        await client._wait_ended(handle.id, 0.001)
    waiting = asyncio.ensure_future(client._wait_ended(handle.id))
    Owner(history, store).take()
    history.begin(handle.id)
    history.end(handle.id, 3)

    assert 3 == (await waiting)["result"]


async def test_many_wait_at_once(history: History, client: PolosClient):
    """Each of many who wait gets the end of its own run."""
    runs = [run_id(number) for number in range(100, 150)]
    history.record(*((f"run/{run}", event) for run in runs for event in (created(run), e.RunStarted(attempt=1))))
    waiting = [asyncio.ensure_future(client._wait_ended(run)) for run in runs]
    await asyncio.sleep(0)
    for number, run in enumerate(runs):
        history.end(run, number)

    assert list(range(50)) == [(await each)["result"] for each in waiting]


async def test_a_store_that_is_closed_while_somebody_waits(history: History, client: PolosClient):
    """Who waits for a run of a log that is closed is told so."""
    history.begin(A)
    waiting = asyncio.ensure_future(client._wait_ended(A))
    await asyncio.sleep(0)
    history.log.close()

    with pytest.raises(StoreClosed):
        await waiting


async def _give(number: int) -> int:
    return number


@workflow(id="awaited_pair")
async def pair(ctx):
    """Two steps at once: the end of the first is on its way to the disk when the second ends the run."""
    return await asyncio.gather(*(ctx.step.run(f"step {number}", _give, number) for number in range(2)))


async def test_an_end_is_told_when_it_is_durable(tmp_path):
    """A commit of a run that has ended in memory tells nobody of the end, which is in a later one."""
    told: list[bool] = []
    held: list[Any] = []
    async with Polos(tmp_path) as polos:
        engine: Any = polos.engine
        hand_over, committed, ended = engine._hand_over, engine._committed, engine.watchers.ended

        def hold(unit: Any) -> Any:
            types = {record.type for record in unit.records}
            if "StepCompleted" not in types:
                return hand_over(unit)
            held.append(unit)
            return hand_over(held.pop(0)) if "RunCompleted" in types else True

        def let_go(outcomes: Any) -> None:
            committed(outcomes)
            if held and outcomes[0][0].records[-1].type == "StepCompleted":
                hand_over(held.pop())

        def tell(run: str, end: Any) -> None:
            with engine.store.log.reader() as reader:
                row = reads.run_row(reader, run)
            told.append(row is not None and row.ended)
            ended(run, end)

        engine._hand_over, engine._committed, engine.watchers.ended = hold, let_go, tell
        assert [0, 1] == await pair.run(polos)

    assert [True] == told


@workflow(id="awaiting_shared")
async def _shared(ctx: WorkflowContext) -> dict[str, list[int]]:
    return {"numbers": [1]}


@workflow(id="awaiting_parent_of_shared")
async def _parent(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("child", _shared)


async def test_a_result_belongs_to_who_waited(tmp_path):
    """What one of those who wait for a run does with the result, no other sees; nor does the log."""
    async with Polos(tmp_path) as polos:
        handle = await _shared.invoke(polos)
        ends = await asyncio.gather(*(polos._wait_end(handle.id) for _ in range(2)))
        first, second = (cast("Any", decode(end.result)) for end in ends)
        first["numbers"].append(2)
        of_parent: Any = await _parent.run(polos)
        of_parent["numbers"].append(3)

        assert {"numbers": [1]} == second
        assert {"numbers": [1]} == (await polos.get_execution(handle.id))["result"]
        assert {"numbers": [1]} == await _shared.run(polos)
