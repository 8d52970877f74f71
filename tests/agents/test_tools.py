"""Tools by themselves: what may be one, calls with and without input, effects, what became of a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from polos import Completed, NotDone, Polos, StillUnknown, WorkflowContext, tool
from polos.engine import events as e
from polos.llm import Reply
from polos.store.faults import Fault
from polos.testing.clock import VirtualClock
from polos.testing.simulation import Simulation
from polos.tools.tool import Tool
from pydantic import BaseModel, Field

from tests.agents.stage import answer, call, make_agent, open_questions, values


class Order(BaseModel):
    """What the tools take."""

    item: str = Field(description="What is ordered.", min_length=2)
    count: int = 1


class Receipt(BaseModel):
    """What one of them gives."""

    item: str


ordered: list[str] = []


@tool(id="tools_order")
async def order(ctx: WorkflowContext, input: Order) -> Receipt:
    """Order something."""
    ordered.append(input.item)
    return Receipt(item=input.item)


@tool
def tools_plain(ctx: WorkflowContext, input: Order) -> list[str]:
    """Count in a thread."""
    return [input.item] * input.count


@tool(id="tools_nothing", description="Take nothing.")
async def nothing(ctx: WorkflowContext) -> int | None:
    return None


# ------------------------------------------------------------------------------------------------------- definitions


def test_a_definition_is_what_a_model_is_told():
    """Name, description and schema come from the function unless they are said."""
    told = [one.to_llm_tool_definition() for one in (order, tools_plain, nothing)]

    assert {"type"} == {key for one in told for key in one} - {"function"}
    assert [("tools_order", "Order something."), ("tools_plain", "Count in a thread."),
            ("tools_nothing", "Take nothing.")] == [
        (one["function"]["name"], one["function"]["description"]) for one in told
    ]  # fmt: skip
    assert Order.model_json_schema() == told[0]["function"]["parameters"]
    assert {"type": "object", "properties": {}} == told[2]["function"]["parameters"]
    said = Tool("tools_said", "Said.", {"type": "object"}, order.func, approval="none", color="red")
    assert ({"type": "object"}, "none", "default", None) == (
        said.parameters, said.approval, said.get_tool_type(), said.get_tool_metadata(),
    )  # fmt: skip


async def _untyped(ctx: WorkflowContext, input: Any) -> str:
    return ""


async def _bare(ctx: WorkflowContext, input) -> str:  # what is refused
    return ""


async def _dict(ctx: WorkflowContext, input: dict[str, Any]) -> str:
    return ""


async def _three(ctx: WorkflowContext, input: Order, more: Order) -> str:
    return ""


async def _no_context(ctx: int) -> str:
    return ""


async def _tuple(ctx: WorkflowContext) -> tuple[int, int]:
    return (1, 2)


async def _bytes(ctx: WorkflowContext) -> bytes | None:
    return None


@pytest.mark.parametrize(
    ("func", "options", "error", "says"),
    [
        (_untyped, {}, TypeError, "_untyped"),
        (_bare, {}, TypeError, "_bare"),
        (_dict, {}, TypeError, "says nothing of its fields"),
        (_three, {}, TypeError, "takes 3 parameters"),
        (_no_context, {}, TypeError, "must be a WorkflowContext"),
        (_tuple, {}, TypeError, "a model can't be told"),
        (_bytes, {}, TypeError, "a model can't be told"),
        (order.func, {"approval": "sometimes"}, ValueError, "approval must be 'always' or 'none', it is 'sometimes'"),
        (order.func, {"effect": "twice"}, ValueError, "effect must be one of"),
        (order.func, {"reconcile": print}, ValueError, "effect='at_most_once'; this one is 'idempotent'"),
        (order.func, {"timeout_seconds": 0}, ValueError, "run_timeout_seconds"),
        (order.func, {"approval_timeout_seconds": -1}, ValueError, "approval_timeout_seconds"),
        (order.func, {"id": ""}, ValueError, "id"),
    ],
)
def test_what_can_not_be_a_tool_is_refused(func: Any, options: Any, error: Any, says: str):
    """Where it is defined, with the name of what is wrong."""
    with pytest.raises(error, match=says):
        tool(**{"id": "tools_refused", **options})(func)


def test_a_subclass_is_a_tool():
    """A class may define what it does instead of giving a function; one that does neither says so when called."""

    class Doubling(Tool):
        async def _default_execute(self, ctx: WorkflowContext, input: dict[str, Any]) -> Any:
            return input["n"] * 2

        def get_tool_type(self) -> str:
            return "arithmetic"

    doubling = Doubling("tools_doubling", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
    empty = Tool("tools_empty", parameters={"type": "object"})
    with Simulation([doubling, empty]) as sim:
        run, other = sim.create(doubling, {"n": 4}).run, sim.create(empty, {}).run
        sim.settle()
        end = sim.audit.end_of(other)
        assert isinstance(end, e.RunFailed)
        assert (8, "tool 'tools_empty' has no function") == (sim.result(run), end.error.message)
    assert "arithmetic" == doubling.get_tool_type()


# ------------------------------------------------------------------------------------------------------------- calls


@pytest.mark.anyio
async def test_a_tool_is_run_by_itself(tmp_path: Path):
    """With a model, a dict, or nothing, whichever it takes; anything else is refused before there is a run."""
    async with Polos(tmp_path) as polos:
        assert Receipt(item="tea") == await order.run(polos, Order(item="tea"))
        assert ["tea", "tea"] == await tools_plain.run(polos, {"item": "tea", "count": 2})
        assert await nothing.run(polos) is None
        for one, payload, says in (
            (order, None, "takes input, and none was given"),
            (order, {"item": "x"}, "invalid arguments: item: String should have at least 2"),
            (order, 7, "takes a Order or a dict, it was given 7"),
            (nothing, {"item": "tea"}, "takes no input"),
        ):
            with pytest.raises(ValueError, match=says):
                await one.run(polos, payload)
        runs = await polos.list_executions()

    assert 3 == len(runs)


def test_a_call_may_take_only_so_long():
    """A tool that takes too long is ended, and the model is told."""

    async def slow(ctx: WorkflowContext) -> str:
        """Wait."""
        await ctx.step.wait_for("long", hours=1)
        return "late"

    one = Tool("tools_slow", func=slow, timeout_seconds=60)
    agent = make_agent("tools_slow_agent", [call("tools_slow"), "Well."], tools=[one])
    with Simulation([agent, one]) as sim:
        root = sim.create(agent, {"input": "Go."}).run
        sim.run_for(61)
        (result,) = sim.result(root)["tool_results"]

    assert ("failed", True) == (result["status"], "timeout" in result["error"] or "cancelled" in result["error"])


# ----------------------------------------------------------------------------------------------------------- effects


def once(**options: Any) -> Tool:
    """Make a tool that is called at most once, and takes a minute."""
    ordered.clear()

    async def slow_order(ctx: WorkflowContext, input: Order) -> str:
        """Order slowly."""
        ordered.append(input.item)
        await ctx.step.wait_for(f"slowly {len(ordered)}", seconds=60)
        return f"ordered {input.item}"

    return Tool("tools_once", func=slow_order, **{"effect": "at_most_once", **options})


@contextmanager
def killed_in_the_middle(
    one: Tool, *, after_seconds: float = 0
) -> Iterator[tuple[Any, list[tuple[str, str, Any]], Simulation, str]]:
    """Kill the program while the tool is called; gives the model's tool result once all is quiet."""
    wanted = Reply(tool_calls=[("tools_once", {"item": "tea"})], delay_seconds=after_seconds)
    agent = make_agent("tools_once_agent", [wanted, "Done."], tools=[one])
    with Simulation([agent, one]) as sim:
        root = sim.create(agent, {"input": "Order."}).run
        sim.run_for(30)
        assert ["tea"] == ordered
        sim.recover()
        sim.settle()
        ended = sim.audit.states[root].ended_us
        yield sim.result(root)["tool_results"][0] if ended else None, open_questions(sim), sim, root


