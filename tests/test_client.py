"""The client: what it asks of an engine, and what it reads by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from polos import registry
from polos.context import WorkflowContext, _current_context
from polos.definition import workflow
from polos.engine import events as e
from polos.errors import (
    ClientTimeout,
    CommandRefused,
    EngineNotRunning,
    PolosUsageError,
    StepExecutionError,
    UnknownRun,
    UpdateRejected,
)
from polos.runtime.batch import batch_invoke
from polos.runtime.client import ExecutionHandle, ExecutionPage, PolosClient
from polos.runtime.connection import Answer, Command
from polos.types import BatchWorkflowInput
from pydantic import BaseModel

from tests.histories import FakeEngine, FakeStore, History, Owner, created, eventually, run_id

pytestmark = pytest.mark.anyio

A, B, C = run_id(1), run_id(2), run_id(3)


class Order(BaseModel):
    """What the workflow of these tests takes and gives."""

    number: int = 0


@pytest.fixture(autouse=True)
def definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with one workflow, for this test only."""
    monkeypatch.setattr(registry, "_workflows", {})

    @workflow(id="order", tags=("shop",), run_timeout_seconds=60, queue="till")
    async def order(ctx: WorkflowContext, payload: Order) -> Order:
        return payload


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
    return PolosClient.over(store, deployment_id="d")


@pytest.fixture
def inside() -> Iterator[WorkflowContext]:
    """The context of a run, as if this test were its step."""
    context = WorkflowContext("order", A, "d", "session", "ann")
    token = _current_context.set(context)
    yield context
    _current_context.reset(token)


def accepted(_id: str, _command: Command) -> Answer:
    return {"outcome": "accepted"}


def answering(answer: Any) -> Callable[[str, Command], Answer]:
    """Give an engine's way to answer every command the same."""

    def reply(_id: str, _command: Command) -> Answer:
        if isinstance(answer, Exception):
            raise answer
        return cast("Answer", answer)

    return reply


# --------------------------------------------------------------------------------------- settings


async def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    """What isn't said comes from the environment, and else from the defaults."""
    for name in ("API_URL", "API_KEY", "PROJECT_ID", "DEPLOYMENT_ID", "DATA_DIR"):
        monkeypatch.delenv(f"POLOS_{name}", raising=False)
    plain = PolosClient()
    for name in ("API_KEY", "PROJECT_ID", "DEPLOYMENT_ID", "DATA_DIR"):
        monkeypatch.setenv(f"POLOS_{name}", name.lower())
    monkeypatch.setenv("POLOS_API_URL", "http://127.0.0.1:1")
    found = PolosClient()
    said = PolosClient("http://localhost:9", "key", "project", "blue", data_dir="here")

    assert ("http://localhost:8080", None, "default", "default", Path(".polos")) == settings(plain)
    assert ("http://127.0.0.1:1", "api_key", "project_id", "deployment_id", Path("data_dir")) == settings(found)
    assert ("http://localhost:9", "key", "project", "blue", Path("here")) == settings(said)


def settings(client: PolosClient) -> tuple[Any, ...]:
    return client.api_url, client.api_key, client.project_id, client.deployment_id, client.data_dir


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"])
async def test_an_address_of_this_machine_is_its_data_directory(tmp_path: Path, monkeypatch: Any, url: str):
    """Programs that name a server on this machine find the data directory instead."""
    monkeypatch.setenv("POLOS_DATA_DIR", str(tmp_path / "data"))
    client = PolosClient(url)

    assert [] == await client.list_executions()
    client.close()


async def test_an_address_elsewhere_is_refused():
    """A server on another machine can't be reached by a directory, and nothing is opened."""
    with pytest.raises(PolosUsageError, match="another machine"):
        await PolosClient("https://polos.example.com").list_executions()


async def test_closing_and_opening_again(tmp_path: Path):
    """A closed client opens its directory again when it is used again; closing twice is fine."""
    async with PolosClient(data_dir=tmp_path / "data") as client:
        handle = await client.invoke("order", {})
    client.close()
    assert "queued" == (await handle.get())["status"]
    client.close()


async def test_a_client_over_a_store_leaves_it_open(store: FakeStore, client: PolosClient):
    """Who opened the store closes it."""
    client.close()

    assert (0, []) == (store.closed, await client.list_executions())


# --------------------------------------------------------------------------------------- starting


