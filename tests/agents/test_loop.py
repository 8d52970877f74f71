"""The loop of an agent: turns, tools, answers, and what is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from polos import Agent, Polos, WorkflowContext, events, executed_tool, has_text, max_steps, max_tokens, tool, workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.errors import ModelRateLimited, ModelRequestRefused
from polos.llm import Attempts, LLMRequest, Reply, script
from polos.testing.simulation import Simulation
from polos.types.agents import AgentResult
from pydantic import BaseModel

pytestmark = pytest.mark.anyio


class City(BaseModel):
    """What the tools take."""

    name: str


class Weather(BaseModel):
    """What one of them gives."""

    city: str
    degrees: int


class Review(BaseModel):
    """A structured answer."""

    title: str
    stars: int | None = None


called: list[str] = []


@tool(id="loop_weather", description="Tell the weather.")
async def weather(ctx: WorkflowContext, input: City) -> Weather:
    """Look at the sky."""
    called.append(input.name)
    return Weather(city=input.name, degrees=await ctx.step.run("look", lambda: 3))


@tool(id="loop_broken")
def broken(ctx: WorkflowContext, input: City) -> dict[str, Any]:
    """Fail."""
    raise ValueError(f"no sky over {input.name}")


@tool(id="loop_idle")
async def idle(ctx: WorkflowContext) -> str:
    """Take nothing."""
    return "nothing"


def agent(name: str, replies: Any, **options: Any) -> Agent:
    """Make an agent that says what a script says."""
    script(name, replies)
    return Agent(id=name, provider="scripted", model=name, **options)


def call(name: str, **arguments: Any) -> Reply:
    """Ask for one tool."""
    return Reply(tool_calls=[(name, arguments)])


async def answer(tmp_path: Path, asked: Agent, text: Any = "Go on.", **options: Any) -> AgentResult:
    """Run an agent once."""
    async with Polos(tmp_path) as polos:
        return await asked.run(polos, text, **options)


async def test_a_text_is_an_answer(tmp_path: Path):
    """A reply without tools ends the run; its text is the result."""
    found = await answer(tmp_path, agent("loop_plain", ["It rains."]), "What's the weather?")

    assert ("It rains.", 1, "completed", []) == (found.result, found.total_steps, found.stop_reason, found.tool_results)
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens > 0


async def test_tools_are_called_and_the_model_is_told(tmp_path: Path):
    """Every call of a turn is made, in runs of their own; whatever goes wrong is told to the model, in order."""
    told: list[list[dict[str, Any]]] = []
    calls = [
        ("loop_weather", {"name": "Oslo"}), ("loop_broken", {"name": "Rome"}), ("nobody", {}),
        ("loop_weather", {"nam": "Bonn"}), ("loop_weather", "no json"), ("loop_weather", "[1]"), ("loop_idle", {}),
        ("loop_weather", "[" * 100_000),
    ]  # fmt: skip

    def reply(request: LLMRequest) -> Reply:
        told.append(request.items)
        return Reply(tool_calls=calls) if len(told) == 1 else Reply(text="Cold.")

    called.clear()
    found = await answer(tmp_path, agent("loop_tools", reply, tools=[weather, broken, idle]))

    outputs = [item["output"] for item in told[1] if item.get("type") == "function_call_output"]
    assert [
        {"city": "Oslo", "degrees": 3}, "no sky over Rome", "there is no tool 'nobody'", "invalid arguments: name",
        "the arguments are no JSON", "the arguments must be a JSON object", "nothing", "the arguments are no JSON",
    ] == [
        json.loads(outputs[0]), outputs[1].removeprefix("Error: "), outputs[2].removeprefix("Error: "),
        outputs[3].removeprefix("Error: ").rpartition(":")[0], outputs[4].removeprefix("Error: ").partition(":")[0],
        outputs[5].removeprefix("Error: "), json.loads(outputs[6]),
        outputs[7].removeprefix("Error: ").partition(":")[0],
    ]  # fmt: skip
    assert ["completed", "failed", "failed", "failed", "failed", "failed", "completed", "failed"] == [
        result.status for result in found.tool_results
    ]
    assert Weather(city="Oslo", degrees=3) == found.tool_results[0].result
    assert ["Oslo"] == called
    assert [f"call_0_{number}" for number in range(8)] == [one.tool_call_call_id for one in found.tool_results]


async def test_an_agents_own_tools_come_first(tmp_path: Path):
    """A later tool of the same name doesn't take the place of the agent's own."""

    @tool(id="loop_twin")
    async def first(ctx: WorkflowContext) -> str:
        return "first"

    asked = agent("loop_own", [call("loop_twin"), "Done."], tools=[first])

    @tool(id="loop_twin")
    async def second(ctx: WorkflowContext) -> str:
        return "second"

    other = agent("loop_other", [call("loop_twin"), "Done."], tools=[second])
    async with Polos(tmp_path) as polos:
        found = [(await one.run(polos, "Go on.")).tool_results[0].result for one in (asked, other)]

    assert ["first", "second"] == found


async def test_calls_of_a_turn_run_at_once_as_many_as_allowed(tmp_path: Path):
    """With a limit no more calls than that run at the same time, and all of them run."""
    running: list[int] = []
    most: list[int] = []

    @tool(id="loop_slow")
    async def slow(ctx: WorkflowContext, input: City) -> str:
        running.append(1)
        most.append(len(running))
        await ctx.step.wait_for("a moment", seconds=0.01)
        running.pop()
        return input.name

    calls = [("loop_slow", {"name": str(number)}) for number in range(7)]
    asked = agent("loop_limited", [Reply(tool_calls=calls), "Done."], tools=[slow], max_parallel_tools=2)
    found = await answer(tmp_path, asked)

    assert [str(number) for number in range(7)] == [one.result for one in found.tool_results]
    assert 2 == max(most)


@pytest.mark.parametrize("text", ['{"title": "Up", "stars": 5}', '```json\n{"title": "Up", "stars": 5}\n```'])
async def test_an_answer_has_the_agents_type(tmp_path: Path, text: str):
    """A structured answer is an object of the class, wherever the result is read; the model is told the schema."""
    told: list[LLMRequest] = []

    def reply(request: LLMRequest) -> str:
        told.append(request)
        return text

    asked = agent("loop_typed", reply, output_schema=Review)
    async with Polos(tmp_path) as polos:
        found = await asked.run(polos, "Review it.")
        handle = await asked.invoke(polos, {"input": "Again."})
        async for _ in events.stream_workflow(polos, asked.id, handle.id):
            pass
        read = (await handle.get(polos))["result"]

    assert Review(title="Up", stars=5) == found.result == read.result
    schema = told[0].output_schema
    assert schema is not None
    assert (["title", "stars"], False) == (schema["required"], schema["additionalProperties"])
    assert "Review" == told[0].output_schema_name


async def test_an_answer_that_does_not_fit_is_asked_for_once_more(tmp_path: Path):
    """The model is told what was wrong; a second misfit fails the run, with the reason."""
    found = await answer(
        tmp_path / "1", agent("loop_mended", ['{"titel": 1}', '{"title": "Up"}'], output_schema=Review)
    )
    with pytest.raises(RuntimeError, match="no usable answer, twice: it is no JSON"):
        await answer(tmp_path / "2", agent("loop_unmended", ["no", "no"], output_schema=Review))

    assert (Review(title="Up"), 2) == (found.result, found.total_steps)


@pytest.mark.parametrize(
    ("condition", "turns", "reason"),
    [
        (max_steps(count=3), 3, "max_steps"),
        (max_tokens(limit=1), 1, "max_tokens"),
        (executed_tool(tool_names=["loop_idle"]), 1, "executed_tool"),
        (has_text(texts=["two"]), 2, "has_text"),
        (None, 10, "max_steps"),
    ],
)
async def test_what_ends_a_loop(tmp_path: Path, condition: Any, turns: int, reason: str):
    """Conditions are asked after each turn; without one the number of turns is limited, and the last text counts."""
    said = ["one", "two", "three", *["more"] * 20]
    replies = [Reply(text=text, tool_calls=[("loop_idle", {})]) for text in said]
    found = await answer(
        tmp_path, agent("loop_stopped", replies, tools=[idle], stop_conditions=[condition] if condition else None)
    )

    assert (turns, reason, said[turns - 1]) == (found.total_steps, found.stop_reason, found.result)


async def test_a_model_that_is_busy_is_asked_again(tmp_path: Path):
    """A call that may help is made again, each attempt on record; one that is refused is not."""
    busy = Attempts([ModelRateLimited("busy", retry_after_seconds=0.01), "There you are."])
    async with Polos(tmp_path) as polos:
        found = await agent("loop_busy", [busy]).run(polos, "Go on.")
        with pytest.raises(RuntimeError, match="after 0 retries: no such model"):
            await agent("loop_refused", [ModelRequestRefused("no such model")]).run(polos, "Go on.")
        with polos.engine.store.log.reader() as reader:
            records = [decode(r.type, r.schema_version, r.payload) for r in reader.records()]

    assert "There you are." == found.result
    failed = [event.error.type for event in records if isinstance(event, e.StepAttemptFailed)]
    assert ["ModelRateLimited"] == failed


async def test_agents_in_workflows(tmp_path: Path):
    """A workflow asks agents like any children, one or several, waited for or not."""
    one = agent("loop_one", '{"title": "Up"}', output_schema=Review)

    @workflow(id="loop_asks")
    async def asks(ctx: WorkflowContext) -> dict[str, Any]:
        first = await ctx.step.agent_invoke_and_wait("first", one.with_input("a"))
        rest = await ctx.step.batch_agent_invoke_and_wait("rest", [one.with_input(text) for text in "bc"])
        started = await ctx.step.agent_invoke("started", one.with_input("d"))
        more = await ctx.step.batch_agent_invoke("more", [one.with_input(text) for text in "ef"])
        inner = [AgentResult.model_validate(result.result).result for result in rest]
        return {"first": first.result.title, "rest": inner, "started": [h.workflow_id for h in (started, *more)]}

    async with Polos(tmp_path) as polos:
        found = await asks.run(polos)

    assert {"first": "Up", "rest": [{"title": "Up", "stars": None}] * 2, "started": ["loop_one"] * 3} == found


async def test_a_conversation_goes_on_in_its_session(tmp_path: Path):
    """A session remembers what was said to and by each of its agents, and no agent hears what another was told."""
    told: list[int] = []

    def reply(request: LLMRequest) -> str:
        told.append(len(request.items))
        return f"I know {len(request.items)}."

    first, other = agent("loop_remembers", reply), agent("loop_apart", reply)
    async with Polos(tmp_path) as polos:
        for text in ("a", "b"):
            await first.run(polos, text, session_id="s")
        await other.run(polos, "c", session_id="s")
        await first.run(polos, "d", session_id="another")
    async with Polos(tmp_path) as polos:
        await first.run(polos, "e", session_id="s")

    assert [1, 3, 1, 1, 5] == told


def test_the_log_of_a_long_talk_grows_with_its_length():
    """Each message is stored once a run: 200 turns take about four times the bytes of 50."""

    def size(turns: int) -> int:
        replies = [Reply(text=f"turn {n} " + "x" * 400, tool_calls=[("loop_idle", {})]) for n in range(turns)]
        asked = agent("loop_long", [*replies, "Done."], tools=[idle], stop_conditions=[max_steps(count=500)])
        with Simulation([asked, idle]) as sim:
            run = sim.create(asked, {"input": "Go on."}).run
            sim.settle()
            assert turns + 1 == sim.result(run)["total_steps"]
            with sim.store.log.reader() as reader:
                return sum(len(record.payload) for record in reader.records())

    small, large = size(50), size(200)

    assert large < 4.3 * small


def test_a_crash_anywhere_asks_the_model_nothing_twice():
    """An agent that is killed after any commit ends with the same answer, and no recorded reply is asked for again."""
    asked_for: list[str] = []

    def reply(request: LLMRequest) -> Reply:
        asked_for.append(json.dumps(request.items[1:]))
        turns = sum(1 for item in request.items if item.get("role") == "assistant")
        calls = [("loop_weather", {"name": f"{turns}.{n}"}) for n in range(2)] if turns < 2 else []
        return Reply(text=f"turn {turns}", tool_calls=calls)

    asked = agent("loop_crashes", reply, tools=[weather])

    def live(crash_after: int | None) -> tuple[Any, int]:
        asked_for.clear()
        with Simulation([asked, weather]) as sim:
            wanted = sim.create(asked, {"input": "Go on."})
            if crash_after is not None:
                sim.run_turns(crash_after)
                sim.crash()
                sim.recover()
                if not wanted.answered:
                    sim.send_again(wanted)
            sim.settle()
            return sim.result(wanted.run), len(asked_for) - len(set(asked_for))

    whole, _ = live(None)
    found = [live(turns) for turns in range(1, 60, 2)]

    assert "turn 2" == whole["result"]
    for result, twice in found:
        assert {**whole, "agent_run_id": ""} == {**result, "agent_run_id": ""}
        assert twice <= 1, "at most the one call that was under way is made again"


async def test_bad_definitions_are_refused(tmp_path: Path):
    """What can't work is refused where the agent is defined, and names the argument."""
    ok: dict[str, Any] = {"id": "loop_bad", "provider": "scripted", "model": "m"}

    class Odd(BaseModel):
        name: str | None

    for options, error, says in (
        ({"tools": [print]}, TypeError, "tools must be"),
        ({"tools": [idle, idle]}, ValueError, "'loop_idle' is there twice"),
        ({"stop_conditions": ["x"]}, TypeError, "Invalid stop_condition"),
        ({"guardrails": 7}, TypeError, "Invalid guardrails type"),
        ({"guardrails": [7]}, TypeError, "Invalid guardrail type"),
        ({"output_schema": dict}, ValueError, "output_schema"),
        ({"output_schema": Odd}, ValueError, "field 'name' of Odd is optional"),
        ({"guardrail_max_retries": -1}, ValueError, "guardrail_max_retries"),
        ({"max_parallel_tools": 0}, ValueError, "max_parallel_tools"),
        ({"model_timeout_seconds": 0}, ValueError, "model_timeout_seconds"),
        ({"handoffs": [print]}, TypeError, "handoffs"),
        ({"on_tool_start": 3}, TypeError, "on_tool_start"),
        ({"budget": {}}, ValueError, "a budget needs"),
        ({"provider": ""}, ValueError, "provider must not be empty"),
    ):
        with pytest.raises(error, match=says):
            Agent(**{**ok, **options})
    with pytest.raises(RuntimeError, match="needs an input"):
        await answer(tmp_path, agent("loop_silent", "x"), None)


async def test_a_model_keeps_a_copy_of_what_it_was_asked(tmp_path: Path):
    """A provider that changes the messages it gets doesn't change the conversation."""
    told: list[Any] = []

    def reply(request: LLMRequest) -> Reply | str:
        told.append(json.dumps(request.items))
        request.items[0]["content"].clear()
        return call("loop_idle") if len(told) == 1 else "Done."

    asked = [{"role": "user", "content": [{"type": "input_text", "text": "What is there?"}]}]
    await answer(tmp_path, agent("loop_clears", reply, tools=[idle]), asked)

    assert "What is there?" in told[1]