def test_a_call_that_may_be_repeated_is_repeated():
    """By default a call that was under way is made again."""
    with killed_in_the_middle(once(effect="idempotent")) as (result, _, _, _):
        pass

    assert ("ordered tea", ["tea", "tea"]) == (result["result"], ordered)


@pytest.mark.parametrize(
    ("says", "calls", "found"),
    [
        (Completed("ordered by then"), 1, "ordered by then"),
        (NotDone(), 2, "ordered tea"),
        (NotDone, 2, "ordered tea"),
    ],
)
def test_reconcile_is_asked_what_became_of_a_call(says: Any, calls: int, found: str):
    """It gets the input; what it knows counts, and only a call that wasn't made is made."""
    asked: list[str] = []

    def reconcile(input: Order) -> Any:
        asked.append(input.item)
        return says

    with killed_in_the_middle(once(reconcile=reconcile)) as (result, questions, _, _):
        pass

    assert (found, calls, ["tea"], []) == (result["result"], len(ordered), asked, questions)


def test_reconcile_may_be_a_coroutine_function():
    """It answers on the loop what a plain one answers in a thread."""

    async def reconcile(input: Order) -> Any:
        return NotDone

    with killed_in_the_middle(once(reconcile=reconcile)) as (result, questions, _, _):
        pass

    assert ("ordered tea", 2, []) == (result["result"], len(ordered), questions)


