"""Settings and results of shortening a conversation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from polos.llm.jsonish import an_object

__all__ = ["CompactionConfig", "CompactionResult", "SessionMemory"]


class CompactionConfig(BaseModel):
    """
    When and how a conversation is shortened.

    ```python run
    from polos.memory.types import CompactionConfig

    print(CompactionConfig(max_conversation_tokens=4_000).min_recent_messages)
    ```

    Attributes:
        max_conversation_tokens: from this size on.
        max_summary_tokens: a longer summary is summarised once more.
        min_recent_messages: the last ones, which stay as they are.
        enabled: whether it is done at all.

    None stands for what is so by default.
    """

    max_conversation_tokens: int = Field(default=80_000, gt=0)
    max_summary_tokens: int = Field(default=20_000, gt=0)
    min_recent_messages: int = Field(default=2, ge=0)
    enabled: bool = True

    @model_validator(mode="before")
    @classmethod
    def _said(cls, told: Any) -> Any:
        """Take None for what wasn't said, as programs do."""
        fields = an_object(told)
        return told if fields is None else {name: value for name, value in fields.items() if value is not None}


class CompactionResult(BaseModel):
    """
    What came of shortening a conversation.

    Attributes:
        compacted: whether anything was done.
        messages: the conversation now.
        summary: the summary that stands at its beginning; None if there is none.
        summary_tokens: its size.
        total_turns: how many messages went into it.
    """

    compacted: bool = False
    messages: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    summary: str | None = None
    summary_tokens: int = 0
    total_turns: int = 0


class SessionMemory(BaseModel):
    """
    What an agent remembers of a session.

    Attributes:
        summary: of what was said before the messages; None if nothing was shortened.
        messages: the conversation, as items.
    """

    summary: str | None = None
    messages: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
