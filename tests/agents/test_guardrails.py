"""Guardrails: what they let pass, change and refuse, with and without tools, told to readers or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from polos import GuardrailContext, GuardrailResult, Polos, WorkflowContext, guardrail, tool
from polos.engine import events as e
from polos.llm import LLMProvider, LLMRequest, LLMResponse, Reply, register_provider
from polos.testing.simulation import Simulation
from polos.types.llm import ToolCall, ToolCallFunction
from pydantic import BaseModel

from tests.agents.stage import call, events, make_agent

SECRET = "the code is 1234"


class City(BaseModel):
    """What the tool takes."""

    name: str


looked: list[str] = []


@tool(id="guarded_look")
async def look(ctx: WorkflowContext, input: City) -> str:
    """Look at a city."""
    looked.append(input.name)
    return f"rain over {input.name}"


@guardrail
def redact(ctx: Any, told: GuardrailContext) -> GuardrailResult:
    """Hide the code."""
    return GuardrailResult(modified_content=(told.content or "").replace("1234", "****"))


@guardrail
async def no_code(ctx: Any, told: GuardrailContext) -> GuardrailResult:
    """Refuse the code."""
    return GuardrailResult.fail("it gives the code away") if "1234" in (told.content or "") else GuardrailResult()


def ask(agent: Any, *more: Any) -> Any:
    """Run an agent; gives its result, or why it failed."""
    looked.clear()
    with Simulation([agent, look, *more]) as sim:
        run = sim.create(agent, {"input": "Go on."}).run
        sim.settle()
        end = sim.audit.end_of(run)
        return end.error.message if isinstance(end, e.RunFailed) else sim.result(run)


def heard(replies: list[Any]) -> tuple[Any, list[list[Any]]]:
    """Give what answers one request after another, and the items of each request."""
    told: list[list[Any]] = []

    def reply(request: LLMRequest) -> Any:
        told.append(request.items)
        return replies[len(told) - 1]

    return reply, told


def test_a_guardrail_changes_what_is_said():
    """What it leaves is the result, what later guardrails see, and what the conversation goes on with."""
    seen: list[Any] = []

    def after(ctx: Any, told: GuardrailContext) -> GuardrailResult:
        seen.append((told.content, told.llm_config and told.llm_config.model, told.agent_workflow_id))
        return GuardrailResult()

    reply, told = heard([Reply(text=SECRET, tool_calls=[("guarded_look", {"name": "Oslo"})]), "Done."])
    found = ask(make_agent("guarded_change", reply, tools=[look], guardrails=[redact, after]))

    assert "Done." == found["result"]
    assert ("the code is ****", "guarded_change", "guarded_change") == seen[0]
    assert "1234" not in str(told[1])
    assert (["Oslo"], 1) == (looked, str(told[1]).count("****"))


def test_a_refusal_is_told_and_asked_again() -> None:
    """The model hears why, and its next answer counts; tools of a refused answer aren't called."""
    bad = Reply(text=SECRET, tool_calls=[("guarded_look", {"name": "Rome"})])
    reply, told = heard([bad, call("guarded_look", name="Oslo"), "It rains."])
    found = ask(make_agent("guarded_refuse", reply, tools=[look], guardrails=no_code))

    assert ("It rains.", 2, ["Oslo"]) == (found["result"], found["total_steps"], looked)
    assert "it gives the code away" in told[1][-1]["content"]
    calls = [item for item in told[1] if item.get("type") == "function_call"]
    assert [] == calls, "a call without a result is refused by every provider"


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_refusals_have_an_end(retries: int):
    """After so many retries the run fails, with the reason; no more is asked."""
    reply, told = heard([SECRET] * 5)
    found = ask(make_agent("guarded_end", reply, guardrails=no_code, guardrail_max_retries=retries))

    assert (f"Guardrail failed after {retries} retries: it gives the code away", retries + 1) == (found, len(told))


def test_a_guardrail_changes_which_tools_are_called():
    """Calls that it leaves out aren't made, and those that it writes are."""

    def only_oslo(ctx: Any, told: GuardrailContext) -> GuardrailResult:
        if not told.tool_calls:
            return GuardrailResult()
        made = ToolCall(
            id="", call_id="mine", function=ToolCallFunction(name="guarded_look", arguments='{"name": "Oslo"}')
        )
        return GuardrailResult(modified_tool_calls=[made])

    calls = [("guarded_look", {"name": name}) for name in ("Rome", "Bonn")]
    reply, told = heard([Reply(tool_calls=calls), "Done."])
    found = ask(make_agent("guarded_calls", reply, tools=[look], guardrails=only_oslo))

    assert (["Oslo"], ["mine"]) == (looked, [one["tool_call_call_id"] for one in found["tool_results"]])
    assert ["mine"] == [item["call_id"] for item in told[1] if item.get("type") == "function_call"]


def test_one_that_raises_is_tried_again_and_fails_the_run():
    """An error isn't a pass; neither is an answer of another kind."""
    tries: list[int] = []

    def broken(ctx: Any, told: GuardrailContext) -> GuardrailResult:
        tries.append(1)
        raise ValueError("no judge")

    def odd(ctx: Any, told: GuardrailContext) -> Any:
        return None

    failed = ask(make_agent("guarded_raises", "Hello.", guardrails=broken))
    refused = ask(make_agent("guarded_odd", "Hello.", guardrails=odd, guardrail_max_retries=0))

    assert (True, 3) == ("no judge" in failed, len(tries))
    assert "must answer with a GuardrailResult, it gave NoneType" in refused