@pytest.mark.parametrize("reconcile", [None, lambda _input: StillUnknown()])
@pytest.mark.parametrize(
    ("decision", "calls", "status", "found"),
    [
        ({"outcome": "completed", "value": "by hand"}, 1, "completed", "by hand"),
        ({"outcome": "not_done"}, 2, "completed", "ordered tea"),
        ({"outcome": "failed"}, 1, "failed", None),
        ({}, 1, "failed", None),
    ],
)
def test_a_person_says_what_became_of_a_call(reconcile: Any, decision: Any, calls: int, status: str, found: Any):
    """Where nobody else knows; until then nothing is called, however often the program dies."""
    with killed_in_the_middle(once(reconcile=reconcile)) as (result, questions, sim, root):
        assert result is None
        ((_, key, data),) = questions
        sim.recover()
        sim.settle()
        assert ["tea"] == ordered
        answer(sim, root, key, decision)
        (made,) = sim.result(root)["tool_results"]
        scheduled = values(sim, "_call")

    assert ("tool_outcome_unknown", {"tool": "tools_once", "input": {"item": "tea"}}) == (
        data["_source"], data["_form"]["context"],
    )  # fmt: skip
    assert (status, found, calls) == (made["status"], made["result"], len(ordered))
    assert calls == len({one["life"] for one in scheduled}), "each call has its record"


@pytest.mark.parametrize("decision", [{"outcme": "completed"}, {"value": "locked"}, "completed", {"outcome": "faild"}])
def test_an_answer_of_a_wrong_shape_is_told_as_that(decision: Any):
    """Nobody has said that the call failed: what was said stands there, and what may be."""
    with killed_in_the_middle(once()) as (_, questions, sim, root):
        ((_, key, _),) = questions
        answer(sim, root, key, decision)
        (made,) = sim.result(root)["tool_results"]

    assert ("failed", 1) == (made["status"], len(ordered))
    assert f"what became of it isn't known: it was answered {decision!r}, and an answer is {{" in made["error"]
    assert "said to have failed" not in made["error"]


def test_a_call_that_is_said_to_have_failed_has_failed():
    """That is told as before."""
    with killed_in_the_middle(once()) as (_, questions, sim, root):
        ((_, key, _),) = questions
        answer(sim, root, key, {"outcome": "failed"})
        (made,) = sim.result(root)["tool_results"]

    assert "is said to have failed" in made["error"]


def test_a_second_kill_is_asked_about_as_well() -> None:
    """A call that somebody said wasn't made is made, and if the program dies again, somebody is asked again."""
    with killed_in_the_middle(once()) as (_, questions, sim, root):
        assert 1 == len(questions), "somebody is asked whether it was made"
        ((_, first, _),) = questions
        sim.send("resume", run=root, key=first, data={"outcome": "not_done"})
        sim.run_for(30)
        assert ["tea", "tea"] == ordered
        sim.recover()
        sim.settle()
        assert 1 == len(open_questions(sim)), "somebody is asked again whether it was made"
        ((_, second, _),) = open_questions(sim)
        answer(sim, root, second, {"outcome": "completed", "value": "at last"})
        (result,) = sim.result(root)["tool_results"]

    assert (True, "at last", 2) == (first != second, result["result"], len(ordered))


def test_lives_are_told_apart_where_chance_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where a clock draws from a seed, in tests that begin again with a directory that they had."""
    monkeypatch.setattr(VirtualClock, "uuid4", lambda _: "00000000-0000-4000-8000-000000000001")

    with killed_in_the_middle(once(), after_seconds=1) as (result, questions, _, _):  # no two runs of one moment
        pass

    assert (None, ["tea"], 1) == (result, ordered, len(questions))


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.FULL])
def test_one_life_is_never_taken_for_two(fault: Fault):
    """Whichever commit fails, and is decided anew, it is the same life: nobody is asked what became of its call."""
    for number in range(1, 20):
        one = once()
        agent = make_agent("tools_once_agent", [call("tools_once", item="tea"), "Done."], tools=[one])
        with Simulation([agent, one]) as sim:
            sim.plan.at(number, fault)
            root = sim.create(agent, {"input": "Order."}).run
            sim.settle()
            assert ("Done.", ["tea"], []) == (sim.result(root)["result"], ordered, open_questions(sim))
            assert 1 == len({made["life"] for made in values(sim, "_call")})
            if sim.plan.failed == 0:
                break

    assert 5 < number < 19, "each commit has failed once"


def test_a_result_that_is_recorded_needs_no_call():
    """Killed when the call is over, whatever its effect, the tool isn't called again and nobody is asked."""
    for effect in ("idempotent", "at_most_once"):
        one = once(effect=effect)
        agent = make_agent("tools_over", [call("tools_once", item="tea"), Reply(text="Done.", delay_seconds=60)],
                           tools=[one])  # fmt: skip
        with Simulation([agent, one]) as sim:
            root = sim.create(agent, {"input": "Order."}).run
            sim.run_for(90)
            sim.recover()
            sim.settle()
            assert ("Done.", ["tea"]) == (sim.result(root)["result"], ordered)
