"""
Calling the tools that a model asked for.

Each call is a child run; those of one turn run at once, as many as the agent allows. Whatever goes wrong with one (no
such tool, arguments that are no JSON or don't fit, a refusal, a failure, a timeout) is told to the model as the result
of that call, since only the model can try something else. The order of the results is that of the calls.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from polos.agents.asking import Asking
from polos.agents.budget import Amount
from polos.engine.json import Json
from polos.errors import StepExecutionError
from polos.llm.jsonish import an_object, parse_json
from polos.llm.messages import output_item
from polos.middleware.hook import HookContext, call_hooks
from polos.registry import get_workflow
from polos.tools.delegation import AgentTool, Delegated
from polos.tools.tool import Tool
from polos.types.agents import Step, TypedToolResult
from polos.types.llm import ToolCall
from polos.value_checks import is_plain
from polos.value_types import resolve_path
from polos.values import encode

__all__ = ["call_tools"]


class _NotCalled(Exception):
    """A call that no run is made for; its text is told to the model."""


async def call_tools(asking: Asking, turn: int, calls: list[ToolCall], steps: list[Step]) -> list[TypedToolResult]:
    """
    Call tools, and add what came of it to the conversation.

    Args:
        asking: of the run.
        turn: the agent's turn.
        calls: what the model asked for.
        steps: the turns before this one.

    Returns:
        What came of each, in order.
    """
    limit = asking.agent.max_parallel_tools
    gate = asyncio.Semaphore(len(calls) if limit is None else limit)
    delegated = sum(isinstance(_find(asking, call.function.name), AgentTool) for call in calls)
    one = _Calls(asking, turn, steps, delegated + 1)  # one share is the asker's: somebody has to tell the answer

    async def within(number: int, call: ToolCall) -> tuple[TypedToolResult, str]:
        async with gate:
            return await one.result(number, call)

    found = await asyncio.gather(*(within(number, call) for number, call in enumerate(calls)))
    asking.conversation.append(
        *(output_item(call.call_id or call.id, told) for call, (_, told) in zip(calls, found, strict=True))
    )
    return [result for result, _ in found]


def _find(asking: Asking, name: str) -> Tool | None:
    """Find a tool by name: the agent's own first, then any that is registered."""
    own = {tool.id: tool for tool in asking.agent.tools if isinstance(tool, Tool)}
    found: Any = own.get(name) or get_workflow(name)
    return found if isinstance(found, Tool) else None


class _Calls:
    """The calls of one turn."""

    def __init__(self, asking: Asking, turn: int, steps: list[Step], shares: int) -> None:
        self.asking = asking
        self.turn = turn
        self.steps = steps
        self.shares = shares

    async def result(self, number: int, call: ToolCall) -> tuple[TypedToolResult, str]:
        """Make one call; gives what came of it, and what the model is told."""
        name = call.function.name
        base: dict[str, Any] = {"tool_name": name, "tool_call_id": call.id, "tool_call_call_id": call.call_id}
        try:
            tool = _find(self.asking, name)
            if tool is None:
                raise _NotCalled(f"there is no tool {name!r}")
            payload = await self._payload(number, tool, call)
            output = await self._call(number, tool, payload)
        except (_NotCalled, StepExecutionError) as failed:
            reason = failed.reason if isinstance(failed, StepExecutionError) else str(failed)
            return TypedToolResult(status="failed", error=reason, **base), f"Error: {reason}"
        output = await self._after(number, name, payload, output)
        # What JSON doesn't bring back (a date, a list of models) is known by the tool's return annotation.
        hint = None if is_plain(output) else tool.result_hint
        encoded = encode(output, hint=hint, what=f"result of tool {name!r}")[0]
        told = json.dumps(encoded.value, ensure_ascii=False)
        path = encoded.type if encoded.type is not None and resolve_path(encoded.type) is not None else None
        return TypedToolResult(status="completed", result=encoded.value, result_schema=path, **base), told

    async def _payload(self, number: int, tool: Tool, call: ToolCall) -> Json:
        """Read the arguments and let hooks look at them."""
        try:
            arguments = an_object(parse_json(call.function.arguments or "{}"))
        except ValueError as error:
            raise _NotCalled(f"the arguments are no JSON: {error}") from error
        if arguments is None:
            raise _NotCalled("the arguments must be a JSON object")
        hooks = self.asking.agent.on_tool_start
        if hooks:
            told = self._told(tool.id, arguments)
            found = await call_hooks(self.asking.ctx, f"{self.turn}.hook.on_tool_start.{number}", hooks, told)
            arguments = {**arguments, **(found.modified_payload or {})}
        if not tool.has_payload_param:
            return None
        try:
            return cast("Json", tool.check_arguments(arguments))
        except ValueError as misfit:
            raise _NotCalled(str(misfit)) from misfit

    async def _call(self, number: int, tool: Tool, payload: Json) -> Any:
        ledger = self.asking.ledger
        key = f"execute_tools:step_{self.turn}[{number}]"
        if not isinstance(tool, AgentTool):
            return await self.asking.ctx.step.invoke_and_wait(key, self._definition(tool), payload)
        if ledger.used_up:
            raise _NotCalled("the budget is used up, so nobody can be asked")
        budget = ledger.left(self.shares)
        self.shares = max(2, self.shares - 1)  # what is left is for those that haven't begun, and for the asker
        arguments = an_object(payload) or {}
        if budget is not None:
            share = Amount(
                tokens=budget.tokens or 0, calls=budget.calls or 0, microdollars=round((budget.dollars or 0) * 1e6)
            )
            ledger.reserve(key, share)
            arguments = {**arguments, "budget": budget.model_dump(exclude_none=True)}
        used: Amount | None = None
        try:
            found = await self.asking.ctx.step.invoke_and_wait(key, self._definition(tool), arguments)
            delegated = Delegated.model_validate(found)
            used = Amount(tokens=delegated.tokens, microdollars=delegated.microdollars, calls=delegated.calls)
            return delegated.result
        finally:
            ledger.settle(key, used)

    def _definition(self, tool: Tool) -> Tool:
        """Give the tool under an id that stands for it: its own, or that of the agent's own tool."""
        if get_workflow(tool.id) is tool:
            return tool
        return tool.known_as(f"{self.asking.agent.id}/{tool.id}")

    async def _after(self, number: int, name: str, payload: Json, output: Any) -> Any:
        hooks = self.asking.agent.on_tool_end
        if not hooks:
            return output
        told = self._told(name, payload).model_copy(update={"current_output": output})
        found = await call_hooks(self.asking.ctx, f"{self.turn}.hook.on_tool_end.{number}", hooks, told)
        return output if found.modified_output is None else found.modified_output

    def _told(self, tool: str, payload: Any) -> HookContext:
        ctx = self.asking.ctx
        return HookContext(
            workflow_id=self.asking.agent.id, session_id=ctx.session_id, user_id=ctx.user_id,
            agent_config=self.asking.config, steps=list(self.steps), current_tool=tool, current_payload=payload,
        )  # fmt: skip