async def test_invoke_makes_the_run(store: FakeStore, client: PolosClient):
    """A run is created with all that the caller said, and the handle knows it."""
    engine = FakeEngine(store, accepted)
    handle = await client.invoke(
        "elsewhere", Order(number=1), "q", 3, "k", "s", "u", {"n": 1}, 1.5, tags=["vip"]
    )  # fmt: skip
    ((_, command),) = engine.commands

    assert {
        "kind": "create",
        "runs": [
            {
                "run": handle.id,
                "created": {
                    **dict.fromkeys(
                        ("parent", "step", "origin", "start_after_us", "deadline_us", "continues", "chain")
                    ),
                    "workflow": "elsewhere",
                    "input": {"number": 1},
                    "root": handle.id,
                    "root_workflow": "elsewhere",
                    "wanted": False,
                    "detached": False,
                    "run_timeout_us": 1_500_000,
                    "initial_state": {"n": 1},
                    "queue": "q",
                    "queue_limit": 3,
                    "concurrency_key": "k",
                    "priority": 0,
                    "session": "s",
                    "user": "u",
                    "listed": True,
                    "tags": ["vip"],
                    "adopts": [],
                    "idempotency_key": None,
                    "singleton": None,
                    "singleton_policy": None,
                    **dict.fromkeys(("debounce", "debounce_us", "debounce_max_us")),
                    "deployment": "d",
                    "kind": "workflow",
                },
            }
        ],
    } == command
    shown = handle.to_dict()
    assert str(shown.pop("created_at")).endswith("+00:00")
    assert {
        "id": handle.id,
        "workflow_id": "elsewhere",
        "parent_execution_id": None,
        "root_workflow_id": "elsewhere",
        "root_execution_id": handle.id,
        "session_id": "s",
        "user_id": "u",
        "step_key": None,
        "accepted": True,
    } == shown


async def test_invoke_fills_in_what_the_workflow_says(store: FakeStore, client: PolosClient):
    """Queue, timeout and tags of a registered workflow hold where the caller says nothing; a session is made."""
    engine = FakeEngine(store, accepted)
    plain = await client.invoke("order", {})
    said = await client.invoke("order", {}, "other", run_timeout_seconds=1, tags=["vip", "shop"])
    first, second = (cast("Any", command)["runs"][0]["created"] for _, command in engine.commands)

    names = ("queue", "queue_limit", "run_timeout_us", "tags")
    assert ("till", None, 60_000_000, ["shop"]) == tuple(first[name] for name in names)
    assert ("other", None, 1_000_000, ["shop", "vip"]) == tuple(second[name] for name in names)
    assert (None, None) == (plain.session_id, said.session_id)
    assert 36 == len(first["session"])
    assert first["session"] != second["session"]


async def test_invoke_inside_a_run(store: FakeStore, client: PolosClient, inside: WorkflowContext):
    """A client used inside a run passes its session and user on, unless told otherwise."""
    engine = FakeEngine(store, accepted)
    await client.invoke("order", {})
    await client.invoke("order", {}, session_id="other", user_id="bob")

    assert [("session", "ann"), ("other", "bob")] == [
        (made["session"], made["user"])
        for made in (cast("Any", command)["runs"][0]["created"] for _, command in engine.commands)
    ]


async def test_invoke_without_an_engine(client: PolosClient):
    """A run for which no engine is there yet is queued, and says that it wasn't accepted."""
    handle = await client.invoke("order", {"number": 1})

    assert not handle.accepted
    found = await client.get_execution(handle.id)
    assert ("queued", {"number": 1}) == (found["status"], found["payload"])
    assert [handle.id] == [run["id"] for run in await client.list_executions()]


async def test_invoke_refuses_what_cannot_be_recorded(store: FakeStore, client: PolosClient):
    """A payload or state that isn't JSON, or a state over a megabyte, is refused before anything is written."""
    with pytest.raises(TypeError, match="payload isn't JSON"):
        await client.invoke("order", {"n": object()})
    with pytest.raises(TypeError, match="initial_state"):
        await client.invoke("order", {}, initial_state={"n": object()})
    with pytest.raises(ValueError, match="initial_state"):
        await client.invoke("order", {}, initial_state={"text": "x" * (1 << 20)})

    assert [] == list(store.inbox.pending())


