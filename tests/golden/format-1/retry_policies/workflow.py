"""How retries are spaced, and which errors have them: of a run and of a step."""

from typing import Any

from polos import RetryPolicy, StepExecutionError, WorkflowContext, workflow

RARELY = RetryPolicy(
    max_retries=3, base_delay_seconds=2, max_delay_seconds=5, factor=2.0, jitter=0.2, retry_on=(OSError,),
    non_retryable=(FileNotFoundError,),
)  # fmt: skip


def fail(kind: str) -> None:
    raise {"missing": FileNotFoundError, "down": ConnectionError, "wrong": ValueError}[kind](kind)


@workflow(id="golden_policies", retries=RARELY)
async def policies(ctx: WorkflowContext, payload: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for kind in ("missing", "wrong"):
        try:
            await ctx.step.run(kind, fail, kind, retry_on=(OSError,), non_retryable=(FileNotFoundError,))
        except StepExecutionError as error:
            found.append(str(error))
    if payload["fails"]:
        raise TimeoutError("nobody answers")
    return found
