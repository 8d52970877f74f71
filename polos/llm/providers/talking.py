"""
Talking to a server through an SDK: time limits, and errors that are ours.

Both SDKs are used in the same narrow way. A request is a body that we wrote and an answer is JSON that we read; what
the SDKs are for is everything in between: authentication, connections, HTTP errors, the parsing of event streams.
Their own retries are off, as whoever calls records each attempt. Their typed replies aren't used either: those drop
or reorder what they don't know, and a conversation has to come back to its server as it was.

A stream has a limit for silence and none for its length. An answer in one piece is silent by nature, so its limit is
another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from polos.errors import ModelError
from polos.llm.providers.failures import Told, connection_failure, failure, fell_silent, malformed, told_by

__all__ = ["Limits", "Line", "checked_address"]

_T = TypeVar("_T")
CONNECT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Limits:
    """
    How long to wait.

    Attributes:
        timeout_seconds: for an answer in one piece.
        idle_timeout_seconds: for the next piece of a stream, the first one included.
    """

    timeout_seconds: float
    idle_timeout_seconds: float

    def __post_init__(self) -> None:
        """Refuse limits that nothing can keep."""
        for name in ("timeout_seconds", "idle_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, it is {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Line:
    """
    One call, and what is known of it when it fails.

    Attributes:
        provider: who is called.
        model: which model.
        secrets: what no error may repeat.
        status_errors: the SDK's exceptions that carry an HTTP answer.
        sdk_errors: all its other exceptions.
        limits: how long to wait.
    """

    provider: str
    model: str
    secrets: tuple[str, ...]
    status_errors: type[Exception]
    sdk_errors: tuple[type[Exception], ...]
    limits: Limits

    async def whole(self, call: Callable[[Any], Awaitable[_T]], *, seconds: float | None = None) -> _T:
        """
        Make a call that answers in one piece.

        Args:
            call: what makes it, given the limits of the connection.
            seconds: how long to wait, if not for so long as the limits say.

        Raises:
            ModelError: it failed.
        """
        seconds = seconds or self.limits.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await call(self.connection(seconds))
        except self._theirs as error:
            raise self._ours(error, seconds, "timeout_seconds") from None

    async def events(
        self, call: Callable[[Any], Awaitable[Any]], *, seconds: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """
        Make a call that answers with a stream, and give its events; the stream is closed in any case.

        Args:
            call: what makes it, given the limits of the connection.
            seconds: how long it may be silent, if not for so long as the limits say.

        Raises:
            ModelError: it failed, or fell silent.
        """
        seconds = seconds or self.limits.idle_timeout_seconds
        stream: Any = None
        try:
            async with asyncio.timeout(seconds):
                stream = await call(self.connection(seconds))
            events = aiter(stream)
            while True:
                async with asyncio.timeout(seconds):
                    event = await anext(events, None)
                if event is None:
                    return
                yield event
        except self._theirs as error:
            raise self._ours(error, seconds, "idle_timeout_seconds") from None
        finally:
            if stream is not None:
                await stream.close()

    @property
    def _theirs(self) -> tuple[type[Exception], ...]:
        # What is no UTF-8 and what is no JSON comes out of the SDKs as it is, a ValueError.
        return (self.status_errors, *self.sdk_errors, TimeoutError, ValueError)

    def connection(self, silence_seconds: float) -> Any:
        """Give the limits of a connection: it is made soon or not at all, and then may be silent for so long."""
        import httpx2

        return httpx2.Timeout(silence_seconds, connect=min(CONNECT_SECONDS, silence_seconds))

    def _ours(self, error: Exception, seconds: float, setting: str) -> ModelError:
        """Give our error for theirs."""
        who: dict[str, Any] = {"provider": self.provider, "model": self.model}
        if isinstance(error, self.status_errors):
            return failure(told_by(error, **who, secrets=self.secrets))
        if isinstance(error, TimeoutError):
            return fell_silent(seconds, **who, setting=setting)
        if getattr(error, "body", None) is not None:  # an error within a stream
            return failure(Told(**who, body=getattr(error, "body", None), text=str(error), secrets=self.secrets))
        if isinstance(error, ValueError):
            return malformed(str(error), **who, secrets=self.secrets)
        return connection_failure(error, **who, secrets=self.secrets)


def checked_address(base_url: str | None) -> str | None:
    """
    Give the address of a server, if it is one.

    Raises:
        ValueError: it isn't.
    """
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base_url must begin with http:// or https://, it is {base_url!r}")
    return base_url
