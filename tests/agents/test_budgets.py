"""Budgets: no call is made that doesn't fit, each is counted once, and what others spend on one's behalf counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polos import Agent, Budget, GuardrailResult, Polos, WorkflowContext, tool
from polos.engine import events as e
from polos.errors import ModelUnavailable
from polos.llm import Attempts, LLMRequest, Reply, set_prices
from polos.memory.types import CompactionConfig
from polos.testing.simulation import Simulation

from tests.agents.stage import answer, call, make_agent, open_questions, values

USED = {"input_tokens": 10, "output_tokens": 10}
asked: list[str] = []


@tool(id="budget_idle")
async def idle(ctx: WorkflowContext) -> str:
    """Do nothing."""
    return "nothing"


@pytest.fixture(autouse=True)
def prices() -> Iterator[None]:
    """A token of a dear model costs a microdollar, one of a cheap model nothing worth counting."""
    dear = {"input": "1", "output": "1"}
    set_prices({"budget-dear": dear, "budget-dear-too": dear, "budget-cheap": {"input": "0.001", "output": "0.001"}})
    asked.clear()
    yield
    set_prices(None)


def busy(request: LLMRequest) -> Reply:
    """Call a tool for ever."""
    asked.append(request.model)
    return Reply(text=f"turn {len(asked)}", tool_calls=[("budget_idle", {})], usage=USED)


def spender(budget: Budget | dict[str, Any] | None, replies: Any = busy, **options: Any) -> Agent:
    """Make an agent of a dear model."""
    return make_agent("budget-dear", replies, **{"tools": [idle], "budget": budget, **options})


def spend(agent: Agent, *more: Any, **payload: Any) -> Any:
    """Run it once; gives the result, or why it failed."""
    with Simulation([agent, idle, *more]) as sim:
        run = sim.create(agent, {"input": "Go.", **payload}).run
        sim.settle()
        end = sim.audit.end_of(run)
        return end.error.message if isinstance(end, e.RunFailed) else sim.result(run)


def test_a_budget_of_calls():
    """So many calls are made and not one more; the last text is the answer."""
    found = spend(spender(Budget(calls=3)))

    assert (3, 3, "budget", "turn 3") == (len(asked), found["calls"], found["stop_reason"], found["result"])
    assert (60, 60) == (found["spent_tokens"], found["cost_microdollars"])


@pytest.mark.parametrize("budget", [{"tokens": 500}, {"dollars": 500e-6}])
def test_what_a_call_may_use_is_reserved_before_it(budget: dict[str, Any]):
    """A call is made only if its longest answer still fits, so a budget is never overdrawn by one that keeps to it."""

    def greedy(request: LLMRequest) -> Reply:
        asked.append(request.model)
        return Reply(text="x", tool_calls=[("budget_idle", {})], usage={"input_tokens": 20, "output_tokens": 200})

    found = spend(spender({**budget, "answer_tokens": 200}, greedy))

    assert ("budget", len(asked)) == (found["stop_reason"], found["calls"])
    assert 1 <= found["calls"] <= 2
    assert found["spent_tokens"] <= 500
    assert found["cost_microdollars"] <= 500


def test_one_that_is_too_small_for_anything():
    """Nothing is asked, and the run ends without an answer."""
    found = spend(spender(Budget(tokens=5)))

    assert ([], None, 0, "budget") == (asked, found["result"], found["total_steps"], found["stop_reason"])


def test_a_price_that_nobody_knows():
    """Dollars can't be counted for such a model: it isn't asked, while tokens and calls can."""
    one = make_agent("budget-unknown", busy, tools=[idle], budget=Budget(dollars=1))
    other = make_agent("budget-unknown", busy, tools=[idle], budget=Budget(calls=2))

    assert (0, "budget") == (spend(one)["calls"], spend(one)["stop_reason"])
    found = spend(other)
    assert (2, None) == (found["calls"], found["cost_microdollars"])


def test_another_model_goes_on():
    """With on_breach="switch" the cheaper model takes over where the dear one doesn't fit any more, and has an end."""

    def reply(request: LLMRequest) -> Reply:
        return Reply(text="Done.", usage=USED) if asked.count("budget-cheap") == 2 else busy(request)

    make_agent("budget-cheap", reply)
    budget = Budget(dollars=100e-6, answer_tokens=50, on_breach="switch", switch_to="budget-cheap")
    found = spend(spender(budget, reply))

    assert ("Done.", "completed") == (found["result"], found["stop_reason"])
    assert sorted(asked, reverse=True) == asked
    assert {"budget-dear", "budget-cheap"} == set(asked)
    assert found["cost_microdollars"] <= 100


