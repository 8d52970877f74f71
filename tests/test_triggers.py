"""
Triggers on the engine: events of topics become runs, each once for each trigger, also across crashes.

What is looked at is the log: which events the runs of a trigger were created with.
"""

from __future__ import annotations

from typing import Any

import pytest
from polos import BatchEventPayload, EventPayload, Polos, PolosClient, Queue, WorkflowContext, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.patterns import matches
from polos.engine.projections import TRIGGER_PREFIX, topic_stream
from polos.errors import CommandRefused, PolosUsageError
from polos.features import events, triggers
from polos.runtime.triggers import Triggers
from polos.testing.simulation import Simulation


def publish(sim: Simulation, topic: str, *numbers: int) -> None:
    """Publish numbers, in one command, durably."""
    sim.send("publish", topic=topic, events=[{"data": {"n": number}, "event_type": "number"} for number in numbers])
    sim.run_for(0.01)


def got(sim: Simulation, workflow_id: str) -> list[list[int]]:
    """Give the numbers of the events that the runs of a workflow were created with, in the order of the runs."""
    found: list[tuple[int, list[int]]] = []
    for history in sim.audit.histories.values():
        created = history[0][0]
        if isinstance(created, e.RunCreated) and created.workflow == workflow_id:
            payload: Any = created.input
            items = payload.get("events", [payload])
            found.append((items[0]["sequence_id"], [item["data"]["n"] for item in items]))
    return [numbers for _, numbers in sorted(found)]


def trigger_events(sim: Simulation, workflow_id: str) -> list[Any]:
    """Give what is recorded of a trigger."""
    with sim.store.log.reader() as reader:
        records = list(reader.stream(TRIGGER_PREFIX + workflow_id))
    return [decode(record.type, record.schema_version, record.payload) for record in records]


@workflow(id="one", trigger_on_event="orders")
async def one(ctx: WorkflowContext, payload: EventPayload) -> int:
    """Take one event."""
    return int(payload.data["n"])


@workflow(id="many", trigger_on_event="orders", batch_size=3, batch_timeout_seconds=30)
async def many(ctx: WorkflowContext, payload: BatchEventPayload) -> int:
    """Take up to three events."""
    return sum(event.data["n"] for event in payload.events)


def test_each_event_makes_a_run() -> None:
    """A published event starts a run that gets it, as the model that its function wants."""
    with Simulation([one]) as sim:
        publish(sim, "orders", 1, 2)
        publish(sim, "invoices", 9)
        sim.settle()
        results = [sim.result(run) for run in sim.audit.states]

    assert [[1], [2]] == got(sim, "one")
    assert [1, 2] == sorted(results)


def test_a_batch_goes_when_it_is_full_or_old() -> None:
    """Three events go at once; two wait until the older one has waited for thirty seconds, also across a restart."""
    with Simulation([many]) as sim:
        publish(sim, "orders", 1, 2, 3, 4)
        sim.run_for(20)
        publish(sim, "orders", 5)
        full = got(sim, "many")
        sim.recover()
        sim.run_for(9)
        early = got(sim, "many")
        sim.run_for(2)
        late = got(sim, "many")
        fired = [event for event in trigger_events(sim, "many") if isinstance(event, e.TriggerFired)]

    assert ([[1, 2, 3]], [[1, 2, 3]], [[1, 2, 3], [4, 5]]) == (full, early, late)
    assert [(3, False), (2, True)] == [(event.events, event.waited) for event in fired]


