"""
The loop of an agent: ask the model, call the tools that it wants, until it has an answer.

It is an ordinary deterministic workflow on `ctx.step`, and knows nothing of logs: each call of the model is a step,
each call of a tool a child run, each hook a step. So what was paid for is replayed, what was under way goes on, and
whatever the loop decides between two steps it decides again in the same way. Names of steps tell the turn and never
depend on how many steps there were before, so that hooks and guardrails may come and go without renaming the rest.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final, cast, final

from pydantic import BaseModel

from polos.agents.agent import Agent, handoff_name
from polos.agents.asking import Asking
from polos.agents.budget import Amount, Budget, BudgetExceeded, Ledger, add_usage, plain_usage
from polos.agents.conversation import Conversation
from polos.agents.guarding import guarded
from polos.agents.stop_conditions import StopConditionContext, asked_condition, condition_name, is_computed
from polos.agents.structured import json_of, read_answer, repair_message, typed_answer
from polos.agents.tooling import call_tools
from polos.context import WorkflowContext
from polos.errors import StepExecutionError
from polos.llm.jsonish import a_list, an_object
from polos.llm.messages import Item, assistant_item, items_of, output_item, user_item
from polos.memory.compaction import compact_if_needed
from polos.memory.sessions import load_session_memory, store_session_memory, summary_pair
from polos.middleware.hook import HookContext, Told, call_hooks
from polos.types.agents import AgentResult, Step, TypedToolResult
from polos.types.llm import ToolCall

__all__ = ["run_agent"]

MAX_STEPS: Final = 10
HANDOFFS_MAX: Final = 10
_NO_HANDOFF: Final = {
    "budget": "the budget is used up",
    "max_steps": f"the conversation was handed over {HANDOFFS_MAX} times",
}
_CUT: Final = ("length", "content_filter", "refusal")  # how a model ends that didn't say all it would have


class OutputInvalid(Exception):
    """A model's answer doesn't fit the agent's output schema, not even the second one."""


async def run_agent(agent: Agent, ctx: WorkflowContext, payload: dict[str, Any]) -> AgentResult:
    """
    Run an agent's loop.

    Args:
        agent: the agent.
        ctx: of its run.
        payload: `input`, and `streaming`, `provider_kwargs` and `budget` if there is more to say.

    Returns:
        The result; what ended the loop is its `stop_reason`.

    Raises:
        ValueError: there is no input.
        StepExecutionError: a model, a hook or a guardrail failed for good.
    """
    asked = (an_object(payload) or {}).get("input")
    if not isinstance(asked, str) and (a_list(asked) is None or None in map(an_object, a_list(asked) or ())):
        raise ValueError(f"agent {agent.id!r} needs an input: text, or a list of messages; it was given {asked!r:.200}")
    return await _Loop(agent, ctx, payload).run()


