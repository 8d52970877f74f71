"""Hooks: what they see, change and refuse, in which order, and that replay doesn't call them again."""

from __future__ import annotations

from typing import Any

import pytest
from polos import Agent, HookContext, HookResult, WorkflowContext, hook, tool, workflow
from polos.definition import Workflow
from polos.engine import events as e
from polos.llm import LLMRequest, Reply
from polos.testing.simulation import Simulation
from polos.types.agents import AgentResult, Step
from pydantic import BaseModel

from tests.agents.stage import call, make_agent

seen: list[Any] = []


class Person(BaseModel):
    """What is greeted."""

    name: str


@tool(id="hooked_greet")
async def greet(ctx: WorkflowContext, input: Person) -> str:
    """Greet somebody."""
    seen.append(("called", input.name))
    return f"Hello, {input.name}!"


def play(definition: Workflow[Any], payload: Any, *more: Workflow[Any]) -> Any:
    """Run something once; gives the result, or why it failed."""
    seen.clear()
    with Simulation([definition, greet, *more]) as sim:
        run = sim.create(definition, payload).run
        sim.settle()
        end = sim.audit.end_of(run)
        return end.error.message if isinstance(end, e.RunFailed) else sim.result(run)


def noting(word: str, **changes: Any) -> Any:
    """Make a hook that notes what it is told and changes something."""

    async def note(ctx: Any, told: HookContext) -> HookResult:
        seen.append((word, told.current_payload, told.current_output))
        return HookResult(**changes)

    note.__name__ = word
    return hook(note)


def refusing(ctx: Any, told: HookContext) -> HookResult:
    """Refuse."""
    refused: HookResult = HookResult.fail("not today")
    return refused


def test_hooks_around_a_workflow_run_in_order():
    """Each sees what those before it changed; payloads are objects of the workflow's model, outputs anything."""

    @workflow(
        id="hooked_model",
        on_start=[noting("first", modified_payload={"name": "Bob"}), noting("second")],
        on_end=[noting("third", modified_output="bye"), noting("fourth")],
    )
    async def greets(ctx: WorkflowContext, payload: Person) -> str:
        return f"hi {payload.name}"

    assert "bye" == play(greets, {"name": "Ann"})
    assert [
        ("first", Person(name="Ann"), None),
        ("second", Person(name="Bob"), None),
        ("third", Person(name="Bob"), "hi Bob"),
        ("fourth", Person(name="Bob"), "bye"),
    ] == seen


def test_hooks_of_a_workflow_without_a_model():
    """Dicts and no payload at all are told as they are, and a result of None or of a class stays what it is."""

    @workflow(id="hooked_dict", on_start=noting("start", modified_payload={"b": 2}), on_end=noting("end"))
    async def takes_dict(ctx: WorkflowContext, payload: dict[str, Any]) -> Person | None:
        return Person(name=str(payload)) if payload.get("a") else None

    @workflow(id="hooked_none", on_start=noting("start"), on_end=noting("end"))
    async def takes_nothing(ctx: WorkflowContext) -> int:
        return 7

    assert {"name": "{'a': 1, 'b': 2}"} == play(takes_dict, {"a": 1})
    assert [("start", {"a": 1}, None), ("end", {"a": 1, "b": 2}, Person(name="{'a': 1, 'b': 2}"))] == seen
    assert play(takes_dict, {}) is None
    assert 7 == play(takes_nothing, None)
    assert [("start", None, None), ("end", None, 7)] == seen


@pytest.mark.parametrize("where", ["on_start", "on_end"])
def test_a_hook_that_refuses_fails_the_run(where: str):
    """With its words; in front of the body nothing else happens."""
    hooks: dict[str, Any] = {where: [refusing, noting("later")]}

    @workflow(id="hooked_refused", **hooks)
    async def says(ctx: WorkflowContext) -> str:
        seen.append("body")
        return "said"

    assert "not today" == play(says, None)
    assert (["body"] if where == "on_end" else []) == seen


def test_a_hook_that_raises_is_tried_again():
    """It is a step; when every attempt failed the run fails, and so it does for an answer of another kind."""
    tries: list[int] = []

    def shaky(ctx: Any, told: HookContext) -> HookResult:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("busy")
        return HookResult(modified_payload={"name": "Cy"})

    def broken(ctx: Any, told: HookContext) -> HookResult:
        raise OSError("gone")

    def odd(ctx: Any, told: HookContext) -> Any:
        return {"action": "continue"}

    def made(hook: Any) -> Workflow[Any]:
        @workflow(id="hooked_shaky", on_start=hook)
        async def says(ctx: WorkflowContext, payload: Person) -> str:
            return payload.name

        return says

    assert "Cy" == play(made(shaky), {"name": "Ann"})
    assert "gone" in play(made(broken), {"name": "Ann"})
    assert "must answer with a HookResult, it gave dict" in play(made(odd), {"name": "Ann"})
    with pytest.raises(TypeError, match="must take two parameters"):
        hook(lambda ctx: HookResult())


