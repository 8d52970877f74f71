"""What is called around an agent: hooks that look, change and refuse, guardrails, stop conditions."""

from typing import Any

from pydantic import BaseModel

from polos import (
    Agent, ExecutedToolConfig, GuardrailContext, GuardrailResult, HookContext, HookResult, MaxStepsConfig,
    StopConditionContext, WorkflowContext, executed_tool, guardrail, hook, max_steps, stop_condition, tool, workflow,
)  # fmt: skip
from polos.llm import Reply, script


class Letter(BaseModel):
    to: str


@hook
def look(ctx: WorkflowContext, told: HookContext) -> HookResult:
    return HookResult.continue_with()


@hook
async def politely(ctx: WorkflowContext, told: HookContext) -> HookResult:
    if told.current_payload["to"] == "nobody":
        return HookResult.fail("nobody isn't written to")
    return HookResult.continue_with(modified_payload={"to": f"dear {told.current_payload['to']}"})


@hook
def louder(ctx: WorkflowContext, told: HookContext) -> HookResult:
    return HookResult.continue_with(modified_output=str(told.current_output).upper())


@tool(id="golden_write", description="Write to somebody.", on_start=[look], on_end=louder)
async def write(ctx: WorkflowContext, input: Letter) -> str:
    return f"written to {input.to}"


@guardrail
def redact(ctx: WorkflowContext, told: GuardrailContext) -> GuardrailResult:
    if "secret" in (told.content or ""):
        return GuardrailResult.fail("it tells a secret")
    return GuardrailResult.continue_with(modified_content=(told.content or "").replace("555", "[number]"))


@stop_condition
def often(ctx: StopConditionContext) -> bool:
    return len(ctx.steps) > 5


script("golden-secretary", [
    "The secret is 555.",
    Reply(text="I write, 555.", tool_calls=[("golden_write", {"to": "ada"}), ("golden_write", {"to": "nobody"})]),
    "It is written.",
])  # fmt: skip
secretary = Agent(
    "golden_secretary", "scripted", "golden-secretary", tools=[write], guardrails=[redact], guardrail_max_retries=2,
    on_start=look, on_end=look, on_agent_step_start=[look], on_agent_step_end=look,
    on_tool_start=politely, on_tool_end=[louder], stop_conditions=[often],
)  # fmt: skip

script("golden-writer", [Reply(text="First.", tool_calls=[("golden_write", {"to": "bob"})]), "Never said."])
writer = Agent(
    "golden_writer", "scripted", "golden-writer", tools=[write],
    stop_conditions=[max_steps(MaxStepsConfig(limit=4)), executed_tool(ExecutedToolConfig(tool_names=["golden_write"]))],
)  # fmt: skip


def judge(request: Any) -> Any:
    """Say something; asked whether it keeps to a rule, say that it does."""
    return '{"passed": true, "reason": "It is kind."}' if request.output_schema else "Hello, you."


script("golden-kind", judge)
kind = Agent("golden_kind", "scripted", "golden-kind", guardrails=["Be kind."])


@workflow(id="golden_hooked", on_start=[politely], on_end=[louder])
async def hooked(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    return f"hello, {payload['to']}"