def test_a_person_grants_more():
    """With on_breach="suspend" somebody is asked, as often as it is used up; a no ends the run with what there is."""
    agent = spender(Budget(calls=2, on_breach="suspend"))
    with Simulation([agent, idle]) as sim:
        run = sim.create(agent, {"input": "Go."}).run
        sim.settle()
        ((_, first, form),) = open_questions(sim)
        assert 2 == len(asked)
        sim.recover()
        answer(sim, run, first, {"approved": True, "calls": 1})
        ((_, second, _),) = open_questions(sim)
        assert 3 == len(asked)
        answer(sim, run, second, {"approved": False, "calls": 9})
        found = sim.result(run)

    assert (3, "budget", True) == (len(asked), found["stop_reason"], first != second)
    assert ("agent_budget", "2 calls", 2) == (
        form["_source"], form["_form"]["context"]["limit"], form["_form"]["context"]["spent"]["calls"],
    )  # fmt: skip


def test_a_call_that_was_tried_again_counts_once():
    """Attempts that failed use nothing of a budget of calls."""
    shaky = Attempts([ModelUnavailable("busy"), ModelUnavailable("busy"), Reply(text="There.", usage=USED)])
    found = spend(spender(Budget(calls=1), [shaky]))

    assert ("There.", 1, 20) == (found["result"], found["calls"], found["spent_tokens"])


def test_a_crash_anywhere_counts_each_call_once():
    """Wherever the program dies the books are the same, and no call is made that doesn't fit."""
    agent = spender(Budget(calls=3))
    for moment in range(1, 60, 2):
        asked.clear()
        with Simulation([agent, idle]) as sim:
            wanted = sim.create(agent, {"input": "Go."})
            sim.run_turns(moment)
            sim.recover()
            if not wanted.answered:
                sim.send_again(wanted)
            sim.settle()
            found = sim.result(wanted.run)

        assert (3, 60, 60) == (found["calls"], found["spent_tokens"], found["cost_microdollars"])
        assert len(asked) <= 4, "the one that was under way may be made again"


def test_agents_that_are_asked_spend_it_too():
    """Several at once get a share each of what is left; what they used counts, and nobody overdraws it."""
    helper = make_agent("budget-dear-too", busy, tools=[idle])
    ask = helper.as_tool("ask_helper")
    asks = Reply(tool_calls=[("ask_helper", {"input": "Help."}), ("ask_helper", {"input": "More."})], usage=USED)

    def reply(request: LLMRequest) -> Any:
        return asks if len(request.items) == 1 else Reply(text="Done.", usage=USED)

    found = spend(spender(Budget(calls=8), reply, tools=[ask]), helper, ask)

    assert ("Done.", 6) == (found["result"], found["calls"])
    assert 4 == len(asked), "seven are left after the first call: two for each, and the rest for who asks"
    assert 6 * 20 == found["spent_tokens"] == found["cost_microdollars"]