async def test_batch_is_one_command(store: FakeStore, client: PolosClient):
    """All runs of a batch are created by one command, and their handles come in order."""
    engine = FakeEngine(store, accepted)
    items = [BatchWorkflowInput(id="order", payload={"number": n}, run_timeout_seconds=n + 1) for n in range(3)]
    handles = await batch_invoke(client, items, "s", "u")
    ((_, command),) = engine.commands
    runs = cast("Any", command)["runs"]

    assert [handle.id for handle in handles] == [run["run"] for run in runs]
    assert [(n, (n + 1) * 1_000_000, "s", "u") for n in range(3)] == [
        (made["input"]["number"], made["run_timeout_us"], made["session"], made["user"])
        for made in (run["created"] for run in runs)
    ]


async def test_a_batch_of_none(client: PolosClient):
    """An empty batch needs no engine."""
    assert [] == await client.batch_invoke([])


async def test_a_batch_with_an_unknown_workflow(store: FakeStore, client: PolosClient):
    """A batch with a workflow that this program doesn't know starts nothing."""
    items = [BatchWorkflowInput(id="order", payload={}), BatchWorkflowInput(id="nobody")]
    with pytest.raises(ValueError, match="Workflow 'nobody' not found"):
        await client.batch_invoke(items)

    assert [] == list(store.inbox.pending())


async def test_batch_invoke_inside_a_run(client: PolosClient, inside: WorkflowContext):
    """Inside a run root runs aren't started by the way."""
    with pytest.raises(RuntimeError, match=r"ctx\.step\.batch_invoke"):
        await batch_invoke(client, [])


# --------------------------------------------------------------------------------------- commands


async def test_commands_say_what_is_meant(history: History, store: FakeStore, client: PolosClient):
    """Each method becomes one command with its arguments as JSON."""
    engine = FakeEngine(store, answering({"outcome": "accepted", "detail": {"cancelled": True, "value": 7}}))
    history.begin(A)
    handle = ExecutionHandle(id=A).remembering(client)

    await client.resume("order", A, "ok#2", Order(number=1))
    await client.resume("order", A, "ok", {}, all=True)
    await client.signal(A, "go", Order(number=2))
    await handle.signal("go")
    await handle.signal(client, "go", 1)
    assert await client.cancel_execution(A, by="ann", reason="enough")
    assert await handle.cancel()
    assert 7 == await handle.query("sum", 1, Order(number=3))
    assert 7 == await handle.query(client, "sum")
    await client.resolve(A, "pay", "completed", Order(number=4), by="ann")
    await client.resolve(A, "pay", "failed", message="no card")
    await client.readmit(A)

    resume = {"kind": "resume", "run": A}
    signal = {"kind": "signal", "run": A, "name": "go"}
    cancel = {"kind": "cancel", "run": A}
    query = {"kind": "query", "run": A, "name": "sum"}
    resolve = {"kind": "resolve", "run": A, "step": "pay"}
    assert [
        {**resume, "key": "ok#2", "data": {"number": 1}, "all": False},
        {**resume, "key": "ok", "data": {}, "all": True},
        {**signal, "data": {"number": 2}},
        {**signal, "data": None},
        {**signal, "data": 1},
        {**cancel, "by": "ann", "reason": "enough"},
        {**cancel, "by": "client", "reason": None},
        {**query, "args": [1, {"number": 3}]},
        {**query, "args": []},
        {**resolve, "outcome": "completed", "value": {"number": 4}, "message": None, "by": "ann"},
        {**resolve, "outcome": "failed", "value": None, "message": "no card", "by": "client"},
        {"kind": "readmit", "run": A, "by": "client"},
    ] == [command for _, command in engine.commands]
    assert 12 == len({command_id for command_id, _ in engine.commands})


async def test_an_unknown_run_is_refused_here(client: PolosClient, store: FakeStore):
    """What is asked of a run that nobody knows is refused before a command is put."""
    asked = [
        client.resume("order", A, "ok", {}),
        client.signal(A, "go"),
        client.query(A),
        client.query(A, "sum"),
        client.update(A, "set"),
        client.resolve(A, "pay", "failed"),
        client.readmit(A),
        client.get_execution(A),
        client._wait_ended(A),
    ]
    for each in asked:
        with pytest.raises(UnknownRun):
            await each

    assert (False, []) == (await client.cancel_execution(A), list(store.inbox.pending()))


async def test_a_successor_is_addressed_under_the_handle(history: History, store: FakeStore, client: PolosClient):
    """What is asked of a handle reaches the run that goes on under it."""
    engine = FakeEngine(store, accepted)
    history.begin(A)
    history.run(A, e.RunContinued(cause=2, successor=B, workflow="order"))
    history.run(B, created(A, continues=A, chain=A, initial_state={"n": 1}), e.RunStarted(attempt=1))
    await client.signal(A, "go")

    assert [B] == [command["run"] for _, command in engine.commands]
    assert {"n": 1} == await client.query(A)


