"""
Which model the programs talk to: the environment says it when a program is loaded.

So the same program is tried with each SDK and each interface, with replies in one piece and in many.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["model"]


def model(name: str = "example-model", *, streams: bool = True) -> dict[str, Any]:
    """
    Give the arguments of an `Agent` that say what it talks to.

    Args:
        name: of the model.
        streams: whether the environment may have the agent stream.
    """
    provider, _, llm_api = os.environ.get("EXAMPLE_MODEL", "openai").partition("/")
    found: dict[str, Any] = {"provider": provider, "model": name}
    if llm_api:
        found["provider_llm_api"] = llm_api
    if streams and os.environ.get("EXAMPLE_STREAMS"):
        found["stream_to_workflow"] = True
    return found
