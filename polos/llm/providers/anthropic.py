"""
`provider="anthropic"`: Anthropic's models. The only module that imports the SDK `anthropic`.

The SDK is loaded at the first call. Where no key is given, it looks for credentials in all the places it knows.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, final

from polos.errors import ModelAccessDenied
from polos.llm.messages import LLMDelta, LLMRequest, LLMResponse
from polos.llm.providers.anthropic_messages import PROVIDER, messages_body, messages_pieces, messages_reply
from polos.llm.providers.talking import Limits, Line, checked_address
from polos.llm.providers.transport import Options

__all__ = ["AnthropicProvider"]

_PATH: Final = "/v1/messages"


@final
class AnthropicProvider:
    """Anthropic's models, and those of servers that speak like it."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        idle_timeout_seconds: float = 300.0,
        http_client: Any = None,
    ) -> None:
        """
        Take the settings; nothing is connected and no SDK loaded before the first call.

        Args:
            base_url: the server, without `/v1`; by default `ANTHROPIC_BASE_URL`, or Anthropic's.
            api_key: by default `ANTHROPIC_API_KEY`, or what else the SDK finds.
            timeout_seconds: how long to wait for an answer in one piece.
            idle_timeout_seconds: how long a stream may be silent.
            http_client: an `httpx2.AsyncClient` to be used, and left open.

        Raises:
            ValueError: a setting makes no sense.
        """
        self._base_url = checked_address(base_url)
        self._api_key = api_key
        self._limits = Limits(timeout_seconds, idle_timeout_seconds)
        self._http_client = http_client
        self._client: Any = None

    def __repr__(self) -> str:
        return f"AnthropicProvider(base_url={self._base_url!r})"

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """
        Ask for a reply in one piece.

        Raises:
            ModelError: there is none.
        """
        client, line = self._open(request)
        body = messages_body(request, streamed=False)
        options = Options.of(body)
        told = await line.whole(
            lambda limits: client.post(_PATH, cast_to=object, body=body, options=options.for_sdk(limits)),
            seconds=options.timeout_seconds,
        )
        return messages_reply(told, request, secrets=line.secrets)

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """
        Ask for a reply in pieces.

        Raises:
            ModelError: there is none, or it broke off.
        """
        import anthropic

        client, line = self._open(request)
        body = {**messages_body(request, streamed=True), "stream": True}
        options = Options.of(body)
        events = line.events(
            lambda limits: client.post(
                _PATH,
                cast_to=object,
                body=body,
                options=options.for_sdk(limits),
                stream=True,
                stream_cls=anthropic.AsyncStream[object],
            ),
            seconds=options.timeout_seconds,
        )
        async with aclosing(events), aclosing(messages_pieces(events, request, secrets=line.secrets)) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        """Close connections, but for those of an `http_client` that was given."""
        client, self._client = self._client, None
        if client is not None and self._http_client is None:
            await client.close()

    def _open(self, request: LLMRequest) -> tuple[Any, Line]:
        import anthropic
        import httpx2

        key = self._api_key or os.environ.get("ANTHROPIC_API_KEY") or ""
        secrets = tuple(filter(None, (key, os.environ.get("ANTHROPIC_AUTH_TOKEN"))))
        if self._client is None:
            self._client = anthropic.AsyncAnthropic(
                api_key=key or None,
                base_url=self._base_url,
                max_retries=0,
                http_client=self._http_client,
            )
        if not secrets and getattr(self._client, "credentials", None) is None:
            what = "there is no key for Anthropic: set ANTHROPIC_API_KEY, or give api_key"
            raise ModelAccessDenied(what, provider=PROVIDER, model=request.model)
        line = Line(
            PROVIDER,
            request.model,
            secrets,
            anthropic.APIStatusError,
            (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL),
            self._limits,
        )
        return self._client, line
