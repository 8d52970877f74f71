"""
Commands as anybody could have written them: any of them is decided, and none harms the engine or the log.

What is drawn begins as a command that fits and is then changed in a few places. Whatever becomes of it is recorded as
its outcome; and afterwards the log must be one that engines can be started on, readers can show, and runs go on with.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polos import WorkflowContext, workflow
from polos.engine.codec import decode
from polos.engine.decide import created_to_json
from polos.engine.messages import Message, message_from_json, message_to_json
from polos.engine.projections import RUN_PREFIX
from polos.errors import CommandRefused
from polos.runtime.foreign import RUN_ID_BYTES_MAX, created_from_json, parse_command
from polos.runtime.public_events import RunInfo, public_events
from polos.runtime.settings import Settings
from polos.runtime.starting import root_run
from polos.store.inbox import InboxItem
from polos.testing.clock import VirtualClock
from polos.testing.simulation import Simulation

from tests.campaign import scaled


@workflow(id="fuzz_asking")
async def asking(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Can be asked, told and changed."""
    ctx.on_update("u", lambda data: data)
    ctx.on_query("q", lambda *args: len(args))
    await ctx.step.run("a", lambda: 1)
    return (await ctx.step.suspend("k", {})).data


@workflow(id="fuzz_parent")
async def parent(ctx: WorkflowContext) -> Any:
    """Wait for a child."""
    return await ctx.step.invoke_and_wait("c", asking, {})


@workflow(id="fuzz_unknown")
async def unknown(ctx: WorkflowContext) -> None:
    """Have a step whose outcome nobody knows, once its process has died."""
    await ctx.step.run("h", asyncio.Event().wait, effect="at_most_once")


RUN, CHILD, PARENT, UNKNOWN, NEW = (
    "<asking>",
    "<child>",
    "<parent>",
    "<unknown>",
    "019b76da-afd0-7000-8000-000000000001",
)
CREATED = created_to_json(root_run("fuzz_asking", {}, clock=VirtualClock(), deployment="fuzz", tags=["t"]))
CREATED |= {"root": NEW, "run_timeout_us": 5_000_000}
ENDED = {"name": "c", "child": CHILD, "status": "failed", "error": {"type": "T", "message": "m", "traceback": None}}


def _message(kind: str, target: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "message", "message": message_to_json(Message(id=f"m:{kind}", kind=kind, target=target, body=body))}


VALID: list[dict[str, Any]] = [
    {"kind": "create", "runs": [{"run": NEW, "created": CREATED}]},
    {"kind": "resume", "run": RUN, "key": "k", "data": 1, "all": False},
    {"kind": "signal", "run": RUN, "name": "n", "data": 1},
    {"kind": "cancel", "run": RUN, "by": "somebody", "reason": "why"},
    {"kind": "publish", "topic": "t", "events": [{"event_type": "e", "data": 1}, {"data": 2}], "run": RUN, "root": RUN},
    {"kind": "update", "run": RUN, "name": "u", "data": 1, "update_id": "i"},
    {"kind": "query", "run": RUN, "name": "q", "args": [1]},
    {"kind": "resolve", "run": UNKNOWN, "step": "h", "outcome": "completed", "value": 1, "by": "me"},
    {"kind": "resolve", "run": UNKNOWN, "step": "h", "outcome": "failed", "message": "m"},
    {"kind": "readmit", "run": RUN},
    _message("finished", PARENT, ENDED),
    _message("start", NEW, CREATED),
    _message("cancel", RUN, {"by": "p"}),
    _message("signal", RUN, {"key": "n", "data": 1}),
    _message("resume", RUN, {"key": "k", "data": 1}),
    _message("publish", "t", {"event_type": "e", "data": 1}),
]

TEXT = st.one_of(
    st.sampled_from(["", "k", "x" * 600, "\x00", "run/x", "fuzz_asking", "completed", RUN, CHILD, PARENT, NEW]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, 1e300]),
    TEXT,
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["k", "id", "workflow", "body", "type"]), inner)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the way to each place in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def commands(draw: st.DrawFn) -> Any:
    """Draw a command that fits, with a few changes."""
    command: Any = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        ways = list(places(command))
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        holder = command
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace" or not isinstance(holder, dict):
            holder[last] = draw(ANY)
        elif change == "remove":
            del holder[last]
        else:
            holder[draw(st.sampled_from(["more", "kind", "run", "id", "tags"]))] = draw(ANY)
    return command


