"""Agents and tools that break one promise each, on purpose; as `broken_parts`, put back afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from polos.agents import guarding
from polos.llm.messages import LLMResponse
from polos.tools import tool

__all__ = ["calls_twice", "forgets_the_arguments", "passes_what_was_refused", "schedules_without_a_record"]


def forgets_the_arguments(patch: pytest.MonkeyPatch) -> None:
    """An approval is for the tool, whatever it is called with."""
    patch.setattr(tool, "digest_arguments", lambda arguments, _: f"any call of {arguments[0]}")


def calls_twice(patch: pytest.MonkeyPatch) -> None:
    """A call is made, whatever was scheduled before a crash."""
    whole = tool._schedule

    async def schedule(context: Any, call: Any, effect: str) -> bool:
        await whole(context, call, effect)
        return True

    patch.setattr(tool, "_schedule", schedule)


def schedules_without_a_record(patch: pytest.MonkeyPatch) -> None:
    """A call is made without a record that names its approval."""

    async def schedule(context: Any, call: Any, effect: str) -> bool:
        return True

    patch.setattr(tool, "_schedule", schedule)


def passes_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """Guardrails are asked, and a refusal changes nothing."""
    whole = guarding._judge

    async def judge(asking: Any, turn: int, reply: LLMResponse, steps: Any) -> tuple[LLMResponse | None, str]:
        passed, _ = await whole(asking, turn, reply, steps)
        return passed or reply, ""

    patch.setattr(guarding, "_judge", judge)