async def test_a_run_goes_on_while_a_command_is_on_its_way(history: History, store: FakeStore, client: PolosClient):
    """A command that is refused because the run just went on is sent to the successor, under an id of its own."""
    history.begin(A)

    def answer(_id: str, command: Command) -> Answer:
        if command["run"] == B:
            return {"outcome": "accepted", "detail": {"cancelled": True}}
        history.run(A, e.RunContinued(cause=2, successor=B, workflow="order"))
        history.run(B, created(A, continues=A, chain=A))
        raise CommandRefused("the run has ended")

    engine = FakeEngine(store, answer)

    assert await client.cancel_execution(A)
    assert [A, B] == [command["run"] for _, command in engine.commands]
    assert 2 == len({command_id for command_id, _ in engine.commands})


async def test_a_refusal_by_a_run_that_is_still_the_one(history: History, store: FakeStore, client: PolosClient):
    """A refusal that has nothing to do with successors is raised, and nothing is sent again."""
    history.begin(A)
    engine = FakeEngine(store, answering(CommandRefused("no such step")))
    with pytest.raises(CommandRefused, match="no such step"):
        await client.resolve(A, "pay", "failed")

    assert 1 == len(engine.commands)


async def test_a_resume_by_the_root_of_a_tree(history: History, store: FakeStore, client: PolosClient):
    """A resume by the root reaches an open wait of its key wherever in the tree, else the run that goes on."""
    engine = FakeEngine(store, accepted)
    history.begin(A)
    history.run(C, created(A, "ship", parent=A), e.RunStarted(attempt=1))
    history.run(C, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok"))
    history.run(A, e.RunContinued(cause=2, successor=B, workflow="order"))
    history.run(B, created(A, continues=A, chain=A), e.RunStarted(attempt=1))
    for key in ("ok", "other"):
        await client.resume("order", A, key, {})
        await client.resume("order", A, key, {}, all=True)
    await client.resume("ship", C, "other", {})

    assert [(C, "ok"), (A, "ok"), (B, "other"), (B, "other"), (C, "other")] == [
        (command["run"], command["key"]) for _, command in engine.commands
    ]


async def test_cancel_without_an_engine(history: History, client: PolosClient):
    """A cancellation that waits for the next engine counts, but not for a run that is over."""
    waiting = await client.invoke("order", {})
    history.begin(A)
    history.begin(B)
    history.end(B)

    assert (True, True, False) == (
        await waiting.cancel(),
        await client.cancel_execution(A),
        await client.cancel_execution(B),
    )


async def test_cancel_of_a_run_that_has_ended(history: History, store: FakeStore, client: PolosClient):
    """An engine that says the run was over gives False."""
    FakeEngine(store, answering({"outcome": "accepted", "detail": {"cancelled": False}}))
    history.begin(A)

    assert not await client.cancel_execution(A)


async def test_resolve_refuses_an_outcome_that_is_none(client: PolosClient):
    """An outcome that doesn't exist is refused before anything is looked at."""
    with pytest.raises(PolosUsageError, match="not_done"):
        await client.resolve(A, "pay", "done")


async def test_state_needs_no_engine(history: History, client: PolosClient):
    """A query without a name is the last durable state, engine or not."""
    history.run(A, created(A, initial_state={"n": 1}), e.RunStarted(attempt=1))
    history.run(A, e.StateChanged(cause=2, changed={"n": 2}))

    assert {"n": 2} == await ExecutionHandle(id=A).query(client)
    with pytest.raises(EngineNotRunning):
        await client.query(A, "sum")


async def test_take_back(client: PolosClient, store: FakeStore):
    """A command that is kept can be taken back through the client, by the id that its error names."""
    await client.invoke("order", {})
    (item,) = store.inbox.pending()

    assert await client.take_back(item.command_id)
    assert [] == await client.list_executions()


# ----------------------------------------------------------------------------------------- updates


def updating(history: History, **answer: Any) -> Callable[[str, Command], Answer]:
    """Give an engine that records an update and, at once, its answer, if one is given."""

    def reply(_id: str, command: Command) -> Answer:
        update_id = str(command["update_id"])
        history.run(A, e.UpdateReceived(update_id=update_id, name=str(command["name"]), data=command["data"]))
        if answer:
            history.run(A, e.UpdateAnswered(cause=3, update_id=update_id, **answer))
        return {"outcome": "accepted", "detail": {"update_id": update_id}}

    return reply


async def test_update_gives_the_handlers_answer(history: History, store: FakeStore, client: PolosClient):
    """An update waits for the handler, and gives what it returned."""
    history.begin(A)
    engine = FakeEngine(store, updating(history))
    asked = asyncio.ensure_future(client.update(A, "set", {"n": 1}))
    await eventually(lambda: engine.commands)
    history.run(A, e.StateChanged(cause=3))
    history.run(A, e.UpdateAnswered(cause=3, update_id=engine.commands[0][0], value={"number": 5}))

    assert {"number": 5} == await asked
    assert {"kind": "update", "run": A, "name": "set", "data": {"n": 1}, "update_id": engine.commands[0][0]} == (
        engine.commands[0][1]
    )


async def test_update_is_answered_at_once(history: History, store: FakeStore, client: PolosClient):
    """An answer that is there before the client looks isn't missed."""
    history.begin(A)
    FakeEngine(store, updating(history, value=0))

    assert 0 == await client.update(A, "set")
    assert 0 == await ExecutionHandle(id=A).update(client, "set", timeout=60)


async def test_update_whose_handler_fails(history: History, store: FakeStore, client: PolosClient):
    """A handler's failure is raised with the original type's name and message."""
    history.begin(A)
    FakeEngine(store, updating(history, error=e.Failure(type="ValueError", message="too big", traceback="line 1")))
    with pytest.raises(StepExecutionError, match="update 'set' failed: too big") as raised:
        await client.update(A, "set")

    assert ("ValueError", "line 1") == (raised.value.error_type, raised.value.traceback)


async def test_update_that_takes_too_long(history: History, store: FakeStore, client: PolosClient):
    """An update without an answer in time goes on; the error says so."""
    history.begin(A)
    FakeEngine(store, updating(history))
    with pytest.raises(ClientTimeout, match="goes on"):
        await client.update(A, "set", timeout=0.001)


async def test_update_that_is_rejected(history: History, store: FakeStore, client: PolosClient):
    """A validator's no reaches the caller, and nobody waits for an answer."""
    history.begin(A)
    FakeEngine(store, answering(UpdateRejected("too big")))
    with pytest.raises(UpdateRejected, match="too big"):
        await client.update(A, "set")


async def test_update_from_another_process(history: History, store: FakeStore, client: PolosClient):
    """An update goes through the inbox, and its answer is found in the run's stream."""
    history.begin(A)
    owner = Owner(history, store)
    asked = asyncio.ensure_future(client.update(A, "set", 1))
    command = await owner.take_next()
    history.run(A, e.UpdateReceived(update_id=str(command["update_id"]), name="set"))
    history.run(A, e.UpdateAnswered(cause=3, update_id=str(command["update_id"]), value="set"))

    assert "set" == await asked
    store.owned = False
    with pytest.raises(EngineNotRunning, match="update is kept"):
        await client.update(A, "set", 1)


# ----------------------------------------------------------------------------------------- reading


async def test_list_pages(history: History, client: PolosClient):
    """A page is a list of runs, and knows where the next one begins."""
    for run in (A, B, C):
        history.begin(run)
    first = await client.list_executions(limit=2, status="running", since="2026-01-01T00:00:00Z")
    rest = await client.list_executions(limit=2, status="running", cursor=first.cursor)

    assert isinstance(first, ExecutionPage)
    assert ([C, B], [A], None) == ([run["id"] for run in first], [run["id"] for run in rest], rest.cursor)
    assert "payload" not in first[0]


async def test_a_run_leaves_the_inbox_between_two_looks(history: History, store: FakeStore, client: PolosClient):
    """A run that an engine takes just while it is looked for is found in the log."""
    handle = await client.invoke("order", {})
    pending = store.inbox.pending

    def taken(*, limit: int | None = None) -> Any:
        store.inbox.pending = pending  # type: ignore[method-assign]
        Owner(history, store).take()
        history.begin(handle.id)
        return []

    store.inbox.pending = taken  # type: ignore[method-assign]
    assert "running" == (await client.get_execution(handle.id))["status"]
    store.owned = False
    handle = await client.invoke("order", {})
    store.inbox.pending = taken  # type: ignore[method-assign]
    FakeEngine(store, answering(CommandRefused("seen")))
    with pytest.raises(CommandRefused, match="seen"):
        await client.signal(handle.id, "go")
