"""
Providers that speak like OpenAI: a name, an address and the variable that holds the key.

Programs name them, so they have names here; what they get is `openai.py` with Chat Completions, at another address.
"""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = ["COMPATIBLE", "compatible_settings"]

# Address, and where the key is.
COMPATIBLE: Final[dict[str, tuple[str, str]]] = {
    "fireworks": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "ollama": ("http://127.0.0.1:11434", "OLLAMA_API_KEY"),
    "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
}


def compatible_settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """
    Give the settings of `OpenAIProvider` for a provider that speaks like it.

    Args:
        name: of the provider, one of `COMPATIBLE`.
        given: settings that count before those known here.
    """
    address, variable = COMPATIBLE[name]
    if name == "ollama":
        host = os.environ.get("OLLAMA_HOST") or address
        address = (host if "://" in host else f"http://{host}").rstrip("/") + "/v1"
    known = {"base_url": address, "llm_api": "chat_completions", "api_key": os.environ.get(variable) or None}
    return {**{key: value for key, value in known.items() if value is not None}, **given}
