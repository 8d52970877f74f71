"""
What went wrong with a call, told in one way for all providers.

The question that matters is whether trying again may help, and providers answer it in many places: the HTTP status,
a code or a type in the body, an event in the middle of a stream that began with status 200, or only in the words of
the message (that a conversation is too long is said in no other way by most servers). All of it is read here, once,
so that who calls a model sees classes of `polos.errors` and nothing else.

Texts from outside are scrubbed and cut. Some servers repeat the key that they refuse, and errors are recorded for
ever. For the same reason the exceptions of an SDK are never a `__cause__`: their text would stand in the traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from polos.errors import (
    ContextTooLong,
    ModelAccessDenied,
    ModelConnectionFailed,
    ModelContentRefused,
    ModelError,
    ModelRateLimited,
    ModelReplyMalformed,
    ModelRequestRefused,
    ModelUnavailable,
)
from polos.llm.jsonish import a_text, an_object

__all__ = [
    "Told",
    "connection_failure",
    "failure",
    "fell_silent",
    "malformed",
    "retry_after_seconds",
    "scrubbed",
    "told_by",
]

_TEXT_CHARACTERS_MAX: Final = 2_000

# What stands for a status in an error within a stream, which has begun with 200.
_STATUS_OF: Final = {
    "api_error": 500,
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "server_error": 500,
    "timeout_error": 504,
}
_NO_MONEY: Final = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"}
)
_FORBIDDEN: Final = frozenset(
    {"content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked"}
    | {"responsible_ai_policy_violation"}
)
_TOO_LONG: Final = re.compile(
    r"maximum context length|context.?(?:length|window|size)|(?:prompt|input) is too long|too many (?:input )?tokens"
    r"|exceeds? the (?:available )?context|reduce the length|string too long",
    re.IGNORECASE,
)
_KEYS: Final = re.compile(
    r"\b(?:sk|pk|rk|key|gsk|fw|xai|tgp)[-_][\w*.-]{6,}|\bAIza[\w-]{10,}|(?<=Bearer )[^\s\"',]+", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """
    What was told of a failure.

    Attributes:
        provider: who was asked.
        model: which model.
        status: the HTTP status; None within a stream.
        body: of the answer, or the error of the stream's event.
        headers: of the answer; names in lower case.
        text: what the SDK says, if the body says nothing.
        secrets: what must not be repeated.
    """

    provider: str
    model: str
    status: int | None = None
    body: object = None
    headers: Mapping[str, str] | None = None
    text: str = ""
    secrets: Iterable[str] = ()


def told_by(error: Any, *, provider: str, model: str, secrets: Iterable[str]) -> Told:
    """Read what an SDK's exception of an HTTP status tells."""
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    # Within a stream the answer's own status is that of its beginning.
    status = error.status_code if error.status_code >= 400 else None
    return Told(
        provider=provider, model=model, status=status, body=error.body, headers=headers, text=str(error),
        secrets=tuple(secrets),
    )  # fmt: skip


def failure(told: Told) -> ModelError:
    """Give the error for what was told."""
    body = an_object(told.body) or {}
    inner = an_object(body.get("error")) or body
    names = {name for name in (a_text(inner.get("code")), a_text(inner.get("type"))) if name}
    message = scrubbed(a_text(inner.get("message")) or told.text or "it says no more", told.secrets)
    status = told.status or next((_STATUS_OF[name] for name in sorted(names) if name in _STATUS_OF), None)
    cls = _class_of(status, names, message)
    headers = told.headers or {}
    where = f"HTTP {told.status}" if told.status else ", ".join(sorted(names)) or "in its stream"
    return cls(
        f"{told.provider} gave no reply of {told.model} ({where}): {message}",
        provider=told.provider,
        model=told.model,
        status=status,
        retry_after_seconds=retry_after_seconds(headers),
        request_id=headers.get("x-request-id") or headers.get("request-id"),
    )


def _class_of(status: int | None, names: set[str], message: str) -> type[ModelError]:
    if names & _NO_MONEY:
        return ModelAccessDenied
    if "context_length_exceeded" in names:
        return ContextTooLong
    if names & _FORBIDDEN:
        return ModelContentRefused
    match status:
        case 401 | 402 | 403:
            return ModelAccessDenied
        case 413:
            return ContextTooLong
        case 429:
            return ModelRateLimited
        case 408 | 409 | 425 | None:
            return ModelUnavailable
        case _ if status >= 500:
            return ModelUnavailable
        case _:
            return ContextTooLong if _TOO_LONG.search(message) else ModelRequestRefused


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """
    Read when to come back.

    A date counts from the answer's own date, so that no clock of ours has to agree with the server's.

    Returns:
        Seconds, more than 0; None if nothing is said, or nothing that can be read.
    """
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = float(headers.get("retry-after", ""))
    except ValueError:
        try:
            back, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
            seconds = (back - now).total_seconds()
        except (KeyError, TypeError, ValueError):
            return None
    return seconds if 0 < seconds < float("inf") else None


def connection_failure(error: BaseException, *, provider: str, model: str, secrets: Iterable[str]) -> ModelError:
    """Give the error for a connection that couldn't be made or broke; the innermost exception tells most."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = scrubbed(str(cause), secrets)
    return ModelConnectionFailed(
        f"the connection to {provider} for {model} failed: {type(cause).__name__}: {said}",
        provider=provider,
        model=model,
    )


def fell_silent(seconds: float, *, provider: str, model: str, setting: str) -> ModelError:
    """Give the error for nothing having come for too long."""
    said = f"nothing came from {provider} for {seconds:g} s, a limit that {setting} sets"
    return ModelConnectionFailed(said, provider=provider, model=model)


def malformed(what: str, *, provider: str, model: str, secrets: Iterable[str] = ()) -> ModelError:
    """Give the error for something that is no reply."""
    said = scrubbed(what, secrets)
    return ModelReplyMalformed(f"what {provider} sent is no reply of {model}: {said}", provider=provider, model=model)


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """Give a text without secrets, without anything that looks like a key, and no longer than is useful."""
    for secret in secrets:
        if len(secret) > 3:
            text = text.replace(secret, "[key]")
    text = _KEYS.sub("[key]", text)
    return text if len(text) <= _TEXT_CHARACTERS_MAX else text[:_TEXT_CHARACTERS_MAX] + "…"
