"""What hooks, guardrails and stop conditions are told and answer, as dicts: the form in which programs keep it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel

__all__ = ["AsDict"]


class AsDict(BaseModel):
    """A model that gives itself as a dict and is read from one."""

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls.model_validate(data)
