"""What agents and tools give: values of every type that an annotation can say, turns as hooks get them, other ends."""

from __future__ import annotations

import datetime as dt
import enum
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from polos import Agent, HookResult, Tool, WorkflowContext
from polos.agents.agent import handoff_name
from polos.engine import events as e
from polos.llm import LLMRequest, Reply, script
from polos.llm.messages import item_text
from polos.runtime.handle import hydrated
from polos.testing.simulation import Simulation
from polos.types.agents import AgentResult
from pydantic import BaseModel

from tests.agents.stage import call, make_agent


class Found(BaseModel):
    """What tools give here."""

    name: str


class Colour(enum.Enum):
    """What may be chosen."""

    RED = "red"


@dataclass
class Place:
    """A place."""

    x: int


class Other(BaseModel):
    """What another agent gives."""

    count: int


def giving(value: Any, hint: Any) -> Tool:
    """Make a tool that gives a value, with an annotation."""

    async def give(ctx: WorkflowContext) -> Any:
        return value

    give.__annotations__["return"] = hint
    return Tool("results_give", description="Give it.", func=give)


def ended(sim: Simulation, agent: Agent, **payload: Any) -> Any:
    """Run an agent to its end; gives the result, or why it failed."""
    run = sim.create(agent, {"input": "Go.", **payload}).run
    sim.settle()
    end = sim.audit.end_of(run)
    return end.error.message if isinstance(end, e.RunFailed) else AgentResult.model_validate(sim.result(run))


HERE = "tests.agents.test_results"