def test_who_has_no_call_left_asks_nobody():
    """Neither a tool that is an agent nor an heir gets a call that the budget doesn't have."""
    helper = make_agent("budget-dear-too", busy, tools=[idle])
    ask = helper.as_tool("ask_helper")
    twice = [("ask_helper", {"input": "Help."}), ("ask_helper", {"input": "More."})]
    none = spend(spender(Budget(calls=1), [Reply(tool_calls=twice), "Done."], tools=[ask]), helper, ask)
    one = spend(spender(Budget(calls=2), [Reply(tool_calls=twice), "Done."], tools=[ask]), helper, ask)
    replies = [Reply(text="Wait.", tool_calls=[("transfer_to_budget-dear-too", {})])]
    heir = spend(spender(Budget(calls=1), replies, handoffs=[helper]), helper)

    assert [1, 2, 1] == [found["calls"] for found in (none, one, heir)]
    assert ["failed", "failed", "completed", "failed"] == [
        result["status"] for found in (none, one) for result in found["tool_results"]
    ]
    assert "the budget is used up, so nobody can be asked" == none["tool_results"][0]["error"]
    assert ("budget", "Wait.", 1) == (heir["stop_reason"], heir["result"], len(asked))


def test_one_that_fails_counts_its_whole_share():
    """Nobody knows what it used, so nobody else may spend that."""

    def fails(request: LLMRequest) -> Any:
        asked.append(request.model)
        raise ValueError("broken")

    helper = make_agent("budget-dear-too", fails)
    ask = helper.as_tool("ask_helper")
    replies = [call("ask_helper", input="Help."), "Done."]
    found = spend(spender(Budget(calls=5), replies, tools=[ask]), helper, ask)

    assert ("completed", 4) == (found["stop_reason"], found["calls"]), "one, its share of two, and the answer"
    assert "failed" == found["tool_results"][0]["status"]


def test_whoever_takes_over_spends_what_is_left():
    """A handoff gives the rest of the budget; the answer and the books are those of both, and the end is the heir's."""
    heir = make_agent("budget-dear-too", busy, tools=[idle])
    giver = spender(Budget(calls=4), [Reply(tool_calls=[("transfer_to_budget-dear-too", {})], usage=USED)],
                    handoffs=[heir])  # fmt: skip
    found = spend(giver, heir)

    assert (3, 4, 80, "budget") == (len(asked), found["calls"], found["spent_tokens"], found["stop_reason"])
    assert "turn 3" == found["result"]


def test_a_run_may_have_a_budget_of_its_own():
    """What is said when it is started counts instead of the agent's."""
    found = spend(spender(Budget(calls=5)), budget={"calls": 2})

    assert (2, 2) == (found["calls"], len(asked))


def test_a_handoff_leaves_a_conversation_that_can_go_on():
    """Every call of the turn has an answer in the session, and the heir isn't told of calls of tools it hasn't."""
    told: dict[str, list[Any]] = {"giver": [], "heir": []}

    def gives(request: LLMRequest) -> Any:
        told["giver"].append(request.items)
        if len(told["giver"]) > 1:
            return "Back again."
        return Reply(text="One moment.", tool_calls=[("budget_idle", {}), ("transfer_to_budget-heir", {})])

    def inherits(request: LLMRequest) -> str:
        told["heir"].append(request.items)
        return "I am the heir."

    heir = make_agent("budget-heir", inherits)
    giver = make_agent("budget-giver", gives, tools=[idle], handoffs=[heir])
    with Simulation([giver, heir, idle]) as sim:
        first = sim.create(giver, {"input": "Go."}, session="s").run
        sim.settle()
        second = sim.create(giver, {"input": "And now?"}, session="s").run
        sim.settle()
        results = [sim.result(run)["result"] for run in (first, second)]

    def kinds(items: list[Any], kind: str) -> list[str]:
        return sorted(item["call_id"] for item in items if item.get("type") == kind)

    assert ["I am the heir.", "Back again."] == results
    assert ([], []) == (kinds(told["heir"][0], "function_call"), kinds(told["heir"][0], "function_call_output"))
    again = told["giver"][1]
    assert 2 == len(kinds(again, "function_call"))
    assert kinds(again, "function_call") == kinds(again, "function_call_output")


