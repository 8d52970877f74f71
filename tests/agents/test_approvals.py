"""Approvals: a call is made for the decision about these arguments, once, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from polos import HookResult, WorkflowContext
from polos.arguments import digest_arguments
from polos.engine import events as e
from polos.llm import LLMRequest, Reply
from polos.testing.simulation import Simulation
from polos.tools.tool import Tool
from pydantic import BaseModel

from tests.agents.stage import answer, call, events, make_agent, open_questions, run_of, values

ID = "approve_pay"


class Bill(BaseModel):
    """What is paid."""

    cents: int


paid: list[int] = []


def pay_tool(**options: Any) -> Tool:
    """Make a tool that pays."""
    paid.clear()

    async def pay(ctx: WorkflowContext, input: Bill) -> str:
        """Pay a bill."""
        paid.append(input.cents)
        return f"paid {input.cents}"

    return Tool(ID, func=pay, **{"approval": "always", **options})


@contextmanager
def asked_for(tool: Tool) -> Iterator[tuple[Simulation, str, str, Any]]:
    """Begin a call and come to its question."""
    with Simulation([tool]) as sim:
        run = sim.create(tool, {"cents": 5}).run
        sim.settle()
        ((waiting, key, data),) = open_questions(sim)
        assert run == waiting
        yield sim, run, key, data


def test_the_question_names_the_call():
    """Whoever decides sees tool, arguments and their digest, in a form with the two fields that there are."""
    with asked_for(pay_tool()) as (_, run, key, data):
        pass

    assert key.startswith(f"approve_{ID}_")
    assert ("tool_approval", ID, f"Approve tool: {ID}") == (data["_source"], data["_tool"], data["_form"]["title"])
    assert {"tool": ID, "input": {"cents": 5}} == data["_form"]["context"]
    assert [("approved", "boolean", True), ("feedback", "textarea", False)] == [
        (field["key"], field["type"], field["required"]) for field in data["_form"]["fields"]
    ]
    assert data["_form"]["fields"][0]["default"] is False
    assert {"run": run, "tool": ID, "digest": digest_arguments((ID, {"cents": 5}), {})} == data["_approval"]
    assert [] == paid


def test_the_record_of_the_call_names_its_approval() -> None:
    """One record schedules the call and says whose decision that was, about which arguments."""
    with asked_for(pay_tool()) as (sim, run, key, data):
        answer(sim, run, key, {"approved": True, "approver": "ann", "digest": data["_approval"]["digest"]})
        found = sim.result(run)
        assert 1 == len(values(sim, "_call", run)), "one record schedules the call"
        (made,) = values(sim, "_call", run)
        (decided,) = [one for one in events(sim, e.WaitSatisfied, run) if one.kind == "suspend"]

    assert ("paid 5", [5]) == (found, paid)
    assert {
        "tool": ID,
        "digest": data["_approval"]["digest"],
        "approval": {"key": key, "event": decided.event_id, "approver": "ann"},
    } == {name: made[name] for name in ("tool", "digest", "approval")}


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"approved": False}, 'Tool "approve_pay" was rejected by the user.'),
        ({"approved": False, "feedback": "Too much."},
         'Tool "approve_pay" was rejected by the user. Feedback: Too much.'),
        ({"approved": "true"}, 'Tool "approve_pay" was rejected by the user.'),
        ({"approved": 1}, 'Tool "approve_pay" was rejected by the user.'),
        ({}, 'Tool "approve_pay" was rejected by the user.'),
        ("yes", 'Tool "approve_pay" was rejected by the user.'),
        ({"approved": True, "digest": "another"}, 'Tool "approve_pay" was approved for other arguments than these.'),
    ],
)  # fmt: skip
def test_anything_but_a_yes_to_these_arguments_is_a_no(decision: Any, says: str):
    """The tool isn't called, and the model is told why, in these words."""
    told: list[Any] = []

    def reply(request: LLMRequest) -> Reply:
        told.append(request.items[-1].get("output"))
        return call(ID, cents=5) if len(told) == 1 else Reply(text="Pity.")

    tool = pay_tool()
    agent = make_agent("approve_no", reply, tools=[tool])
    with Simulation([agent, tool]) as sim:
        root = sim.create(agent, {"input": "Pay."}).run
        sim.settle()
        ((_, key, _),) = open_questions(sim)
        answer(sim, root, key, decision)
        (result,) = sim.result(root)["tool_results"]
        calls = values(sim, "_call")

    assert (f"Error: {says}", says, "failed") == (told[1], result["error"], result["status"])
    assert ([], []) == (paid, calls)


