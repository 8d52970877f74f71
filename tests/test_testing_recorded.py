"""Recorded runs as tests: what is written, what is refused, and each way in which code can differ from a recording."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, RetryPolicy, WorkflowContext, WorkflowState, registry, workflow
from polos.engine import events as e
from polos.errors import PolosUsageError, UnknownRun
from polos.testing import CapturedEvents
from polos.testing import differences as d
from polos.testing.accepting import ACCEPTING
from polos.testing.recorded import BadRecording, RecordedRun, record_run
from polos.testing.recorded_replay import assert_replays, differences
from pydantic import BaseModel

CALLS: list[Any] = []


class Receipt(BaseModel):
    """What a charge gives."""

    id: str
    cents: int


class ReceiptOfToday(BaseModel):
    """The same with a currency, which has a default."""

    id: str
    cents: int
    currency: str = "EUR"


class ReceiptOfTomorrow(BaseModel):
    """The same with a field that nothing is known about."""

    id: str
    cents: int
    tax: int


class Order(WorkflowState):
    """State of an order."""

    paid: int = 0


def charge(cents: int) -> Receipt:
    """Charge, and be seen to."""
    CALLS.append(cents)
    return Receipt(id="r-1", cents=cents)


def charge_today(cents: int) -> ReceiptOfToday:
    """Charge by the schema of today."""
    raise AssertionError("a replay calls no function")


def charge_tomorrow(cents: int) -> ReceiptOfTomorrow:
    """Charge by the schema of tomorrow."""
    raise AssertionError("a replay calls no function")


def note(text: str) -> str:
    """Note something."""
    CALLS.append(text)
    return text


def shout(text: str) -> str:
    """Say it loud."""
    raise AssertionError("a replay calls no function")


def defined(body: Callable[..., Any], **given: Any) -> Any:
    """Define a body as the workflow `order`, in place of the one before."""
    return workflow(id="order", **given)(body)


def current() -> Any:
    """Give the order as it is defined now."""
    return registry.get_workflow("order")


@workflow
async def parcel(ctx: WorkflowContext, payload: dict[str, int]) -> int:
    return payload["weight"] * 2


async def first(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    await ctx.step.wait_for("pause", hours=1)
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    await ctx.step.run("thank", note, "thanks")
    return {"paid": receipt.cents, "price": price}


@pytest.fixture
def record(polos: Polos) -> Callable[..., RecordedRun]:
    """Run a workflow to its end and give the recording."""

    def run(defined: Any, payload: Any = None, *, tree: bool = False) -> RecordedRun:
        async def main() -> RecordedRun:
            async with polos:
                handle = await defined.invoke(polos, payload)
                await polos.engine.watchers.watch(handle.id, polos.engine.loop)
                with polos.engine.store.log.reader() as reader:
                    return record_run(reader, handle.id, tree=tree)

        found = asyncio.run(main())
        CALLS.clear()
        return found

    return run


@pytest.fixture
def recording(record: Callable[..., RecordedRun]) -> RecordedRun:
    """The first version of the order, recorded."""
    return record(defined(first, state_schema=Order), {"cents": 1200})


# ---------------------------------------------------------------------------------------- the file


def test_a_recording_is_read_as_it_was_written(recording: RecordedRun, tmp_path: Path):
    """What is loaded is what was saved, and it is written the same again."""
    recording.save(tmp_path / "order.json")
    loaded = RecordedRun.load(tmp_path / "order.json")

    assert recording == loaded
    assert recording.to_bytes() == loaded.to_bytes()


def test_a_recording_is_made_for_people(recording: RecordedRun):
    """The file is JSON with one record a line, keys in order, and of a child no more than what it was created with."""
    text = recording.to_bytes().decode()
    records = text.split('"history": [\n')[1].removesuffix("\n]}\n").split(",\n")
    parsed = [json.loads(line) for line in records]

    assert parsed == json.loads(text)["history"]
    assert all(list(record) == sorted(record) and list(record["event"]) == sorted(record["event"]) for record in parsed)
    assert ["RunCreated"] == [record["type"] for record in parsed if record["run"] != recording.run]
    assert [recording.run] == recording.runs()


def test_what_a_program_gave_keeps_its_order(record: Callable[..., RecordedRun]):
    """The order of a dict's keys, which a workflow can see, survives the file."""

    async def ordered(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
        return list(await ctx.step.run("ask", lambda: {"b": 1, "a": 2}))

    body = defined(ordered)
    written = record(body, {"z": 1, "y": 2}).to_bytes()

    assert_replays(RecordedRun.from_bytes(written, where="it"), body)
    assert b'{"b":1,"a":2}' in written


def test_a_recording_is_private(recording: RecordedRun, tmp_path: Path):
    """Others can't read a new file unless they are let; who lets them once needn't again."""
    path = tmp_path / "order.json"

    def mode(**given: bool) -> int:
        recording.save(path, **given)
        return stat.S_IMODE(path.stat().st_mode)

    assert [0o600, 0o644, 0o644, 0o600] == [mode(), mode(shared=True), mode(), mode(shared=False)]
    assert ["order.json"] == [found.name for found in tmp_path.iterdir() if "order" in found.name]


EDITS: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text[: len(text) // 2], "isn't a whole recorded run"),
    (lambda text: "", "isn't a whole recorded run"),
    (lambda text: "[]", "isn't a recorded run"),
    (lambda text: '{"kind": "something else"}', "isn't a recorded run"),
    (lambda text: text.replace('"format": 1', '"format": 2'), "has format 2"),
    (lambda text: text.replace('"history"', '"herstory"'), "has no history"),
    (lambda text: "\n".join(line for line in text.split("\n") if '"TimerFired"' not in line), "doesn't hold the"),
    (lambda text: text.replace('"version":3', '"version":4'), "without gaps"),
    (lambda text: text.replace('"schema":1', '"schema":"one"', 1), "has a record that isn't one"),
    (lambda text: text.replace('"run": "', '"run": "x'), "without gaps"),
    (lambda text: text.replace('"type":"TimerFired"', '"type":"TimerFried"'), "was edited"),
    (lambda text: text.replace('"name":"pause"', '"title":"pause"', 1), "was edited"),
    (lambda text: text.replace('"cents":1200', '"cents":1300'), "was edited"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS, ids=range(len(EDITS)))
def test_what_is_no_recording_is_refused(recording: RecordedRun, tmp_path: Path, edit: Any, message: str):
    """A file that was cut off, edited, or is something else is refused with what is wrong; it is no difference."""
    path = tmp_path / "order.json"
    text = recording.to_bytes().decode()
    path.write_text(edit(text), encoding="utf-8")

    assert edit(text) != text
    with pytest.raises(BadRecording, match=message):
        assert_replays(path, current())


def test_a_history_that_no_engine_writes_is_refused(recording: RecordedRun):
    """Records that are whole, and make no sense together, are refused."""
    created, started, *rest = recording.records
    unstarted = replace(recording, records=(created, started.having(e.SignalReceived(kind="x", key="", signal_id=""))))
    mixed = replace(recording, records=(created, started, rest[0].having(e.TimerFired(name="pause")), *rest[1:]))

    for broken, message in ((unstarted, "hadn't started"), (mixed, "isn't one that an engine writes")):
        with pytest.raises(BadRecording, match=message):
            assert_replays(broken, current())


def test_a_run_that_is_not_there_cannot_be_recorded(polos: Polos):
    """A log without the run says so."""

    async def main() -> None:
        async with polos:
            with polos.engine.store.log.reader() as reader, pytest.raises(UnknownRun, match="no run 'r'"):
                record_run(reader, "r")

    asyncio.run(main())


# ----------------------------------------------------------------------------------- what differs


def test_the_same_code_fits(recording: RecordedRun):
    """Unchanged code passes, and no function of a step is called."""
    assert_replays(recording, current())

    assert [] == CALLS


def test_a_test_on_an_event_loop_compares_too(recording: RecordedRun):
    """Inside of a task it works as outside, and so does what it raises."""

    async def main() -> None:
        assert_replays(recording, current())
        with pytest.raises(BadRecording, match="is a run of 'order', not of 'parcel'"):
            assert_replays(recording, parcel)
        with pytest.raises(PolosUsageError, match="isn't deterministic"):
            assert_replays(recording, defined(first, state_schema=Order, deterministic=False))

    asyncio.run(main())
    with pytest.raises(PolosUsageError, match="isn't deterministic") as raised:
        assert_replays(recording, current())
    assert raised.value.__context__ is None, "what is raised is the whole story"


async def other_amount(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge, payload["cents"] * 100)
    await ctx.step.wait_for("pause", hours=2)
    ctx.state.paid = receipt.cents + 1
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 4})
    await ctx.step.run("thank", shout, "thanks", effect="pure")
    return {"paid": receipt.cents, "total": price}


