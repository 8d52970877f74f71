"""
Servers of models for tests, without a socket: answers as bytes, in any chunks, with any end.

The SDKs are real, and so is everything of theirs that parses; only what would be the network is ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx2
from polos.llm import Finished, LLMDelta, LLMRequest, LLMResponse, ModelProvider, get_provider

KEY = "sk-secret-0123456789"


def sse(events: Iterable[Any], *, named: bool = False) -> bytes:
    """Write events as a server sends them; a text is sent as it is."""
    lines = []
    for event in events:
        name = f"event: {event['type']}\n" if named and isinstance(event, dict) else ""
        lines.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
    return "".join(lines).encode()


class Body(httpx2.AsyncByteStream):
    """The bytes of an answer in given chunks, and what happens after them."""

    def __init__(self, chunks: Iterable[bytes], *, end: Exception | str | None = None) -> None:
        """Take the chunks; then the answer ends, an exception is raised, or nothing comes any more (`stall`)."""
        self.chunks = list(chunks)
        self.end = end
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the chunks."""
        for chunk in self.chunks:
            yield chunk
        if isinstance(self.end, Exception):
            raise self.end
        if self.end == "stall":
            await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        """Note that nobody reads any more."""
        self.closed = True


class Server:
    """A server that answers from a list, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        """Take answers: JSON, bytes or a `Body` of a stream, an exception, or a whole `httpx2.Response`."""
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        if isinstance(answer, bytes):
            answer = Body([answer])
        if isinstance(answer, Body):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=answer)
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=json.dumps(answer))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was asked, as JSON."""
        return [json.loads(request.content) for request in self.requests]

    def provider(self, name: str, **settings: Any) -> ModelProvider:
        """Give a provider that calls this server."""
        settings.setdefault("api_key", KEY)
        settings.setdefault("http_client", httpx2.AsyncClient(transport=httpx2.MockTransport(self)))
        return get_provider(name, **settings)


def generate(provider: ModelProvider, request: LLMRequest) -> LLMResponse:
    """Ask for a reply in one piece."""
    return asyncio.run(provider.generate(request))


def stream(provider: ModelProvider, request: LLMRequest, seen: list[LLMDelta] | None = None) -> list[LLMDelta]:
    """Ask for a reply in pieces; `seen` gets those before an error, too."""
    pieces = [] if seen is None else seen

    async def collect() -> None:
        async for piece in provider.stream(request):
            pieces.append(piece)  # what came before an error counts

    asyncio.run(collect())
    return pieces


def whole(pieces: list[LLMDelta]) -> LLMResponse:
    """Give the whole reply with which a stream ends."""
    end = pieces[-1]
    assert isinstance(end, Finished)
    return end.response


def failing(status: int, body: Any = None, **headers: str) -> httpx2.Response:
    """Make an answer that tells of a failure."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, str):
        return httpx2.Response(status, headers=named, text=body)
    return httpx2.Response(status, headers=named, json={} if body is None else body)


Asking = Callable[[ModelProvider, LLMRequest], Any]