def test_a_payload_that_a_hook_spoils_fails_the_run():
    """What doesn't fit the model any more isn't given to the body."""

    @workflow(id="hooked_spoilt", on_start=noting("spoil", modified_payload={"name": 7}))
    async def says(ctx: WorkflowContext, payload: Person) -> str:
        seen.append("body")
        return payload.name

    assert "name" in play(says, {"name": "Ann"})
    assert "body" not in seen


def test_hooks_around_a_tool():
    """They see the arguments and what came of the call, and change both."""
    one = tool(
        id="hooked_tool",
        on_start=noting("start", modified_payload={"name": "Bob"}),
        on_end=noting("end", modified_output="Hey."),
    )(greet.func)
    refused = tool(id="hooked_refused_tool", on_start=refusing)(greet.func)
    calls = [("hooked_tool", {"name": "Ann"}), ("hooked_refused_tool", {"name": "Eve"})]
    found = play(
        make_agent("hooked_tools", [Reply(tool_calls=calls), "Done."], tools=[one, refused]), {"input": "x"},
        one, refused,
    )  # fmt: skip

    assert ["Hey.", None] == [result["result"] for result in found["tool_results"]]
    assert "not today" == found["tool_results"][1]["error"]
    assert [
        ("start", Person(name="Ann"), None), ("called", "Bob"), ("end", Person(name="Bob"), "Hello, Bob!"),
    ] == seen  # fmt: skip


class Weather(BaseModel):
    """A structured answer; `calls` is a field of results, too."""

    text: str
    calls: int = 0


@pytest.mark.parametrize(
    ("schema", "outputs", "expected"),
    [
        (None, ["Enough."], ("Enough.", None, 1)),
        (None, [7], (7, None, 1)),
        (None, [{"of": "it"}], ({"of": "it"}, None, 1)),
        (None, [{"result": "Enough."}], ("Enough.", None, 1)),
        (None, [{"result": "Enough.", "total_steps": 3}], ("Enough.", None, 3)),
        (None, [{"total_steps": 3}, "Enough."], ("Enough.", None, 3)),
        (Weather, ["Enough."], ("Enough.", None, 1)),
        (Weather, [{"text": "Enough."}], ({"text": "Enough.", "calls": 0}, f"{__name__}.Weather", 1)),
        (Weather, [Weather(text="Enough.", calls=2)], ({"text": "Enough.", "calls": 2}, f"{__name__}.Weather", 1)),
        (Weather, [{"total_steps": 3}], ({"text": "Much.", "calls": 0}, f"{__name__}.Weather", 3)),
    ],
)
def test_a_hook_may_give_an_agents_answer_alone(schema: type[BaseModel] | None, outputs: list[Any], expected: Any):
    """A text, an object, some fields of the result: what isn't said stays, and the next hook sees a result."""
    told_last: list[Any] = []

    def last(ctx: Any, told: HookContext) -> HookResult:
        told_last.append(type(told.current_output))
        return HookResult()

    says = "Much." if schema is None else '{"text": "Much."}'
    hooks = [*(noting(f"hook{number}", modified_output=one) for number, one in enumerate(outputs)), hook(last)]
    found = play(make_agent("hooked_answer", [says], output_schema=schema, on_end=hooks), {"input": "What?"})

    assert expected == (found["result"], found.get("result_schema"), found["total_steps"])
    assert [AgentResult] == told_last


def test_a_hook_that_spoils_an_agents_result_fails_the_run():
    """A field of the result has to be one."""
    agent = make_agent("hooked_spoilt_result", ["Much."], on_end=noting("end", modified_output={"total_steps": "x"}))

    assert "total_steps" in play(agent, {"input": "What?"})


def test_hooks_around_an_agent():
    """They see what it is asked under both names, its settings, and the result; what they change counts."""
    configs: list[Any] = []

    def start(ctx: Any, told: HookContext) -> HookResult:
        payload = told.current_payload
        configs.append((payload["input"], payload["prompt"], told.agent_config and told.agent_config.model, ctx.model))
        return HookResult(modified_payload={"input": "What else?"})

    def end(ctx: Any, told: HookContext) -> HookResult:
        return HookResult(modified_output={**told.current_output.model_dump(mode="json"), "result": "Enough."})

    asked: list[Any] = []

    def reply(request: LLMRequest) -> str:
        asked.append(request.items[-1]["content"])
        return "Much."

    agent = make_agent("hooked_agent", reply, on_start=start, on_end=end)

    assert "Enough." == play(agent, {"input": "What?"})["result"]
    assert (["What else?"], [("What?", "What?", "hooked_agent", "hooked_agent")]) == (asked, configs)
    assert "not today" == play(make_agent("hooked_agent", reply, on_start=refusing), {"input": "What?"})
    assert ["What else?"] == asked


