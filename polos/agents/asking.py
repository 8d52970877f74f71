"""
Asking the agent's model: the request, its record, the step, the books.

The request of a turn is recorded before the step that makes it, in the same commit; what it used is recorded behind it
with the next one. Both are values of the run, kept once, so a replay counts nothing twice.

What a budget in dollars decides depends on prices, and the table of prices is a file that changes while runs live. So
such a run records the price of each model when it first counts with it, and keeps to that: a replay under another table
reserves, settles and decides as the run did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from polos.agents.agent import Agent
from polos.agents.budget import Amount, BudgetExceeded, Ledger, add_usage
from polos.agents.conversation import Conversation
from polos.agents.models import FINAL, ModelCall, call_model
from polos.context import WorkflowContext
from polos.engine.json import Json
from polos.engine.usage import REQUEST, USAGE
from polos.llm.digests import digest_of
from polos.llm.jsonish import a_number, an_object
from polos.llm.messages import Item, LLMRequest, LLMResponse, ToolSpec
from polos.llm.prices import ModelPrice, default_prices
from polos.memory.compaction import estimate_tokens, tokens_of
from polos.types.agents import AgentConfig
from polos.types.llm import Usage

__all__ = ["Asking"]


@final
@dataclass(slots=True)
class Asking:
    """What a run needs to ask its model."""

    agent: Agent
    ctx: WorkflowContext
    ledger: Ledger
    conversation: Conversation
    config: AgentConfig
    streaming: bool
    _known: int | None = None  # tokens of the conversation, as the provider counted them
    _known_items: int = 0  # how many messages that was
    _grants: int = 0
    _prices: dict[str, ModelPrice | None] = field(default_factory=dict[str, "ModelPrice | None"])

    # -------------------------------------------------------------------------------------- sizes

    def known_tokens(self) -> int | None:
        """Give the size of the conversation: what the provider counted, and an estimate of what came since."""
        if self._known is None:
            return None
        return self._known + sum(tokens_of(item) for item in self.conversation.items[self._known_items :])

    def forget_size(self) -> None:
        """The conversation is another one."""
        self._known = None

    def _size(self) -> int:
        known = self.known_tokens()
        if known is not None:
            return known
        return estimate_tokens(self.config.system_prompt or "") + sum(tokens_of(i) for i in self.conversation.items)

    # ------------------------------------------------------------------------------------- budgets

    async def may_ask(self, turn: int, aside: list[Item] | None = None) -> bool:
        """
        Reserve what the next call may use.

        Args:
            turn: the agent's turn.
            aside: what is asked, if it isn't the conversation.

        Returns:
            False if the budget doesn't allow for it and the loop has to end.
        """
        if self.ledger.budget is None:
            return True  # nothing can be refused, so nothing is estimated
        while True:
            wanted = await self._wanted(aside)
            refused = self.ledger.refuses(wanted)
            if refused is None:
                self.ledger.reserve("call", wanted)
                return True
            budget = self.ledger.budget
            assert budget is not None
            if budget.on_breach == "suspend" and await self._granted(turn, refused):
                continue
            if budget.on_breach == "switch" and self.config.model != budget.switch_to:
                self.config = self.config.model_copy(update={"model": budget.switch_to})
                # What is left is for the cheaper model: its own reservation may fit where the other's didn't.
                if self.ledger.refuses(await self._wanted(aside)) is None:
                    continue
            return False

    async def _wanted(self, aside: list[Item] | None) -> Amount:
        budget = self.ledger.budget
        answer = self.config.max_output_tokens or (budget.answer_tokens if budget is not None else 0)
        size = self._size() if aside is None else sum(tokens_of(item) for item in aside)
        cost = await self._cost(self.config.model, Usage(input_tokens=size, output_tokens=answer))
        return Amount(tokens=size + answer, microdollars=cost, calls=1)

    async def _cost(self, model: str, usage: Usage) -> int | None:
        """Give what a call costs in micro-dollars; with a budget in dollars, by the price that the run began with."""
        budget = self.ledger.budget
        if budget is None or budget.dollars is None:
            return default_prices().cost_microdollars(model, usage)
        if model not in self._prices:
            recorded = await self.ctx.require_port().record(f"price:{model}", "price", lambda: _price(model))
            told = an_object(recorded)
            self._prices[model] = None if told is None else ModelPrice.of(told)
        price = self._prices[model]
        return None if price is None else price.cost_microdollars(usage)

    async def _granted(self, turn: int, refused: str) -> bool:
        """Ask a person for more; tells whether there is more."""
        self._grants += 1
        key = f"budget_{self.agent.id}_{self._grants}"
        fields = [
            {"key": "approved", "type": "boolean", "label": "Go on?", "required": True, "default": False},
            {"key": "calls", "type": "number", "label": "More calls", "required": False},
            {"key": "tokens", "type": "number", "label": "More tokens", "required": False},
            {"key": "dollars", "type": "number", "label": "More dollars", "required": False},
        ]
        spent = self.ledger.spent.to_json()
        context = {"agent": self.agent.id, "turn": turn, "limit": refused, "spent": spent}
        form = {"title": f"Agent {self.agent.id} has used its budget", "fields": fields, "context": context}
        answer = await self.ctx.step.suspend(key, {"_form": form, "_source": "agent_budget", "_tool": self.agent.id})
        told = an_object(answer.data) or {}
        if told.get("approved") is not True:
            return False
        dollars = told.get("dollars")
        self.ledger.granted += Amount(
            tokens=a_number(told.get("tokens")) or 0,
            calls=a_number(told.get("calls")) or 0,
            microdollars=round(dollars * 1e6) if isinstance(dollars, int | float) and dollars > 0 else 0,
        )
        return True

    # ------------------------------------------------------------------------------------- asking

    async def ask(self, turn: int, *, own_tools: bool = True, guarded: bool = False) -> LLMResponse:
        """
        Ask the model to go on with the conversation; what it may use was reserved.

        Args:
            turn: the agent's turn.
            own_tools: whether it may call the program's tools; those of the provider it has in any case, since a
                conversation that they were used in is refused without them.
            guarded: whether the reply is looked at before anybody sees it.

        Raises:
            StepExecutionError: every attempt failed.
        """
        streams = self.streaming and not guarded
        specs = self.agent.specs_of(self.config)
        tools = specs if own_tools else [spec for spec in specs if spec.native is not None]
        request = self._request(self.conversation.items, tools=tools, stream=streams)
        name = f"llm_stream:{turn}" if streams else f"llm_generate:{turn}"
        reply = await self._call(name, turn, request, self.conversation)
        self._known = reply.usage.input_tokens + reply.usage.output_tokens or None
        self._known_items = len(self.conversation) + len(reply.items)
        return reply

    async def aside(
        self, name: str, turn: int, items: list[Item], *,
        schema: dict[str, Any] | None = None, schema_name: str | None = None,
    ) -> LLMResponse:  # fmt: skip
        """
        Ask the model something beside the conversation: for a summary, or whether a rule is kept.

        Args:
            name: of the step.
            turn: the agent's turn.
            items: what it is asked.
            schema: what the answer has to fit.
            schema_name: name of that.

        Raises:
            BudgetExceeded: the budget doesn't allow for it.
            StepExecutionError: every attempt failed.
        """
        if not await self.may_ask(turn, items):
            raise BudgetExceeded(f"the budget of agent {self.agent.id!r} doesn't allow for {name}")
        request = self._request(items, tools=[], stream=False)
        request = request.model_copy(
            update={"system": None, "output_schema": schema, "output_schema_name": schema_name}
        )
        return await self._call(name, 0, request, Conversation(items, aside=True))

    def _request(self, items: list[Item], *, tools: list[ToolSpec], stream: bool) -> LLMRequest:
        config = self.config
        return LLMRequest(
            provider=config.provider,
            model=config.model,
            system=config.system_prompt,
            items=items,
            tools=tools,
            output_schema=config.output_schema,
            output_schema_name=config.output_schema_name,
            temperature=config.temperature,
            max_output_tokens=config.max_output_tokens,
            top_p=config.top_p,
            provider_kwargs=config.provider_kwargs or {},
            stream=stream,
        )

    async def _call(self, name: str, turn: int, request: LLMRequest, conversation: Conversation) -> LLMResponse:
        port = self.ctx.require_port()
        record = conversation.record(request)
        digest = digest_of({key: value for key, value in record.items() if key != "stored"})
        await port.note(f"request:{name}", REQUEST, record)
        call = ModelCall(request, self.agent.settings_of(self.config), turn)
        policy, timeout = self.agent.model_retries, self.agent.model_timeout_seconds
        reply = await self.ctx.step.run(
            name, call_model, digest, call,
            max_retries=policy.max_retries, base_delay=policy.base_delay_seconds, max_delay=policy.max_delay_seconds,
            jitter=policy.jitter, non_retryable=(*policy.non_retryable, *FINAL),
            **({} if policy.retry_on is None else {"retry_on": policy.retry_on}),
            **({} if timeout is None else {"timeout_seconds": timeout}),
        )  # fmt: skip
        await self._settle(name, request, reply)
        return reply

    async def _settle(self, name: str, request: LLMRequest, reply: LLMResponse) -> None:
        """Count what a call used."""
        usage = reply.usage
        cost = await self._cost(request.model, usage)
        used = Amount(tokens=usage.input_tokens + usage.output_tokens, microdollars=cost, calls=1)
        record: dict[str, Json] = {
            "provider": request.provider, "model": request.model, "microdollars": cost,
            **usage.model_dump(exclude_none=True),
        }  # fmt: skip
        await self.ctx.require_port().note(f"usage:{name}", USAGE, record)
        self.ledger.settle("call", used)
        self.ledger.usage = add_usage(self.ledger.usage, usage)


def _price(model: str) -> Json:
    price = default_prices().price_of(model)
    return None if price is None else price.to_json()