def test_rules_in_words_are_each_judged():
    """Every text is judged by the model, by itself, beside the conversation; one that fails is a refusal."""
    judged: list[str] = []
    says = iter(["Go away!", "Please come in."])

    def reply(request: LLMRequest) -> Any:
        if request.output_schema_name != "GuardrailEvaluationResult":
            return next(says)
        content = request.items[0]["content"]
        judged.append(content)
        assert (None, [], 1) == (request.system, request.tools, len(request.items))
        rude = "Be polite." in content and "Go away!" in content
        return '{"passed": false, "reason": "rude"}' if rude else '{"passed": true, "reason": ""}'

    found = ask(make_agent("guarded_words", reply, guardrails=["Be brief.", "Be polite."]))

    assert "Please come in." == found["result"]
    assert 4 == len(judged)
    assert ["Be brief.", "Be polite."] * 2 == [
        next(rule for rule in ("Be brief.", "Be polite.") if rule in one) for one in judged
    ]


@pytest.mark.parametrize("verdict", ["no json", '{"passed": "perhaps"}'])
def test_a_rule_that_nobody_could_judge_was_not_kept(verdict: str):
    """A judge that makes no sense refuses; an answer without text needs no judge."""

    def reply(request: LLMRequest) -> Any:
        return verdict if request.output_schema_name == "GuardrailEvaluationResult" else "Hello."

    found = ask(make_agent("guarded_unjudged", reply, guardrails="Be polite.", guardrail_max_retries=0))
    silent = ask(make_agent("guarded_silent", reply, guardrails="Be polite.", guardrail_max_retries=0))
    quiet = ask(make_agent("guarded_quiet", [call("guarded_look", name="Oslo"), Reply(text="")],
                           tools=[look], guardrails="Be polite."))  # fmt: skip

    assert found == silent
    assert "couldn't be judged" in found
    assert ("completed", ["Oslo"]) == (quiet["stop_reason"], looked)


def test_a_crash_anywhere_judges_no_answer_twice():
    """Refused or passed, what was judged before a crash is judged so behind it, and no reply is paid for again."""
    asked_for: list[str] = []
    judged: list[str] = []

    def reply(request: LLMRequest) -> Any:
        asked_for.append(str(request.items))
        return SECRET if len(request.items) == 1 else "Nothing to see."

    def judge(ctx: Any, told: GuardrailContext) -> GuardrailResult:
        judged.append(told.content or "")
        return GuardrailResult.fail("no") if "1234" in (told.content or "") else GuardrailResult()

    agent = make_agent("guarded_crash", reply, guardrails=[judge])
    for moment in range(1, 40):
        asked_for.clear()
        judged.clear()
        with Simulation([agent]) as sim:
            wanted = sim.create(agent, {"input": "Go on."})
            sim.run_turns(moment)
            sim.recover()
            if not wanted.answered:
                sim.send_again(wanted)
            sim.settle()

            assert "Nothing to see." == sim.result(wanted.run)["result"]
            assert len(asked_for) <= 3, "at most the call that was under way is made again"
            assert len(judged) <= 3
            steps = [one.name for one in events(sim, e.StepCompleted)]
            assert len(steps) == len(set(steps)) == 4


@pytest.mark.anyio
async def test_readers_see_what_passed_in_one_piece(tmp_path: Path):
    """While a guarded answer is streamed nobody sees a word that was refused or changed."""
    reply, _ = heard([SECRET, "the code is a 1234 secret"])

    def second(ctx: Any, told: GuardrailContext) -> GuardrailResult:
        return GuardrailResult.fail("no") if told.content == "the code is ****" else GuardrailResult()

    agent = make_agent("guarded_stream", reply, guardrails=[redact, second])
    async with Polos(tmp_path) as polos:
        answer = await agent.stream(polos, "Go on.")
        chunks = [chunk async for chunk in answer.text_chunks]

    assert ["the code is a **** secret"] == chunks


def test_settings_that_a_guardrail_changed_count_from_then_on():
    """Settings that a guardrail changed count for the turns that follow; no key goes to a new provider."""
    made: list[dict[str, Any]] = []
    asked: list[LLMRequest] = []

    @register_provider("guarded-elsewhere")
    class Elsewhere(LLMProvider):
        """Keeps what it was made with and asked."""

        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        async def generate(self, request: LLMRequest) -> LLMResponse:
            asked.append(request)
            return LLMResponse(content="Done.")

    def move(ctx: Any, told: GuardrailContext) -> GuardrailResult:
        assert told.llm_config is not None
        assert {"seed": 7} == told.llm_config.provider_kwargs or asked
        changes = {
            "provider": "guarded-elsewhere", "model": "other", "tools": [], "system_prompt": "New.",
            "provider_base_url": "http://elsewhere", "provider_kwargs": {"seed": 8},
        }  # fmt: skip
        return GuardrailResult(modified_llm_config=told.llm_config.model_copy(update=changes))

    agent = make_agent(
        "guarded_mover", [call("guarded_look", name="Oslo")], tools=[look], guardrails=move
    )  # fmt: skip
    with Simulation([agent, look]) as sim:
        sim.create(agent, {"input": "Go.", "provider_kwargs": {"seed": 7}})
        sim.settle()

    (request,) = asked
    assert ("guarded-elsewhere", "other", [], "New.", {"seed": 8}) == (
        request.provider, request.model, request.tools, request.system, request.provider_kwargs
    )  # fmt: skip
    assert [{"base_url": "http://elsewhere"}] == made
    agent.provider_settings = {"api_key": "secret"}
    assert {"api_key": "secret"} == agent.settings_of(agent.config)
    assert {} == agent.settings_of(agent.config.model_copy(update={"provider": "guarded-elsewhere"}))