def put(value: Any, names: dict[str, str]) -> Any:
    """Put the ids of the runs that there are into a command."""
    if isinstance(value, dict):
        return {key: put(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [put(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def show(sim: Simulation) -> None:
    """Read everything as readers of streams do."""
    with sim.store.log.reader() as reader:
        for record in reader.records():
            event = decode(record.type, record.schema_version, record.payload)
            info = None
            if record.stream.startswith(RUN_PREFIX):
                state = sim.audit.states[record.stream.removeprefix(RUN_PREFIX)]
                info = RunInfo(
                    run=state.run, handle=state.chain or state.run, workflow=state.workflow, kind=state.kind,
                    root=state.root, root_workflow=state.root_workflow,
                )  # fmt: skip
            for shown in public_events(record, event, info):
                shown.model_dump_json()


def _create(**changes: Any) -> Any:
    return {"kind": "create", "runs": [{"run": NEW, "created": {**CREATED, **changes}}]}


# Each of these was recorded, and no engine could be started on the log again; or the engine called itself broken.
FOUND = [
    _create(start_after_us="a text"),
    _create(start_after_us=[]),
    _create(run_timeout_us="\x00"),
    _create(tags=[None]),
    _create(tags=[{"": 1}]),
    _create(run_timeout_us=2**64 - 1),
    {"kind": "create", "runs": [{"run": "x" * 600, "created": CREATED}]},
    _message("finished", PARENT, {**ENDED, "error": {}}),
    _message("finished", PARENT, {**ENDED, "status": "vanished"}),
]


@settings(max_examples=scaled(80, 20_000))
@given(st.lists(commands(), min_size=1, max_size=3))
@example(FOUND)
def test_any_command_is_decided_and_none_does_harm(drawn: list[Any]) -> None:
    """Each command has an outcome that says what is wrong, the engine works on, and so does the next one on its log."""
    quiet = Settings(inbox_poll_seconds=0, record_sources=False)
    with Simulation([asking, parent, unknown], settings=quiet) as sim:
        runs = {RUN: asking, PARENT: parent, UNKNOWN: unknown}
        names = {name: sim.create(code, {} if code is asking else None).run for name, code in runs.items()}
        sim.run_for(1)
        names[CHILD] = next(run for run, state in sim.audit.states.items() if state.parent == names[PARENT])
        sim.recover()
        sim.run_for(1)
        for number, command in enumerate(drawn):
            payload = orjson.dumps({"command": put(command, names), "by": "fuzz"})
            sim.engine.intake._consume(InboxItem(command_id=f"c-{number}", payload=payload))
            sim.run_for(1)
        with sim.store.log.reader() as reader:
            outcomes = [orjson.loads(reader.row(("command", f"c-{number}")) or b"null") for number in range(len(drawn))]
        sim.recover()
        sim.run_for(100)
        sim.recover()
        sim.run_for(1)
        last = sim.create(asking, {})
        sim.run_for(1)
        sim.audit.check_rows()
        show(sim)

        assert None not in outcomes
        assert last.reply is not None
        for outcome in outcomes:
            if outcome["outcome"] == "refused":
                assert outcome["detail"]["error"] in ("CommandRefused", "UnknownRun", "UpdateRejected"), outcome
                assert len(outcome["detail"]["message"]) > 10, outcome


def tried(read: Callable[[Any], Any], value: Any) -> tuple[Any, str]:
    """Give what was read, or None and the refusal."""
    try:
        return read(value), ""
    except CommandRefused as refused:
        return None, str(refused)


@given(ANY)
@example({"id": "a", "kind": "b", "target": 5, "body": {}})
@example({"tags": -1})
def test_any_json_is_a_message_or_refused(value: Any) -> None:
    """What isn't a message, or doesn't create a run, is refused with what is wrong with it."""
    message, refused = tried(message_from_json, value)
    assert ("message" in refused) if message is None else message == message_from_json(message_to_json(message))
    if isinstance(value, dict):
        with pytest.raises(CommandRefused, match="a run can't be created"):
            created_from_json(value)  # none of these has all that is needed


@given(st.one_of(st.binary(max_size=60), ANY.map(orjson.dumps)))
def test_any_bytes_are_a_command_or_refused(payload: bytes) -> None:
    """What isn't a command is refused."""
    command, refused = tried(parse_command, payload)
    assert ("command" in refused) if command is None else isinstance(command, dict)


def test_the_longest_id_of_a_run_is_taken() -> None:
    """A run's id may be as long as the limit says."""
    with Simulation([asking], settings=Settings(inbox_poll_seconds=0, record_sources=False)) as sim:
        for length in (RUN_ID_BYTES_MAX, RUN_ID_BYTES_MAX + 1):
            run = "r" * length
            call = sim.send("create", run=run, runs=[{"run": run, "created": {**CREATED, "root": run}}])
            sim.run_for(1)

            assert (length <= RUN_ID_BYTES_MAX) == (call.error is None)