def test_prices_may_change_while_the_program_runs():
    """What is reserved is counted by the prices that hold when the call is made, not by those of an earlier run."""
    budget = Budget(dollars=50e-6, answer_tokens=60)
    before = spend(spender(budget))
    set_prices({"budget-dear": {"input": "0.001", "output": "0.001"}})
    after = spend(spender(budget))

    assert (0, 10) == (before["calls"], after["calls"])


def test_who_judges_a_reply_spends_it_too():
    """No rule is asked about that the budget doesn't allow for, and no answer is given that nobody judged."""
    agent = spender(
        Budget(calls=3), lambda _: Reply(text='{"passed": true, "reason": "short"}', usage=USED),
        tools=[], guardrails=["Be brief.", "Be kind.", "Be right."],
    )  # fmt: skip
    found = spend(agent)

    assert (3, "budget", None) == (found["calls"], found["stop_reason"], found["result"])


def test_a_refused_reply_is_not_asked_for_anew_beyond_it():
    """A reply that a guardrail refused is asked for again as long as the budget allows; then the run ends by it."""
    agent = spender(
        Budget(calls=2), lambda _: Reply(text="No.", usage=USED), tools=[],
        guardrails=lambda ctx, told: GuardrailResult.fail("too rude"), guardrail_max_retries=5,
    )  # fmt: skip
    found = spend(agent)

    assert (2, "budget", None) == (found["calls"], found["stop_reason"], found["result"])


def test_a_summary_is_reserved_for_as_well():
    """A summary that costs more than is left isn't asked for."""
    agent = spender(
        Budget(tokens=1_150), lambda _: Reply(text="Yes.", usage=USED), tools=[],
        compaction=CompactionConfig(max_conversation_tokens=10, min_recent_messages=1),
    )  # fmt: skip
    items = [{"role": "user", "content": "x" * 800}, {"role": "user", "content": "Go."}]
    found = spend(agent, input=items)

    assert (0, "budget") == (found["calls"], found["stop_reason"])


@pytest.mark.parametrize("dearer", [{"input": "1000", "output": "1000"}, {"input": "0.001", "output": "0.001"}])
def test_a_run_keeps_the_prices_that_it_began_with(dearer: dict[str, str]):
    """Another table of prices, at any moment of a run with a budget in dollars, changes no decision and no book."""
    agent = spender(Budget(dollars=120e-6, answer_tokens=20))
    undisturbed = spend(agent)
    compared = 0
    for moment in range(1, 60, 4):
        with Simulation([agent, idle]) as sim:
            wanted = sim.create(agent, {"input": "Go."})
            sim.run_turns(moment)
            begun = bool(values(sim, "request:llm_generate:1"))
            set_prices({"budget-dear": dearer})
            sim.recover()
            if not wanted.answered:
                sim.send_again(wanted)
            sim.settle()
            found = sim.result(wanted.run)
        set_prices({"budget-dear": {"input": "1", "output": "1"}})

        if begun:
            books = ("calls", "spent_tokens", "cost_microdollars", "stop_reason")
            assert [undisturbed[name] for name in books] == [found[name] for name in books]
            compared += 1
    assert compared > 5


@pytest.mark.anyio
async def test_a_budget_is_given_in_any_form(tmp_path: Path):
    """The budget of one run may be said by its fields, like that of an agent; anything else is refused at once."""
    agent = spender(None)
    async with Polos(tmp_path) as polos:
        found = await agent.run(polos, "Go.", budget={"calls": 2})
        with pytest.raises(TypeError, match="budget must be a Budget"):
            await agent.run(polos, "Go.", budget=3)  # type: ignore[arg-type]  # the mistake

    assert (2, "budget") == (found.calls, found.stop_reason)
    told = agent.with_input("Go.", budget={"calls": 1}).payload["budget"]
    assert agent.with_input("Go.", budget=Budget(calls=1)).payload["budget"] == told
