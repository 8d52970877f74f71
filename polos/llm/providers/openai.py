"""
`provider="openai"`: OpenAI, and every server that speaks like it. The only module that imports the SDK `openai`.

Two interfaces, chosen by `llm_api`: Responses (`openai_responses.py`), and Chat Completions (`openai_chat.py`) for
servers that know only that. The SDK is loaded at the first call, as it takes longer than everything else of polos
together.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Literal, final

from polos.errors import ModelAccessDenied
from polos.llm.messages import LLMDelta, LLMRequest, LLMResponse
from polos.llm.providers.openai_chat import chat_body, chat_pieces, chat_reply
from polos.llm.providers.openai_responses import responses_body, responses_pieces, responses_reply, served_by
from polos.llm.providers.talking import Limits, Line, checked_address
from polos.llm.providers.transport import Options

__all__ = ["OpenAIProvider"]

_NO_KEY: Final = "no-key"  # the SDK wants one; servers that need none don't look at it


@final
class OpenAIProvider:
    """OpenAI's models, and those of servers that speak like it."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        llm_api: Literal["responses", "chat_completions"] = "responses",
        timeout_seconds: float = 600.0,
        idle_timeout_seconds: float = 300.0,
        http_client: Any = None,
    ) -> None:
        """
        Take the settings; nothing is connected and no SDK loaded before the first call.

        Args:
            base_url: the server, up to and with `/v1`; by default `OPENAI_BASE_URL`, or OpenAI's.
            api_key: by default `OPENAI_API_KEY`; servers at a `base_url` may need none.
            llm_api: which interface to speak.
            timeout_seconds: how long to wait for an answer in one piece.
            idle_timeout_seconds: how long a stream may be silent.
            http_client: an `httpx2.AsyncClient` to be used, and left open.

        Raises:
            ValueError: a setting makes no sense.
        """
        if llm_api not in ("responses", "chat_completions"):
            raise ValueError(f"llm_api must be 'responses' or 'chat_completions', it is {llm_api!r}")
        self._base_url = checked_address(base_url)
        self._api_key = api_key
        self._chat = llm_api == "chat_completions"
        self._limits = Limits(timeout_seconds, idle_timeout_seconds)
        self._http_client = http_client
        self._client: Any = None

    def __repr__(self) -> str:
        llm_api = "chat_completions" if self._chat else "responses"
        return f"OpenAIProvider(base_url={self._base_url!r}, llm_api={llm_api!r})"

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """
        Ask for a reply in one piece.

        Raises:
            ModelError: there is none.
        """
        client, line = self._open(request)
        path, body = self._written(request)
        options = Options.of(body)
        told = await line.whole(
            lambda limits: client.post(path, cast_to=object, body=body, options=options.for_sdk(limits)),
            seconds=options.timeout_seconds,
        )
        read = chat_reply if self._chat else responses_reply
        return read(told, request, secrets=line.secrets)

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """
        Ask for a reply in pieces.

        Raises:
            ModelError: there is none, or it broke off.
        """
        import openai

        client, line = self._open(request)
        path, body = self._written(request)
        body["stream"] = True
        if self._chat:
            body.setdefault("stream_options", {"include_usage": True})
        options = Options.of(body)
        events = line.events(
            lambda limits: client.post(
                path,
                cast_to=object,
                body=body,
                options=options.for_sdk(limits),
                stream=True,
                stream_cls=openai.AsyncStream[object],
            ),
            seconds=options.timeout_seconds,
        )
        read = chat_pieces if self._chat else responses_pieces
        async with aclosing(events), aclosing(read(events, request, secrets=line.secrets)) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        """Close connections, but for those of an `http_client` that was given."""
        client, self._client = self._client, None
        if client is not None and self._http_client is None:
            await client.close()

    def _written(self, request: LLMRequest) -> tuple[str, dict[str, Any]]:
        if not self._chat:
            return "/responses", responses_body(request)
        elsewhere = self._base_url is not None or bool(os.environ.get("OPENAI_BASE_URL"))
        return "/chat/completions", chat_body(request, own_server=elsewhere)

    def _open(self, request: LLMRequest) -> tuple[Any, Line]:
        import httpx2
        import openai

        key = self._api_key or os.environ.get("OPENAI_API_KEY") or ""
        if not key and self._base_url is None and not os.environ.get("OPENAI_BASE_URL"):
            what = "there is no key for OpenAI: set OPENAI_API_KEY, or give api_key"
            raise ModelAccessDenied(what, provider=served_by(request), model=request.model)
        if self._client is None:
            self._client = openai.AsyncOpenAI(
                api_key=key or _NO_KEY,
                base_url=self._base_url,
                max_retries=0,
                http_client=self._http_client,
            )
        line = Line(
            served_by(request),
            request.model,
            (key,) if key else (),
            openai.APIStatusError,
            (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL),
            self._limits,
        )
        return self._client, line
