"""
Budgets: what an agent's run may spend, reserved before each call of a model and settled after it.

The books are kept by the loop, which is replayed: every amount is counted once, however often the process dies, and a
call that was tried three times is one call. What a call will use isn't known before, so what it may use is reserved:
the tokens of the conversation, as far as the last call told them, and the longest answer. A call whose reservation
doesn't fit isn't made. Agents that are asked by an agent get a share of what is left, and are settled by what they
used; one that fails is settled by its whole share, as nobody knows what it used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polos.types.llm import Usage

__all__ = ["Amount", "Budget", "BudgetExceeded", "Ledger"]

MICRODOLLARS = 1_000_000


class BudgetExceeded(RuntimeError):
    """An agent's budget doesn't allow for another call of its model."""


class Budget(BaseModel):
    """
    What a run of an agent may spend, the agents that it asks included.

    ```python run
    from polos import Agent, Budget

    careful = Agent(
        id="careful", provider="openai", model="gpt-5", budget=Budget(dollars=0.50, calls=20, on_breach="stop")
    )
    print(careful.budget.calls)
    ```

    Attributes:
        tokens: of all calls together, input and output.
        dollars: of all calls together; needs a price for the model.
        calls: how many calls there may be.
        on_breach: "stop" ends the run with what it has; "suspend" asks a person for more; "switch" goes on with
            another model.
        switch_to: that model.
        answer_tokens: what is reserved for an answer of a model that has no limit of its own.
    """

    model_config = ConfigDict(extra="forbid")

    tokens: int | None = Field(default=None, gt=0)
    dollars: float | None = Field(default=None, gt=0)
    calls: int | None = Field(default=None, gt=0)
    on_breach: Literal["stop", "suspend", "switch"] = "stop"
    switch_to: str | None = None
    answer_tokens: int = Field(default=1_000, gt=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Budget:
        if self.tokens is None and self.dollars is None and self.calls is None:
            raise ValueError("a budget needs tokens, dollars or calls")
        if (self.on_breach == "switch") != (self.switch_to is not None):
            raise ValueError("switch_to names the model of on_breach='switch', and belongs to it")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """
    What calls use.

    Attributes:
        tokens: input and output.
        microdollars: millionths of a dollar; None if a price isn't known.
        calls: how many.
    """

    tokens: int = 0
    microdollars: int | None = 0
    calls: int = 0

    def __add__(self, other: Amount) -> Amount:
        """Give both together."""
        known = (
            None if self.microdollars is None or other.microdollars is None else self.microdollars + other.microdollars
        )
        return Amount(tokens=self.tokens + other.tokens, microdollars=known, calls=self.calls + other.calls)

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {"tokens": self.tokens, "microdollars": self.microdollars, "calls": self.calls}

    @classmethod
    def of(cls, told: Any) -> Amount:
        """Read what `to_json` gave."""
        return cls(tokens=told["tokens"], microdollars=told["microdollars"], calls=told["calls"])


@final
@dataclass(slots=True)
class Ledger:
    """What a run has spent, what is reserved, and what it may spend."""

    budget: Budget | None = None
    granted: Amount = field(default_factory=Amount)  # beside the budget: by a person
    spent: Amount = field(default_factory=Amount)
    reserved: dict[str, Amount] = field(default_factory=dict[str, Amount])
    usage: Usage = field(default_factory=Usage)

    def refuses(self, wanted: Amount) -> str | None:
        """Say why an amount can't be reserved; None if it can."""
        budget = self.budget
        if budget is None:
            return None
        after = wanted + self.spent
        for amount in self.reserved.values():
            after += amount
        if budget.calls is not None and after.calls > budget.calls + self.granted.calls:
            return f"{budget.calls + self.granted.calls} calls"
        if budget.tokens is not None and after.tokens > budget.tokens + self.granted.tokens:
            return f"{budget.tokens + self.granted.tokens} tokens"
        if budget.dollars is not None:
            limit = round(budget.dollars * MICRODOLLARS) + (self.granted.microdollars or 0)
            if after.microdollars is None:
                return f"{limit / MICRODOLLARS} dollars, and the price of the model isn't known"
            if after.microdollars > limit:
                return f"{limit / MICRODOLLARS} dollars"
        return None

    def reserve(self, name: str, wanted: Amount) -> None:
        """Set an amount aside, under a name."""
        self.reserved[name] = wanted

    def settle(self, name: str, used: Amount | None) -> None:
        """Count what was used instead of what was set aside; None counts what was set aside."""
        set_aside = self.reserved.pop(name, Amount())
        self.spent += set_aside if used is None else used

    @property
    def used_up(self) -> bool:
        """Whether no call is left: not one, for whomever it would be."""
        budget = self.budget
        if budget is None or budget.calls is None:
            return False
        held = self.spent.calls + sum(amount.calls for amount in self.reserved.values())
        return held >= budget.calls + self.granted.calls

    def left(self, share: int = 1) -> Budget | None:
        """
        Give a part of what is left, as a budget for somebody else.

        Args:
            share: into how many parts it is divided.

        Returns:
            None if there is no budget; an agent that may spend nothing gets the smallest there is.
        """
        budget = self.budget
        if budget is None:
            return None
        held = self.spent
        for amount in self.reserved.values():
            held += amount
        tokens = None if budget.tokens is None else max(1, (budget.tokens + self.granted.tokens - held.tokens) // share)
        calls = None if budget.calls is None else max(1, (budget.calls + self.granted.calls - held.calls) // share)
        dollars = None
        if budget.dollars is not None:
            limit = round(budget.dollars * MICRODOLLARS) + (self.granted.microdollars or 0)
            dollars = max(1, (limit - (held.microdollars or 0)) // share) / MICRODOLLARS
        return Budget(tokens=tokens, calls=calls, dollars=dollars, answer_tokens=budget.answer_tokens)


def plain_usage(one: Usage) -> Usage:
    """Give the usage of a call as hooks get it and may give it back: what providers count besides isn't in it."""
    return Usage.model_validate({name: getattr(one, name) for name in Usage.model_fields})


def add_usage(total: Usage, one: Usage) -> Usage:
    """Give the usage of both together."""

    def both(first: int | None, second: int | None) -> int | None:
        return second if first is None else first if second is None else first + second

    return Usage(
        input_tokens=total.input_tokens + one.input_tokens,
        output_tokens=total.output_tokens + one.output_tokens,
        total_tokens=total.total_tokens + one.total_tokens,
        cache_read_input_tokens=both(total.cache_read_input_tokens, one.cache_read_input_tokens),
        cache_creation_input_tokens=both(total.cache_creation_input_tokens, one.cache_creation_input_tokens),
    )
