"""
Requests and messages by their digest.

A conversation grows by a message a turn, and each turn sends all of it again. A log that kept each request would grow
with the square of the turns; so an **outline** of a request is kept, with a digest in the place of each message, and
each message once, under that digest.

A digest is SHA-256 over canonical JSON: UTF-8, keys sorted, no blanks. It is the same in every process and on every
Python, and it doesn't change when a message is written and read again. Numbers are part of the text, so `1` and `1.0`
differ, as they do for a provider. How a request travels (`stream`) isn't asked of the model and is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import orjson

from polos.llm.messages import LLMRequest

__all__ = ["canonical_json", "digest_of", "request_digest", "request_outline"]

_OUTLINE_VERSION: Final = 1


def canonical_json(value: object) -> bytes:
    """
    Write JSON in the one way that digests are made of.

    Args:
        value: JSON, keys being text.

    Raises:
        TypeError: it isn't JSON.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest_of(value: object) -> str:
    """
    Give the digest of JSON, such as an item of a conversation.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


def request_outline(request: LLMRequest, *, item_digests: Sequence[str] | None = None) -> dict[str, Any]:
    """
    Give what stands for a request in a log: everything that is asked, long parts by their digest.

    Args:
        request: the request.
        item_digests: digests of its items, if the caller has kept them; they are computed otherwise, all of them.

    Returns:
        JSON: `version`, `provider`, `model`, `settings`, the digests `items` (one each), `system`, `tools` and
        `output_schema` (None where there is none).
    """
    digests = [digest_of(item) for item in request.items] if item_digests is None else list(item_digests)
    assert len(digests) == len(request.items), "each item has its digest"
    settings = request.model_dump(include={"temperature", "max_output_tokens", "top_p", "provider_kwargs"})
    tools = [tool.model_dump(exclude_defaults=True) for tool in request.tools]
    schema = None if request.output_schema is None else [request.output_schema_name, request.output_schema]
    return {
        "version": _OUTLINE_VERSION,
        "provider": request.provider,
        "model": request.model,
        "settings": {name: value for name, value in settings.items() if value not in (None, {})},
        "system": None if request.system is None else digest_of(request.system),
        "items": digests,
        "tools": digest_of(tools) if tools else None,
        "output_schema": None if schema is None else digest_of(schema),
    }


def request_digest(request: LLMRequest | dict[str, Any], *, item_digests: Sequence[str] | None = None) -> str:
    """
    Give the digest of a request, or of its outline.

    Args:
        request: either of them; both give the same.
        item_digests: as for `request_outline`.

    Returns:
        64 hexadecimal digits.
    """
    outline = request if isinstance(request, dict) else request_outline(request, item_digests=item_digests)
    return digest_of(outline)