@final
class _Loop:
    """One run of an agent."""

    def __init__(self, agent: Agent, ctx: WorkflowContext, payload: dict[str, Any]) -> None:
        self.agent = agent
        self.ctx = ctx
        self.input: list[Item] = items_of(payload["input"])
        told = payload.get("budget")
        budget = agent.budget if told is None else Budget.model_validate(told)
        self.ledger = Ledger(budget=budget)
        self.conversation = Conversation([])
        kwargs = dict(payload.get("provider_kwargs") or {})
        self.asking = Asking(
            agent=agent, ctx=ctx, ledger=self.ledger, conversation=self.conversation,
            config=agent.config.model_copy(update={"provider_kwargs": kwargs}),
            streaming=agent.stream_to_workflow or payload.get("streaming") is True,
        )  # fmt: skip
        self.steps: list[Step] = []
        self.results: list[TypedToolResult] = []
        self.summary: str | None = None
        self.shortened = False
        self.old = 0  # messages at the beginning that the session remembers already
        self.turn = 0
        self.handed: AgentResult | None = None
        # A conversation that was handed over stays that of the agent whose session it is: it has all of it, and
        # remembers the answer. The heir would hear its own memory of it a second time, and more often each time.
        self.handed_over: int | None = payload.get("handed_over")

    async def run(self) -> AgentResult:
        await self._begin()
        reason = await self._turns()
        answer, path = await self._answer(reason)
        await self._remember()
        result = AgentResult(
            agent_run_id=self.ctx.execution_id,
            result=answer,
            result_schema=path,
            tool_results=self.results,
            total_steps=len(self.steps),
            usage=self.ledger.usage,
            stop_reason=reason,
            cost_microdollars=self.ledger.spent.microdollars,
            spent_tokens=self.ledger.spent.tokens,
            calls=self.ledger.spent.calls,
        )
        return result if self.handed is None else self._with_handed(result, self.handed)

    # ---------------------------------------------------------------------------------- the session

    async def _begin(self) -> None:
        if self.handed_over is not None:
            self.conversation.replace(self.input)
            return
        memory = await load_session_memory(self.ctx, self.agent.id)
        self.summary = memory.summary
        before = [*summary_pair(memory.summary), *memory.messages]
        self.conversation.replace([*before, *self.input])
        self.old = len(before)

    async def _remember(self) -> None:
        if self.handed_over is not None:
            return
        items = self.conversation.items
        if self.shortened:
            rest = items[len(summary_pair(self.summary)) :]
            await store_session_memory(self.ctx, self.agent.id, rest, summary=self.summary, replaces=True)
        else:
            await store_session_memory(self.ctx, self.agent.id, items[self.old :])

    async def _shorten(self) -> None:
        """Shorten the conversation if it is too long for the model."""
        pair = len(summary_pair(self.summary))
        found = await compact_if_needed(
            self.conversation.items[pair:], self.summary, self.agent.compaction, self._summarise,
            known=self.asking.known_tokens(),
        )  # fmt: skip
        if found.compacted:
            self.summary = found.summary
            self.shortened = True
            self.conversation.replace(found.messages)
            self.asking.forget_size()

    async def _summarise(self, suffix: str, told: str) -> str | None:
        name = f"llm_generate:compaction:{self.turn}{suffix}"
        reply = await self.asking.aside(name, self.turn, [user_item(told)])
        return reply.content

    # ------------------------------------------------------------------------------------ the turns

    async def _turns(self) -> str:
        """Take turns until something ends them; gives what."""
        own = any(condition_name(one) == "max_steps" for one in self.agent.stop_conditions)
        limit = None if own else await self._limit()
        while limit is None or self.turn < limit:
            self.turn += 1
            try:
                reason = await self._one_turn()
            except BudgetExceeded:  # by what is asked beside the conversation: for a summary, or about a rule
                return "budget"
            if reason is not None:
                return reason
        return "max_steps"

    async def _limit(self) -> int:
        """Give how many turns there may be: what the environment said when the run began."""
        said = await self.ctx.require_port().record(
            "max_steps", "setting", lambda: os.environ.get("POLOS_AGENT_MAX_STEPS")
        )
        return int(said) if isinstance(said, str) and said.isdigit() and int(said) > 0 else MAX_STEPS

    async def _one_turn(self) -> str | None:
        """Take one turn; gives what ends the loop, None if nothing does."""
        await self._before_turn()
        await self._shorten()
        if not await self.asking.may_ask(self.turn):
            self.turn -= 1
            return "budget"
        reply = await guarded(self.asking, self.turn, self.steps)
        self.conversation.append_reply(reply.items)
        step = Step(
            step=self.turn,
            content=reply.content,
            tool_calls=reply.tool_calls,
            usage=plain_usage(reply.usage),
            raw_output=reply.items,
        )
        handed = self._handoff(reply.tool_calls)
        if handed is not None:
            self.steps.append(step)
            return await self._hand_over(handed, reply.tool_calls)
        if reply.tool_calls:
            step.tool_results = await call_tools(self.asking, self.turn, reply.tool_calls, self.steps)
            self.results += step.tool_results
        step = await self._after_turn(step)
        self.steps.append(step)
        if not reply.tool_calls:
            if reply.stop_reason == "pause":
                return None  # the provider's own tools take long: asked again, the model goes on
            return reply.stop_reason if reply.stop_reason in _CUT else "completed"
        return await self._stopped()

    async def _before_turn(self) -> None:
        hooks = self.agent.on_agent_step_start
        if not hooks:
            return
        payload = {"step": self.turn, "messages": self.conversation.items}
        found = await call_hooks(self.ctx, f"{self.turn}.hook.on_agent_step_start", hooks, self._told(payload))
        messages = a_list((found.modified_payload or {}).get("messages"))
        if messages is not None and messages != payload["messages"]:
            self.conversation.replace(cast("list[Item]", messages))
            self.asking.forget_size()
            self.old = min(self.old, len(messages))

    async def _after_turn(self, step: Step) -> Step:
        hooks = self.agent.on_agent_step_end
        if not hooks:
            return step
        told = self._told({"step": self.turn}).model_copy(update={"current_output": step})
        output = (await call_hooks(self.ctx, f"{self.turn}.hook.on_agent_step_end", hooks, told)).modified_output
        return step if output is None else Step.model_validate(output)

    def _told(self, payload: dict[str, Any]) -> HookContext:
        return HookContext(
            workflow_id=self.agent.id, session_id=self.ctx.session_id, user_id=self.ctx.user_id,
            agent_config=self.asking.config, steps=list(self.steps), current_payload=payload,
        )  # fmt: skip

    async def _stopped(self) -> str | None:
        """Ask the stop conditions; gives the name of the first that says so."""
        told = StopConditionContext(
            steps=list(self.steps), agent_id=self.agent.id, agent_run_id=self.ctx.execution_id
        )  # fmt: skip
        for number, condition in enumerate(self.agent.stop_conditions):
            name = condition_name(condition)
            if is_computed(condition):
                ends = condition(told)  # from what is recorded alone: there is nothing to record
            else:
                ends = await self.ctx.step.run(
                    f"{self.turn}.stop_condition.{name}.{number}", asked_condition(condition), Told(told)
                )  # fmt: skip
            if ends:
                return name
        return None

    # ---------------------------------------------------------------------------------- handing over

    def _handoff(self, calls: list[ToolCall]) -> Agent | None:
        by_name = {handoff_name(agent): agent for agent in self.agent.handoffs}
        return next((by_name[call.function.name] for call in calls if call.function.name in by_name), None)

    async def _hand_over(self, agent: Agent, calls: list[ToolCall]) -> str:
        """
        Let another agent go on with the conversation; what it answers is the answer. Gives what ended the loop.

        No call of this turn is made. The heir isn't told of them, nor of handovers before, as it may have no such
        tools; in the session of this agent each has an answer, as providers refuse a conversation in which a call has
        none.
        """
        made = {call.call_id or call.id for call in calls}
        names = set(map(handoff_name, self.agent.handoffs))
        own = made | {item["call_id"] for item in self.conversation.items if item.get("name") in names}
        items = [item for item in self.conversation.items if not _is_of_call(item, own)]
        before = self.handed_over or 0
        ends = "budget" if self.ledger.used_up else "max_steps" if before >= HANDOFFS_MAX else None
        said = f"Handed over to {agent.id}." if ends is None else f"Not handed over to {agent.id}: {_NO_HANDOFF[ends]}."
        self.conversation.append(*(output_item(one, said) for one in sorted(made)))
        if ends is not None:
            return ends
        asked = agent.with_input(items, streaming=self.asking.streaming, budget=self.ledger.left())
        asked.handed_over = before + 1
        found = self.handed = await self.ctx.step.agent_invoke_and_wait(f"handoff:{agent.id}", asked)
        used = Amount(tokens=found.spent_tokens, microdollars=found.cost_microdollars, calls=found.calls)
        self.ledger.settle("handoff", used)
        answer = json_of(found.result)
        if answer is not None:
            self.conversation.append(assistant_item(answer if isinstance(answer, str) else json.dumps(answer)))
        return "handoff"

    def _with_handed(self, own: AgentResult, handed: AgentResult) -> AgentResult:
        return handed.model_copy(
            update={
                "agent_run_id": own.agent_run_id,
                "result": json_of(handed.result) if handed.result_schema is None else handed.result,
                "tool_results": [*own.tool_results, *handed.tool_results],
                "total_steps": own.total_steps + handed.total_steps,
                "usage": add_usage(own.usage, handed.usage),
                "stop_reason": "handoff" if handed.stop_reason == "completed" else handed.stop_reason,
                "cost_microdollars": own.cost_microdollars,
                "spent_tokens": own.spent_tokens,
                "calls": own.calls,
            }
        )

    # ------------------------------------------------------------------------------------ the answer

    async def _answer(self, reason: str) -> tuple[Any, str | None]:
        """Give the answer, and the path of its type."""
        if self.handed is not None:
            return None, None
        text = self.steps[-1].content if self.steps else None
        if text is None:
            text = next((step.content for step in reversed(self.steps) if step.content), None)
        model = self.agent.result_output_schema
        if model is None:
            return text, None
        if reason not in ("completed", *_CUT):
            try:  # the model wasn't asked for its answer: what it said may be one
                return typed_answer(read_answer(model, text))
            except ValueError:
                return text, None
        try:
            return typed_answer(read_answer(model, text))
        except ValueError as misfit:
            return typed_answer(await self._repaired(str(misfit)))

    async def _repaired(self, why: str) -> BaseModel:
        """Tell the model why its answer can't be used, and ask once more."""
        model, schema = self.agent.result_output_schema, self.agent.answer_schema
        assert model is not None
        assert schema is not None
        self.conversation.append(user_item(repair_message(schema, why)))
        content: str | None = None
        for _ in range(MAX_STEPS):
            self.turn += 1
            if not await self.asking.may_ask(self.turn):
                raise OutputInvalid(f"agent {self.agent.id!r} gave no usable answer ({why}), and its budget is used up")
            reply = await self.asking.ask(self.turn, own_tools=False)
            self.conversation.append_reply(reply.items)
            usage = plain_usage(reply.usage)
            self.steps.append(Step(step=self.turn, content=reply.content, usage=usage, raw_output=reply.items))
            content = reply.content
            if reply.stop_reason != "pause":  # the provider's own tools take long: asked again, the model goes on
                break
        try:
            return read_answer(model, content)
        except ValueError as misfit:
            raise StepExecutionError(f"agent {self.agent.id!r} gave no usable answer, twice: {misfit}") from misfit


def _is_of_call(item: Item, calls: set[str]) -> bool:
    return item.get("type") in ("function_call", "function_call_output") and item.get("call_id") in calls