async def another_step(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    await ctx.step.run("check", note, "is it there?")
    await ctx.step.wait_for("pause", hours=1)
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    await ctx.step.run("thank", note, "thanks")
    return {"paid": receipt.cents, "price": price}


async def another_step_beside(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    beside = asyncio.ensure_future(ctx.step.run("check", note, "is it there?"))
    result = await first(ctx, payload)
    beside.cancel()
    return result


async def a_step_less(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    await ctx.step.run("thank", note, "thanks")
    return {"paid": receipt.cents, "price": price}


async def renamed(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge_card", charge, payload["cents"])
    return {"paid": receipt.cents}


async def at_once(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt, _ = await asyncio.gather(
        ctx.step.run("charge", charge, payload["cents"]), ctx.step.run("thank", note, "thanks")
    )
    await ctx.step.wait_for("pause", hours=1)
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    return {"paid": receipt.cents, "price": price}


async def schema_of_today(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge_today, payload["cents"])
    await ctx.step.wait_for("pause", hours=1)
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    await ctx.step.run("thank", note, "thanks")
    return {"paid": receipt.cents, "price": price}


async def schema_of_tomorrow(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge_tomorrow, payload["cents"])
    return {"paid": receipt.tax}


async def other_input(ctx: WorkflowContext, payload: ReceiptOfTomorrow) -> Any:
    return await first(ctx, {"cents": payload.cents})


async def fails(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    await first(ctx, payload)
    raise ValueError("no")


async def waits_on(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    await first(ctx, payload)
    await asyncio.Event().wait()


async def spins(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    while True:
        await asyncio.sleep(0)


async def sends(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    await ctx.step.publish_event("tell", "orders", {"sum": 1})
    return await first(ctx, payload)


async def swapped(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    await ctx.step.run("thank", note, "thanks")
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    return {"paid": receipt.cents, "price": price}


async def other_places(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    await ctx.step.wait_for("pause", hours=1)
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    ctx.state.paid = receipt.cents
    price = await ctx.step.invoke_and_wait("ship", parcel, {"weight": 3})
    await ctx.step.run("thank", note, "thanks")
    return {"paid": receipt.cents, "price": price}


async def without_ship(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    receipt = await ctx.step.run("charge", charge, payload["cents"])
    await ctx.step.wait_for("pause", hours=1)
    ctx.state.paid = receipt.cents
    await ctx.step.run("thank", note, "thanks")
    return {"paid": receipt.cents, "price": 15}


CASES: list[tuple[Any, list[tuple[str, str]]]] = [
    (other_amount, [
        ("ArgumentsChanged", "charge"), ("RequestChanged", "pause"), ("ArgumentsChanged", "ship"), ("StateChanged", ""),
        ("FunctionChanged", "thank"), ("EffectChanged", "thank"), ("ResultChanged", ""),
    ]),
    (another_step, [("ExtraStep", "check"), ("NotReached", "")]),
    (another_step_beside, [("ExtraStep", "check")]),
    (a_step_less, [("MissingStep", "pause")]),
    (renamed, [("ExtraStep", "charge_card"), ("NotReached", "")]),
    (at_once, [("OrderChanged", "thank"), ("OrderChanged", "pause")]),
    (schema_of_today, [("FunctionChanged", "charge"), ("SchemaChanged", "charge")]),
    (other_places, [("OrderChanged", "pause"), ("OrderChanged", "charge")]),
    (without_ship, [("MissingStep", "ship"), ("ResultChanged", "")]),
    (other_input, [("SchemaChanged", "")]),
    (fails, [("EndChanged", "")]),
    (sends, [("ExtraStep", "tell")]),
    (swapped, [("MissingStep", "pause"), ("OrderChanged", "thank")]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_differs_is_told(recording: RecordedRun, body: Any, expected: list[tuple[str, str]]):
    """Each way to differ has a type and names its step, and one misfit doesn't hide the next."""
    with pytest.raises(d.RunDiffers) as raised:
        assert_replays(recording, defined(body, state_schema=Order))

    found = [(type(difference).__name__, difference.step) for difference in raised.value.differences]
    assert expected == [item for item in found if item in expected], str(raised.value)
    if body is not other_input:
        assert expected == found, str(raised.value)
    assert all(f"{kind}: " in str(raised.value) for kind, _ in expected)
    assert [] == CALLS


def test_a_wrong_order_is_shown_with_the_line(recording: RecordedRun):
    """The message has the step, the line that asks, both sides, and what can be done."""
    with pytest.raises(d.RunDiffers) as raised:
        assert_replays(recording, defined(other_amount, state_schema=Order))

    text = str(raised.value)
    assert "'order' differs from the recording in 7 places" in text
    assert f"{__file__}:{other_amount.__code__.co_firstlineno + 1}" in text
    assert "arguments now: 120000" in text
    assert '-  "weight": 3\n    +  "weight": 4' in text
    assert "pytest --polos-accept" in text


def test_a_child_that_is_missing_says_of_which_workflow(recording: RecordedRun):
    """Its name is that of a step, which several children may have."""
    with pytest.raises(d.RunDiffers, match=r"child run 'ship': is recorded.*\n +started workflow 'parcel'\n"):
        assert_replays(recording, defined(without_ship, state_schema=Order))


def test_a_line_that_nobody_knows_is_none(recording: RecordedRun):
    """A step that `gather` starts has no line of the program around it, and not that of whoever runs the program."""
    (thank, pause) = differences(recording, defined(at_once, state_schema=Order))

    assert (None, True) == (thank.line, str(pause.line).startswith(f"{__file__}:"))


def test_what_a_spinning_body_does_is_told(recording: RecordedRun):
    """A body that never waits is stopped, and said to be."""
    with pytest.raises(d.RunDiffers, match=r"Diverged: .*\n.*without waiting"):
        assert_replays(recording, defined(spins, state_schema=Order, activation_callbacks_max=100))


@pytest.mark.parametrize(("body", "kind"), [(schema_of_tomorrow, d.SchemaChanged), (waits_on, d.EndChanged)])
def test_one_of_what_differs(recording: RecordedRun, body: Any, kind: type[d.Difference]):
    """What follows from a difference is told beside it."""
    with pytest.raises(d.RunDiffers) as raised:
        assert_replays(recording, defined(body, state_schema=Order))

    assert kind in {type(difference) for difference in raised.value.differences}


# -------------------------------------------------------------------------------------- accepting


@pytest.fixture
def accepting():
    """As under `pytest --polos-accept`."""
    token = ACCEPTING.set(True)
    yield
    ACCEPTING.reset(token)


@pytest.mark.parametrize("body", [other_amount, schema_of_today])
def test_what_needs_no_invention_is_accepted(recording: RecordedRun, tmp_path: Path, accepting: None, body: Any):
    """Changed arguments, records and results are written into the recording, which then fits without accepting."""
    path = tmp_path / "order.json"
    recording.save(path)
    changed = defined(body, state_schema=Order)

    assert_replays(path, changed)

    ACCEPTING.set(False)
    assert_replays(path, changed)
    assert recording != RecordedRun.load(path)
    with pytest.raises(d.RunDiffers):
        assert_replays(path, defined(first, state_schema=Order))


@pytest.mark.parametrize("body", [another_step, a_step_less, at_once, fails, schema_of_tomorrow, other_input])
def test_what_would_be_invented_is_not_accepted(recording: RecordedRun, tmp_path: Path, accepting: None, body: Any):
    """Where somebody would have to know what a step returns the file stays as it is; the message says how to go on."""
    path = tmp_path / "order.json"
    recording.save(path)

    with pytest.raises(d.RunDiffers, match="polos test record RUN"):
        assert_replays(path, defined(body, state_schema=Order))

    assert recording == RecordedRun.load(path)


def test_an_edit_is_sealed(recording: RecordedRun, tmp_path: Path, accepting: None):
    """Who takes a value out of a recording has it sealed by accepting, if the code fits it still."""
    path = tmp_path / "order.json"
    path.write_bytes(recording.to_bytes().replace(b'"id":"r-1"', b'"id":"***"'))
    changed = current()

    assert_replays(path, changed)

    ACCEPTING.set(False)
    assert_replays(path, changed)
    assert b'"id":"***"' in path.read_bytes()


def test_accepting_writes_nothing_without_need(recording: RecordedRun, tmp_path: Path, accepting: None):
    """A recording that fits isn't touched."""
    path = tmp_path / "order.json"
    recording.save(path)
    before = path.stat().st_ino

    assert_replays(path, current())

    assert before == path.stat().st_ino


# ------------------------------------------------------------------------------ all kinds of runs


def test_a_tree_is_replayed_as_a_whole(record: Callable[..., RecordedRun], monkeypatch: pytest.MonkeyPatch):
    """With the tree recorded, the code of children is compared, too; it has to be there."""
    found = record(defined(first, state_schema=Order), {"cents": 1}, tree=True)
    order = current()
    assert_replays(found, order)

    @workflow(id="parcel")
    async def heavier(ctx: WorkflowContext, payload: dict[str, int]) -> int:
        return payload["weight"] * 3

    ((difference,),) = [differences(found, order)]
    assert (d.ResultChanged, 6, 9) == (type(difference), difference.recorded, difference.asked)

    monkeypatch.delitem(registry._workflows, "parcel")
    with pytest.raises(PolosUsageError, match="no workflow 'parcel' is registered"):
        assert_replays(found, order)


def test_every_attempt_is_replayed(record: Callable[..., RecordedRun]):
    """A run that was tried again is compared attempt by attempt, what it used again included."""

    def body(divisor: int) -> Any:
        async def tried(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
            cents = await ctx.step.run("note", note, "x")
            if ctx.retry_count == 0:
                raise ValueError(f"the first time {divisor}")
            return [cents, await ctx.step.uuid("id"), ctx.retry_count]

        return defined(tried, retries=RetryPolicy(max_retries=1))

    found = record(body(1), {"cents": 1})
    assert 2 == sum(record.type == "RunStarted" for record in found.records)
    assert_replays(found, body(1))

    assert [d.EndChanged] == [type(difference) for difference in differences(found, body(2))]


def test_a_run_under_way_is_compared_as_far_as_it_is(polos: Polos, polos_events: CapturedEvents):
    """What hasn't ended can be recorded, and fits the code that it waits in."""

    async def waits(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("note", note, "x")
        return await ctx.step.wait_for_signal("go", timeout=60)

    async def other(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        await ctx.step.run("note", note, "x")
        return await ctx.step.wait_for_signal("go", timeout=90)

    async def main() -> RecordedRun:
        async with polos:
            handle = await defined(waits).invoke(polos, {})
            await polos_events.wait_for(e.WaitStarted, run=handle)
            with polos.engine.store.log.reader() as reader:
                return record_run(reader, handle.id)

    found = asyncio.run(main())

    assert_replays(found, defined(waits))
    (difference,) = differences(found, defined(other))
    assert ({"timeout_seconds": 60.0}, {"timeout_seconds": 90.0}) == (difference.recorded, difference.asked)


def test_a_recording_that_is_not_there_is_told(tmp_path: Path):
    """Who names a file that isn't there learns which command writes one."""
    with pytest.raises(BadRecording, match=r"there is no file .*missing.json: `polos test record RUN --out"):
        RecordedRun.load(tmp_path / "missing.json")
