"""
`provider="recorded"`: a model that answers what it answered before, and only to what it was asked before.

It is how an agent's prompts are tested without a network and without money: play a run again with its recorded
replies, and the first request that differs is reported, with the part that differs. A request is known by its digest
(`polos.llm.digests`). Requests made at the same time may come in another order, so each takes the first recorded call
of its digest that nobody has taken; where a conversation goes on from a reply, its order is in its items anyway.

Where recorded calls come from isn't known here: whoever reads a log makes `RecordedCall`s of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, Final, final

from polos.errors import ModelError, PolosUsageError, RecordingDiffers
from polos.llm.digests import request_digest, request_outline
from polos.llm.messages import LLMDelta, LLMRequest, LLMResponse
from polos.llm.providers.adapter import pieces_of

__all__ = ["RecordedCall", "RecordedProvider", "Recording"]

_PARTS: Final = ("provider", "model", "settings", "system", "tools", "output_schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """
    One call of a model that was made.

    Attributes:
        digest: of its request.
        response: the reply, or the error that it ended with.
        outline: of its request (`request_outline`), to say what differs; None if it wasn't kept.
    """

    digest: str
    response: LLMResponse | ModelError
    outline: dict[str, Any] | None = None

    @classmethod
    def of(cls, request: LLMRequest, response: LLMResponse | ModelError) -> RecordedCall:
        """Record a call."""
        outline = request_outline(request)
        return cls(digest=request_digest(outline), response=response, outline=outline)


@final
class Recording:
    """
    Calls that were made, in their order, and which of them were asked for again.

    ```python run
    import asyncio
    from polos.errors import RecordingDiffers
    from polos.llm import LLMRequest, LLMResponse, RecordedCall, Recording, get_provider, user_item

    asked = LLMRequest(model="any", items=[user_item("Hello")])
    recording = Recording([RecordedCall.of(asked, LLMResponse(content="Hi!"))])
    provider = get_provider("recorded", recording=recording)

    print(asyncio.run(provider.generate(asked)).content, recording.left)
    try:
        asyncio.run(provider.generate(asked))
    except RecordingDiffers as difference:
        print(difference)
    ```
    """

    def __init__(self, calls: Iterable[RecordedCall]) -> None:
        """Take the calls, oldest first."""
        self.calls = tuple(calls)
        self._taken: set[int] = set()

    @property
    def left(self) -> tuple[RecordedCall, ...]:
        """The calls that nobody has made again."""
        return tuple(call for index, call in enumerate(self.calls) if index not in self._taken)

    def take(self, request: LLMRequest) -> RecordedCall:
        """
        Give the recorded call of a request; each is given once.

        Raises:
            RecordingDiffers: none that is left was of this request.
        """
        # Who was recorded is part of the digest, and isn't who plays it.
        outlines = [request_outline(request)]
        recorded = {call.outline["provider"] for call in self.calls if call.outline is not None}
        outlines += [{**outlines[0], "provider": name} for name in sorted(recorded - {outlines[0]["provider"]})]
        digests = {request_digest(outline) for outline in outlines}
        left = [(index, call) for index, call in enumerate(self.calls) if index not in self._taken]
        for index, call in left:
            if call.digest in digests:
                self._taken.add(index)
                return call
        raise self._difference(outlines[0], left[0] if left else None)

    def _difference(self, asked: dict[str, Any], expected: tuple[int, RecordedCall] | None) -> RecordingDiffers:
        if expected is None:
            made = len(self.calls)
            return RecordingDiffers(f"the model was called once more than the {made} recorded times", index=made)
        index, call = expected
        if call.outline is None:
            return RecordingDiffers(f"call {index} of the recording was of another request", index=index)
        paths = _differing(call.outline, asked)
        what = ", ".join(paths)
        return RecordingDiffers(f"call {index} of the recording differs in {what}", index=index, paths=paths)


def _differing(recorded: dict[str, Any], asked: dict[str, Any]) -> tuple[str, ...]:
    """Name the parts of two outlines that differ: the first item of the conversation, and every other part."""
    found = [part for part in _PARTS if part != "provider" and recorded[part] != asked[part]]
    before, now = recorded["items"], asked["items"]
    first = next((i for i, (one, other) in enumerate(zip(before, now, strict=False)) if one != other), None)
    if first is None and len(before) != len(now):
        first = min(len(before), len(now))
    return tuple(found) if first is None else (*found, f"items[{first}]")


@final
class RecordedProvider:
    """A model that answers from a recording."""

    def __init__(self, *, recording: Recording | Iterable[RecordedCall] | None = None) -> None:
        """
        Take the recording; calls are made one.

        Raises:
            PolosUsageError: there is none.
        """
        if recording is None:
            raise PolosUsageError("the model provider 'recorded' needs a recording to answer from")
        self._recording = recording if isinstance(recording, Recording) else Recording(recording)

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """
        Give the recorded reply.

        Raises:
            RecordingDiffers: this request isn't next.
            ModelError: the recorded one.
        """
        await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, as every real call takes: no time passes
        response = self._recording.take(request).response
        if isinstance(response, ModelError):
            raise response
        return response

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """
        Give the recorded reply, its text in one piece: the pieces aren't part of a reply and aren't recorded.

        Raises:
            RecordingDiffers: this request isn't next.
            ModelError: the recorded one.
        """
        for piece in pieces_of(await self.generate(request)):
            yield piece

    async def aclose(self) -> None:
        """There is nothing to close."""