def test_without_a_timeout_a_batch_takes_what_is_there() -> None:
    """Nobody waits for a batch to be full if no timeout says for how long."""

    @workflow(id="eager", trigger_on_event="orders", batch_size=3)
    async def eager(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([eager]) as sim:
        publish(sim, "orders", 1, 2, 3, 4)
        sim.settle()

    assert [[1, 2, 3], [4]] == got(sim, "eager")


def test_a_pattern_takes_the_events_of_many_topics_in_their_order() -> None:
    """`*` stands for a segment, `**` for any number; events come in the order in which they were published."""

    @workflow(id="star", trigger_on_event="orders/*")
    async def star(ctx: WorkflowContext, payload: EventPayload) -> None:
        return None

    @workflow(id="stars", trigger_on_event="orders/**", batch_size=10)
    async def stars(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([star, stars]) as sim:
        triggers_paused = sim.send("trigger", trigger="stars", paused=True)
        for number, topic in enumerate(["orders/a", "orders/b", "orders", "orders/a/x", "orders/a", "other/a"]):
            publish(sim, topic, number)
        sim.recover()
        sim.send("trigger", trigger="stars", paused=False)
        sim.settle()

    assert triggers_paused.error is None
    assert [[0], [1], [4]] == got(sim, "star")
    assert [[0, 1, 2, 3, 4]] == got(sim, "stars")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a", ["a"], ["a/b", "b", ""]),
        ("*", ["a", "b.c"], ["a/b"]),
        ("**", ["a", "a/b/c"], []),
        ("a/*/c", ["a/b/c", "a//c"], ["a/c", "a/b/b/c"]),
        ("a/**/c", ["a/c", "a/b/c", "a/c/c", "a/b/c/d/c"], ["a", "c", "a/c/d"]),
        ("**/a/**", ["a", "x/a", "a/x", "x/a/a/y"], ["x", "xa"]),
        ("*/**/*", ["a/b", "a/b/c"], ["a"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    """Segments are parted by slashes, and a wildcard is a whole one."""
    assert yes == [topic for topic in [*yes, *no] if matches(pattern, topic)]


def test_a_filter_decides_and_one_that_raises_says_no() -> None:
    """Only what the filter accepts starts runs; an event on which it raises is recorded, once, with its id."""

    def odd(event: EventPayload) -> bool:
        number = event.data.pop("n")  # what it does to its event is nobody else's business
        if number == 4:
            raise ValueError("four")
        return bool(number % 2)

    @workflow(id="odd", trigger_on_event="orders", trigger_filter=odd, batch_size=2, batch_timeout_seconds=60)
    async def odds(ctx: WorkflowContext, payload: BatchEventPayload) -> None:
        return None

    with Simulation([odds]) as sim:
        publish(sim, "orders", 1, 2, 4)
        sim.run_for(1)
        sim.recover()
        publish(sim, "orders", 4, 5, 6, 7)
        sim.settle()
        failed = [event for event in trigger_events(sim, "odd") if isinstance(event, e.TriggerFailed)]

    assert [[1, 5], [7]] == got(sim, "odd")
    assert [("command-1:2", "ValueError", "four"), ("command-2:0", "ValueError", "four")] == [
        (event.event_id, event.error_type, event.message) for event in failed
    ]


def test_a_new_trigger_begins_with_its_registration() -> None:
    """What was published before doesn't count, unless `from_beginning` asks for it; the rest does, always."""

    def define(topic: str, size: int, *, beginning: bool = False) -> Any:
        @workflow(id="late", trigger_on_event=topic, batch_size=size, from_beginning=beginning)
        async def late(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
            return None

        return late

    with Simulation([one]) as sim:
        for number, definition in enumerate(
            [None, define("orders", 1), define("orders", 2), None, define("orders", 1), define("*", 1)]
        ):
            sim.crash()
            sim.workflows.pop("late", None)
            if definition is not None:
                sim.workflows["late"] = definition
            sim.start()
            publish(sim, "orders", number)
            sim.settle()
        seen = got(sim, "late")
        sim.crash()
        sim.workflows["late"] = define("orders/**", 1, beginning=True)
        sim.start()
        sim.settle()

    # While its code wasn't there (3) the trigger stood still.
    assert [[1], [2], [3], [4], [5]] == seen
    assert [[0], *[[n] for n in range(1, 6) for _ in range(2)]] == got(sim, "late")


def test_a_trigger_that_is_taken_away_leaves_nothing_behind() -> None:
    """A workflow whose trigger went away and came back sees nothing of what was published in between."""

    @workflow(id="one")
    async def without(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([one]) as sim:
        for number, definition in enumerate([one, without, one]):
            sim.crash()
            sim.workflows["one"] = definition
            sim.start()
            publish(sim, "orders", number)
            sim.settle()

    assert [[0], [2]] == got(sim, "one")


def test_history_is_read_in_pieces() -> None:
    """Thousands of old events become runs in their order; those that don't count aren't looked at again."""
    asked: list[int] = []

    def rare(event: EventPayload) -> bool:
        asked.append(event.data["n"])
        return bool(event.data["n"] % 1_000 == 0)

    @workflow(id="rare", trigger_on_event="**", trigger_filter=rare, from_beginning=True)
    async def rares(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([one]) as sim:
        sim.workflows.clear()
        for number in range(0, 4_000, 100):
            publish(sim, f"topic {number % 700}", *range(number, number + 100))
        sim.settle()
        sim.crash()
        sim.workflows["rare"] = rares
        sim.start()
        sim.settle()
        before = len(asked)
        sim.recover()
        sim.settle()

    assert [[0], [1_000], [2_000], [3_000]] == got(sim, "rare")
    assert 4_000 == before
    assert len(asked) - before <= 250


def test_a_full_queue_holds_its_trigger_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events wait in their topic while the queue takes no more runs, more than are kept in memory, and none is lost."""
    monkeypatch.setattr("polos.runtime.triggers.KEPT_EVENTS", 300)
    count = 450

    @workflow(id="narrow", queue=Queue("narrow", 1, max_queued=2), trigger_on_event="orders")
    async def narrow(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        await ctx.step.wait_for("pause", seconds=5)

    with Simulation([narrow]) as sim:
        sim.send("queue", queue="narrow", changes={"paused": True})
        publish(sim, "orders", *range(count))
        sim.run_for(10)
        held = got(sim, "narrow")
        sim.recover()
        sim.run_for(1)
        sim.send("queue", queue="narrow", changes={"paused": False})
        sim.run_for(1)
        flowing = len(got(sim, "narrow"))
        sim.settle()

    assert [[0], [1]] == held
    assert flowing < count
    assert [[number] for number in range(count)] == got(sim, "narrow")


@pytest.mark.anyio
async def test_a_trigger_is_looked_at_and_changed(tmp_path: Any) -> None:
    """Pause, resume and reset count at once and hold after a restart; a second process can do them."""

    @workflow(id="plain", trigger_on_event="news/*", batch_size=2, batch_timeout_seconds=0.5)
    async def plain(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    async with Polos(data_dir=tmp_path) as polos:
        await triggers.pause(polos, "plain")
        first = await events.publish(polos, "news/a", events.EventData(data={"n": 1}))
        await events.publish(polos, "news/b", events.EventData(data={"n": 2}))
    async with Polos(data_dir=tmp_path) as polos, PolosClient(data_dir=tmp_path) as client:
        held = triggers.get(polos, "plain")
        assert ("news/*", 2, 0.5, False, True) == (
            held.topic, held.batch_size, held.batch_timeout_seconds, held.filtered, held.paused,
        )  # fmt: skip
        assert [] == await polos.list_executions(workflow_id="plain")
        await triggers.reset(client, "plain", first)
        assert first == triggers.get(client, "plain").sequence_id
        assert "plain" in [one.workflow_id for one in triggers.list(client)]
        await events.publish(polos, "news/a", events.EventData(data={"n": 3}))
        await triggers.resume(client, "plain")
        while not (runs := await polos.list_executions(workflow_id="plain")):
            await polos.engine.pause(0.01)
        payload = (await polos.get_execution(runs[0]["id"]))["payload"]
        assert [2, 3] == [event["data"]["n"] for event in payload["events"]]
        await triggers.reset(client, "plain", None)
        assert triggers.get(polos, "plain").sequence_id > first
        assert () == triggers.failures(polos, "plain")
        with pytest.raises(CommandRefused, match="there is no trigger 'nothing'"):
            await triggers.pause(polos, "nothing")
        with pytest.raises(PolosUsageError, match="there is no trigger 'nothing'"):
            triggers.get(polos, "nothing")
        with pytest.raises(ValueError, match="sequence_id must be a number from 0, or None, it is -1"):
            await triggers.reset(polos, "plain", -1)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"trigger_on_event": ""}, ValueError, "trigger_on_event must not be empty"),
        ({"trigger_on_event": 3}, TypeError, "trigger_on_event must be a text, it is 3"),
        ({"trigger_on_event": "\ud800"}, ValueError, "trigger_on_event must be a text that can be written"),
        ({"trigger_on_event": "orders.*"}, ValueError, "trigger_on_event must have \\* or \\*\\* as a whole segment"),
        ({"trigger_on_event": "a/***"}, ValueError, "trigger_on_event must have"),
        ({"trigger_on_event": "a", "batch_size": 0}, ValueError, "batch_size must be at least 1, it is 0"),
        ({"trigger_on_event": "a", "batch_size": 10**6}, ValueError, "batch_size must be at most 10000"),
        ({"trigger_on_event": "a", "batch_size": True}, TypeError, "batch_size must be a whole number, it is True"),
        ({"trigger_on_event": "a", "batch_timeout_seconds": 0}, ValueError, "batch_timeout_seconds must be positive"),
        ({"trigger_on_event": "a", "trigger_filter": 3}, TypeError, "trigger_filter must be a plain function"),
        ({"trigger_on_event": "a", "from_beginning": 1}, TypeError, "from_beginning must be True or False, it is 1"),
        ({"from_beginning": True}, ValueError, "from_beginning says which events of trigger_on_event count"),
        ({"trigger_filter": bool}, ValueError, "trigger_filter says which events of trigger_on_event count"),
        ({"trigger_on_event": "a", "schedule": "@daily"}, ValueError, "a schedule and trigger_on_event"),
    ],
)
def test_what_a_trigger_cant_be(given: Any, kind: type[Exception], message: str) -> None:
    """Bad arguments are refused where the workflow is defined, by their names."""

    async def body(ctx: WorkflowContext) -> None:
        return None

    with pytest.raises(kind, match=message):
        workflow(id="w", **given)(body)


def test_an_async_filter_is_refused() -> None:
    """A filter that would have to be awaited can't be one."""

    async def later(event: EventPayload) -> bool:
        return True

    async def body(ctx: WorkflowContext) -> None:
        return None

    with pytest.raises(TypeError, match="trigger_filter must be a plain function of an event"):
        workflow(id="w", trigger_on_event="a", trigger_filter=later)(body)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"paused": 1}, "can't be paused=1"),
        ({"to": -1}, "can't go on behind -1"),
        ({"to": "then"}, "can't go on behind 'then'"),
        ({"to": True}, "can't go on behind True"),
    ],
)
def test_commands_are_believed_field_by_field(command: dict[str, Any], message: str) -> None:
    """A command of any origin that makes no sense is refused, and nothing is recorded of it."""
    with Simulation([one]) as sim:
        sim.run_ready()
        before = len(trigger_events(sim, "one"))
        call = sim.send("trigger", trigger="one", **command)
        sim.settle()

        assert message in str(call.error)
        assert before == len(trigger_events(sim, "one"))


def test_what_is_published_while_history_is_read_is_not_lost() -> None:
    """A trigger that is reading is told nothing; what came meanwhile lies behind where it stops, and it goes on."""
    asked: list[int] = []

    def rare(event: EventPayload) -> bool:
        asked.append(event.data["n"])
        if event.data["n"] == 0:
            sim.loop.call_soon(lambda: sim.send("publish", topic="orders", events=[{"data": {"n": 5_000}}]))
        return bool(event.data["n"] % 250 == 0)

    @workflow(id="reads", trigger_on_event="orders", trigger_filter=rare, from_beginning=True)
    async def reads(ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        return None

    with Simulation([]) as sim:
        publish(sim, "orders", *range(1_000))
        publish(sim, "orders", *range(1_000, 2_000))
        publish(sim, "orders", *range(2_000, 3_000))
        sim.crash()
        sim.workflows["reads"] = reads
        sim.start()
        sim.settle()

    assert [[number] for number in (*range(0, 3_000, 250), 5_000)] == got(sim, "reads")
    assert [*range(3_000), 5_000] == asked
    with sim.store.log.reader() as reader:
        last = next(reader.stream(topic_stream("orders"), reverse=True, limit=1))
    assert last.position < fired_at(sim, 2_750), "it came while history was read"


def fired_at(sim: Simulation, number: int) -> int:
    """Give the position at which the run that got an event was created."""
    for history in sim.audit.histories.values():
        created, _, position = history[0]
        if isinstance(created, e.RunCreated) and isinstance(created.input, dict):
            data: Any = created.input["data"]
            if data == {"n": number}:
                return position
    raise AssertionError(f"no run got {number}")


def test_a_trigger_goes_on_after_a_unit_of_its_own_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was being decided never happened: its events are read again, and each becomes a run once."""
    fire: Any = Triggers._fire
    refused: list[int] = []

    def refuses_once(self: Triggers, listener: Any, unit: Any, told: list[Any]) -> None:
        if not refused:
            refused.append(told[0].position)
            raise CommandRefused("not now")
        fire(self, listener, unit, told)

    monkeypatch.setattr(Triggers, "_fire", refuses_once)
    with Simulation([one]) as sim:
        publish(sim, "orders", 1, 2)
        sim.settle()

    assert 1 == len(refused)
    assert [[1], [2]] == got(sim, "one")