def test_a_question_expires():
    """Without a decision in time the tool isn't called; one that comes later finds nothing."""
    with asked_for(pay_tool()) as (sim, _, _, _):
        sim.run_for(1e6)
        assert 1 == len(open_questions(sim)), "a question stands for ever if nothing else is said"
    tool = pay_tool(approval_timeout_seconds=60)
    with Simulation([tool]) as sim:
        run = sim.create(tool, {"cents": 5}).run
        sim.run_for(59)
        ((_, key, _),) = open_questions(sim)
        sim.run_for(2)
        end = sim.audit.end_of(run)
        late = sim.send("resume", run=run, key=key, data={"approved": True})
        sim.settle()

    assert isinstance(end, e.RunFailed)
    assert 'Tool "approve_pay" was not approved in time.' == end.error.message
    assert late.error is not None
    assert [] == paid


def test_each_call_needs_its_own():
    """Two calls of one turn with the same arguments have a question each, and a decision is for one of them."""
    tool = pay_tool()
    calls = [(ID, {"cents": 5}), (ID, {"cents": 5})]
    agent = make_agent("approve_two", [Reply(tool_calls=calls), "Done."], tools=[tool])
    with Simulation([agent, tool]) as sim:
        root = sim.create(agent, {"input": "Pay."}).run
        sim.settle()
        (first, first_key, _), (second, second_key, _) = open_questions(sim)
        answer(sim, second, second_key, {"approved": True})
        assert [(first, first_key)] == [(run, key) for run, key, _ in open_questions(sim)]
        answer(sim, second, second_key, {"approved": True})
        answer(sim, first, second_key, {"approved": True})
        assert [5] == paid, "a decision that was used, and one about another call, do nothing"
        answer(sim, root, first_key, {"approved": False})
        results = sim.result(root)["tool_results"]

    assert ([5], 2) == (paid, len({first_key, second_key}))
    assert ["completed", "failed"] == sorted(one["status"] for one in results)


def double(ctx: Any, told: Any) -> HookResult:
    """Pay twice as much."""
    return HookResult(modified_payload={"cents": told.current_payload.cents * 2})


def test_arguments_that_changed_need_another_decision() -> None:
    """New code in which a hook changes the arguments asks anew; the old decision, used or not, is for the old ones."""
    for moment in range(-1, 30):
        with asked_for(pay_tool()) as (sim, run, key, data):
            decided = sim.draft("resume", run=run, key=key, data={"approved": True})
            if moment >= 0:
                sim.send_again(decided)
                sim.run_turns(moment)
            before = list(paid)
            sim.workflows[ID] = changed = pay_tool(on_start=double)
            paid[:] = before
            ended = run in sim.audit.states and sim.audit.states[run].ended_us
            sim.recover()
            sim.settle()
            if ended:
                assert [5] == paid
                break
            if not decided.answered:
                sim.send_again(decided)  # its body begins anew when there is something for it
                sim.settle()
            assert before == paid, f"moment {moment}: nothing is paid that nobody approved"
            ((_, other_key, other),) = open_questions(sim)
            assert (changed.id, {"cents": 10}) == (other["_tool"], other["_form"]["context"]["input"])
            assert (True, True) == (key != other_key, data["_approval"]["digest"] != other["_approval"]["digest"])
            answer(sim, run, other_key, {"approved": True})

            assert [*before, 10] == paid
            assert "paid 10" == sim.result(run)
            last = values(sim, "_call", run)[-1]
            assert (other_key, other["_approval"]["digest"]) == (last["approval"]["key"], last["digest"])
    else:
        raise AssertionError("no moment was late enough")


@pytest.mark.parametrize("effect", ["idempotent", "at_most_once"])
def test_a_crash_anywhere_uses_an_approval_once(effect: str):
    """Killed after any turn, before and behind the decision, there is one question and one record of one call."""
    unsure = 0
    for moment in range(1, 45):
        tool = pay_tool(effect=effect)
        agent = make_agent("approve_crash", [call(ID, cents=5), "Done."], tools=[tool])
        with Simulation([agent, tool]) as sim:
            wanted = sim.create(agent, {"input": "Pay."})
            sim.run_turns(moment)
            sim.recover()
            if not wanted.answered:
                sim.send_again(wanted)
            sim.settle()
            ((_, key, _),) = open_questions(sim)
            decided = sim.send("resume", run=wanted.run, key=key, data={"approved": True})
            sim.run_turns(moment)
            sim.recover()
            if not decided.answered:
                sim.send_again(decided)
            sim.settle()
            for run, other, _ in open_questions(sim):
                assert other.startswith(f"resolve_{ID}_"), "nobody is asked for the same decision again"
                unsure += 1
                answer(sim, run, other, {"outcome": "completed", "value": "paid 5"})

            assert ["paid 5"] == [one["result"] for one in sim.result(wanted.run)["tool_results"]]
            assert 1 == len({one["life"] for one in values(sim, "_call")})
            assert len(paid) <= (1 if effect == "at_most_once" else 2)
            assert 1 == len(events(sim, e.WaitSatisfied, run_of(sim, ID))) - len(
                [one for one in events(sim, e.WaitSatisfied) if one.key.startswith("resolve_")]
            )

    assert (unsure > 0) == (effect == "at_most_once")