def test_hooks_around_a_turn():
    """The one before it may change the messages, the one behind it the turn; both know the turns so far."""
    turns: list[Any] = []

    def start(ctx: Any, told: HookContext) -> HookResult:
        turns.append((told.current_payload["step"], len(told.steps), len(told.current_payload["messages"])))
        messages = [*told.current_payload["messages"], {"role": "user", "content": "And be brief."}]
        return HookResult(modified_payload={"messages": messages} if len(turns) == 1 else None)

    def end(ctx: Any, told: HookContext) -> HookResult:
        step = told.current_output
        assert isinstance(step, Step)
        turns.append((step.step, [one.result for one in step.tool_results]))
        return HookResult(modified_output={**step.model_dump(mode="json"), "content": f"{step.content}!"})

    asked: list[Any] = []

    def reply(request: LLMRequest) -> Any:
        asked.append([item.get("content") for item in request.items if item.get("role") == "user"])
        return call("hooked_greet", name="Ann") if len(asked) == 1 else "Done"

    agent = make_agent("hooked_turns", reply, tools=[greet], on_agent_step_start=start, on_agent_step_end=end)
    found = play(agent, {"input": "Greet."})

    assert "Done!" == found["result"]
    assert [["Greet.", "And be brief."]] * 2 == asked
    assert [(1, 0, 1), (1, ["Hello, Ann!"]), (2, 1, 4), (2, [])] == turns
    assert "not today" == play(make_agent("hooked_turns", "x", on_agent_step_start=refusing), {"input": "x"})


def test_hooks_around_each_of_several_calls():
    """Every call of a turn has its own hooks: arguments and outputs are changed one by one, a refusal is one call's."""

    def start(ctx: Any, told: HookContext) -> HookResult:
        name = told.current_payload["name"]
        seen.append((told.current_tool, name))
        return HookResult(modified_payload={"name": name.upper()}) if name != "Eve" else refusing(ctx, told)

    def end(ctx: Any, told: HookContext) -> HookResult:
        return HookResult(modified_output=f"{told.current_output} ({told.current_payload['name']})")

    calls = [("hooked_greet", {"name": name}) for name in ("Ann", "Bob", "Eve")]
    agent = make_agent("hooked_calls", [Reply(tool_calls=calls), "Done."], tools=[greet], on_tool_start=start,
                       on_tool_end=end)  # fmt: skip
    found = play(agent, {"input": "x"})

    assert ["Hello, ANN! (ANN)", "Hello, BOB! (BOB)", None] == [one["result"] for one in found["tool_results"]]
    assert "not today" == found["tool_results"][2]["error"]
    assert [("hooked_greet", name) for name in ("Ann", "Bob", "Eve")] == sorted(
        one for one in seen if one[0] != "called"
    )


def test_a_crash_anywhere_calls_no_hook_again():
    """What a hook answered before a crash counts behind it: only one that was under way is called again."""
    hooks = {
        where: noting(where)
        for where in ("on_start", "on_end", "on_agent_step_start", "on_agent_step_end", "on_tool_start", "on_tool_end")
    }
    one = tool(id="hooked_crash_tool", on_start=noting("tool_start"), on_end=noting("tool_end"))(greet.func)
    agent: Agent = make_agent("hooked_crash", [call("hooked_crash_tool", name="Ann"), "Done."], tools=[one], **hooks)
    for moment in range(1, 90, 2):
        seen.clear()
        with Simulation([agent, one]) as sim:
            wanted = sim.create(agent, {"input": "x"})
            sim.run_turns(moment)
            sim.recover()
            if not wanted.answered:
                sim.send_again(wanted)
            sim.settle()
            assert "Done." == sim.result(wanted.run)["result"]

        hooked = [one for one in seen if one[0] != "called"]
        assert 10 <= len(hooked) <= 11, f"ten hooks, and the one that was under way: {hooked}"
        assert len(seen) - len(hooked) <= 2, "a call whose run wasn't over may be made again"


@pytest.mark.parametrize(
    ("where", "told", "calls"),
    [
        ("on_agent_step_start", "not today", []),
        ("on_agent_step_end", "not today", ["tool"]),
        ("on_tool_start", "Error: not today", []),
        ("on_tool_end", "not today", ["tool"]),
    ],
)
def test_what_a_refusal_does_around_a_turn(where: str, told: str, calls: list[str]):
    """A call that a hook refuses isn't made, and the model is told; any other refusal fails the run with its words."""
    made: list[str] = []

    @tool(id="hooked_counted")
    async def counted(ctx: WorkflowContext) -> str:
        made.append("tool")
        return "counted"

    hooks: dict[str, Any] = {where: refusing}
    agent = make_agent(
        "hooked_refusals", lambda asked: asked.items[-1].get("output") or Reply(tool_calls=[("hooked_counted", {})]),
        tools=[counted], **hooks,
    )  # fmt: skip
    with Simulation([agent, counted]) as sim:
        run = sim.create(agent, {"input": "Go."}).run
        sim.settle()
        end = sim.audit.end_of(run)
        said = end.error.message if isinstance(end, e.RunFailed) else sim.result(run)["result"]

    assert (told, calls) == (said, made)
