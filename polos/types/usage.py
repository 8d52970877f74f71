"""What calls of models used and cost, as programs are told it."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["ModelUsage", "UsageReport"]


class ModelUsage(BaseModel):
    """
    What calls of one model used.

    Attributes:
        calls: how many there were; attempts of one call are one.
        input_tokens: all that was sent.
        output_tokens: all that was made.
        total_tokens: the two together.
        cache_read_input_tokens: how many of the input were read from the provider's cache.
        cache_creation_input_tokens: how many were written to it.
        reasoning_tokens: how many of the output were reasoning.
        microdollars: what they cost, in millionths of a dollar, without the calls that have no price.
        unpriced_calls: calls of which nobody knows what they cost.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_tokens: int = 0
    microdollars: int = 0
    unpriced_calls: int = 0

    @property
    def dollars(self) -> float:
        """What they cost, in dollars; for people, sums are of `microdollars`."""
        return self.microdollars / 1e6


class UsageReport(ModelUsage):
    """
    What calls of models used, together and by model; given by `client.usage`.

    Attributes:
        by_model: the same for each model, by name.
        runs: how many runs called a model.
    """

    by_model: dict[str, ModelUsage] = Field(default_factory=dict[str, ModelUsage])
    runs: int = 0