@pytest.mark.parametrize(
    ("hint", "value", "kept", "path", "told"),
    [
        (Found, Found(name="a"), Found(name="a"), f"{HERE}.Found", '{"name": "a"}'),
        (list[Found], [Found(name="a")], [Found(name="a")], f"list[{HERE}.Found]", '[{"name": "a"}]'),
        (dict[str, Found], {"k": Found(name="a")}, {"k": Found(name="a")}, f"dict[str, {HERE}.Found]",
         '{"k": {"name": "a"}}'),
        (list[Found] | None, None, None, None, "null"),
        (Colour, Colour.RED, Colour.RED, f"{HERE}.Colour", '"red"'),
        (Place, Place(3), Place(3), f"{HERE}.Place", '{"x": 3}'),
        (dt.date, dt.date(2026, 1, 2), "2026-01-02", None, '"2026-01-02"'),
        (Decimal, Decimal("1.50"), "1.50", None, '"1.50"'),
        (dict[str, dt.date], {"k": dt.date(2026, 1, 2)}, {"k": "2026-01-02"}, None, '{"k": "2026-01-02"}'),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_an_annotation_says_can_be_given(hint: Any, value: Any, kept: Any, path: str | None, told: str):
    """A tool's result is kept as its type if that can be found again, else as JSON; the model is told the JSON."""
    heard: list[Any] = []

    def replies(request: LLMRequest) -> Reply:
        heard.append(request.items[-1].get("output"))
        return Reply(text="Done.") if heard[1:] else call("results_give")

    gives = giving(value, hint)
    agent = make_agent("results_agent", replies, tools=[gives])
    with Simulation([agent, gives]) as sim:
        (result,) = ended(sim, agent).tool_results

    assert ("completed", kept, path, None) == (result.status, result.result, result.result_schema, result.error)
    assert type(kept) is type(result.result)
    assert [None, told] == heard


def test_a_hook_gives_a_turn_back():
    """What a hook behind a turn is told of it can be changed and given back."""

    def shorten(ctx: Any, told: Any) -> HookResult:
        return HookResult.continue_with(modified_output=told.current_output.model_copy(update={"content": "Short."}))

    agent = make_agent("results_hooked", ["A long answer."], on_agent_step_end=shorten)
    with Simulation([agent]) as sim:
        assert "Short." == ended(sim, agent).result


@pytest.mark.parametrize("name", ["input", "prompt"])
def test_a_hook_changes_what_is_asked(name: str):
    """What is asked has two names to hooks, and may be changed by either."""

    def change(ctx: Any, told: Any) -> HookResult:
        return HookResult.continue_with(modified_payload={name: told.current_payload[name] + " Be brief."})

    agent = make_agent("results_asked", lambda request: request.items[-1]["content"], on_start=change)
    with Simulation([agent]) as sim:
        assert "Go. Be brief." == ended(sim, agent).result


def test_a_model_that_pauses_is_asked_to_go_on():
    """A pause is no answer: with its reply in the conversation the model is asked again."""
    agent = make_agent("results_pausing", [Reply(text="Searching.", stop_reason="pause"), "Found it."])
    with Simulation([agent]) as sim:
        found = ended(sim, agent)

    assert ("Found it.", "completed", 2) == (found.result, found.stop_reason, found.total_steps)


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal"])
def test_how_a_model_was_cut_short_is_told(reason: str):
    """A reply that isn't all that the model would have said is the answer, and the result says why."""
    agent = make_agent("results_cut", [Reply(text="I", stop_reason=reason)])
    with Simulation([agent]) as sim:
        found = ended(sim, agent)

    assert ("I", reason) == (found.result, found.stop_reason)


@pytest.mark.parametrize(("ends", "told"), [("stop", "handoff"), ("length", "length"), ("refusal", "refusal")])
def test_how_an_heir_ended_is_told(ends: str, told: str):
    """A handover is the end only if the heir completed the answer, however many there were before it."""
    heir = make_agent("results_last_heir", [Reply(text="So", stop_reason=ends)])
    between = make_agent("results_between", [call(handoff_name(heir))], handoffs=[heir])
    giver = make_agent("results_first_giver", [call(handoff_name(between))], handoffs=[between])
    with Simulation([giver, between, heir]) as sim:
        found = ended(sim, giver)

    assert ("So", told) == (found.result, found.stop_reason)


def test_a_repair_keeps_the_tools_of_the_provider():
    """The model answers once more without the program's tools; one that runs at the provider may take its time."""
    told: list[list[str]] = []
    replies = iter(["no JSON", Reply(text="Searching.", stop_reason="pause"), '{"count": 3}'])

    def reply(request: LLMRequest) -> Any:
        told.append([spec.name for spec in request.tools])
        return next(replies)

    own = giving(1, int)
    tools = [{"type": "web_search_20250305", "name": "web_search"}, own]
    agent = make_agent("results_repaired", reply, tools=tools, output_schema=Other)
    with Simulation([agent, own]) as sim:
        found = ended(sim, agent)

    assert (Other(count=3), 3) == (found.result, found.total_steps)
    assert [["web_search", own.id], ["web_search"], ["web_search"]] == told


def test_a_repair_that_pauses_for_ever_fails():
    """As often as an agent may take turns, and not once more."""
    agent = make_agent(
        "results_never_repaired",
        lambda request: "no JSON" if len(request.items) == 1 else Reply(text="…", stop_reason="pause"),
        output_schema=Other,
    )
    with Simulation([agent]) as sim:
        run = sim.create(agent, {"input": "Go."}).run
        sim.settle()
        end = sim.audit.end_of(run)

    assert isinstance(end, e.RunFailed)
    assert "no usable answer" in end.error.message


def test_what_came_of_a_handoff():
    """The answer is of the heir's class, not of the agent's own; what both used is counted, as their turns are."""
    heir = make_agent(
        "results_heir", [Reply(text='{"count": 3}', usage={"input_tokens": 100, "output_tokens": 10})],
        output_schema=Other,
    )  # fmt: skip
    used = {"input_tokens": 50, "output_tokens": 5}
    agent = make_agent(
        "results_giver", [Reply(tool_calls=[(handoff_name(heir), {})], usage=used)], handoffs=[heir],
        output_schema=Found,
    )  # fmt: skip
    with Simulation([agent, heir]) as sim:
        found = ended(sim, agent)

    assert (Other(count=3), 2, 150, 15) == (
        found.result, found.total_steps, found.usage.input_tokens, found.usage.output_tokens
    )  # fmt: skip
    as_json = found.model_copy(update={"result": {"count": 3}})
    assert {"count": 3} == agent.typed(as_json).result


def test_a_conversation_that_was_handed_over_is_told_once():
    """The heir hears each message of the session once, however often it is handed over; the giver knows the answers."""
    heard: dict[str, list[list[str]]] = {"giver": [], "heir": []}

    def gives(request: LLMRequest) -> Reply:
        heard["giver"].append([item_text(item) for item in request.items if "role" in item])
        return call("transfer_to_results_heir_of_talks")

    def inherits(request: LLMRequest) -> str:
        assert [] == [item for item in request.items if "role" not in item]
        heard["heir"].append([item_text(item) for item in request.items])
        return f"answer {len(heard['heir'])}"

    heir = make_agent("results_heir_of_talks", inherits)
    giver = make_agent("results_giver_of_talks", gives, handoffs=[heir])
    with Simulation([giver, heir]) as sim:
        for number in range(3):
            sim.create(giver, {"input": f"question {number}"}, session="s")
            sim.settle()
        sim.create(heir, {"input": "And you?"}, session="s")
        sim.settle()

    whole = ["question 0", "answer 1", "question 1", "answer 2", "question 2"]
    assert [whole[:1], whole[:3], whole] == heard["giver"]
    assert [whole[:1], whole[:3], whole, ["And you?"]] == heard["heir"]


def test_agents_that_hand_over_to_each_other_come_to_an_end():
    """A conversation isn't handed over for ever."""
    one, other = (make_agent(f"results_{name}", lambda _: call("never")) for name in ("one", "other"))
    one.handoffs, other.handoffs = (other,), (one,)
    script("results_one", lambda _: call(handoff_name(other)))
    script("results_other", lambda _: call(handoff_name(one)))
    with Simulation([one, other]) as sim:
        found = ended(sim, one)

    assert ("max_steps", 11) == (found.stop_reason, found.calls)


def test_names_of_agents_become_names_of_tools():
    """What is no name of a tool to models is made one, and no two are the same."""
    agent = make_agent("results: an agent, with a name that is much longer than any name that a model takes", [])
    asker = make_agent("results_asker", [], tools=[agent.as_tool()], handoffs=[agent])

    names = [one.name for one in asker.specs_of(asker.config)]
    assert ["ask_results_an_agent_with_a_name_that_is_much_longer_than_any_na"[:64]] == names[:1]
    assert [True, True] == [re.fullmatch("[A-Za-z0-9_-]{1,64}", name) is not None for name in names]
    with pytest.raises(ValueError, match="must have names of their own"):
        make_agent("results_asker", [], handoffs=[agent, agent])


def test_an_answer_may_be_of_a_class_that_nobody_finds():
    """A class that a function made does as well: the agent knows it, and others are told the JSON."""

    class Own(BaseModel):
        """Of this function alone."""

        name: str

    answering = make_agent("results_own", ['{"name": "a"}'], output_schema=Own)
    ask = answering.as_tool()
    asking = make_agent("results_asks_own", [call("ask_results_own", input="Go."), "Done."], tools=[ask])
    giving_over = make_agent("results_gives_own", [call("transfer_to_results_own")], handoffs=[answering])
    with Simulation([answering, asking, giving_over, ask]) as sim:
        own, asked, over = (ended(sim, one) for one in (answering, asking, giving_over))

    assert ({"name": "a"}, None, Own(name="a")) == (own.result, own.result_schema, answering.typed(own).result)
    assert [{"name": "a"}] == [one.result for one in asked.tool_results]
    assert {"name": "a"} == over.result


@pytest.mark.parametrize(("answer", "given"), [({"count": 3}, Other(count=3)), ({"sum": 3}, {"sum": 3}), (None, None)])
def test_a_handle_gives_an_answer_as_the_agent_knows_it(answer: Any, given: Any, caplog: pytest.LogCaptureFixture):
    """The record has JSON, the agent its class; an answer that fits it no more is given as it was recorded."""
    agent = make_agent("results_read", [], output_schema=Other)
    record = {"agent_run_id": "run", "result": answer}
    with caplog.at_level("ERROR", logger="polos"):
        read = hydrated({"workflow_id": agent.id, "status": "completed", "result": record})

    assert given == (read["result"] if isinstance(read, dict) else read.result)
