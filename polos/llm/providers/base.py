"""
How a provider is found and what it does: one request in, one whole reply out.

There are two kinds of classes behind a name. A `ModelProvider` takes an `LLMRequest`. A class written for Polos takes
some ten arguments instead, and gives its pieces as dicts; `polos.llm.providers.adapter` puts it behind the same
interface. `get_provider` tells them apart by the signature of `generate`, so who registers one needs to say nothing.

A provider owns connections. `get_provider` makes a new one each time; who calls a model more than once keeps what it
got, or has a `Providers` keep them, and closes it in the end.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar, cast, final, runtime_checkable

from polos.llm.digests import digest_of
from polos.llm.messages import LLMDelta, LLMRequest, LLMResponse
from polos.llm.providers.compatible import COMPATIBLE, compatible_settings

__all__ = [
    "LLMProvider",
    "LLMResponse",
    "ModelProvider",
    "Providers",
    "get_provider",
    "register_provider",
    "streams",
]


@runtime_checkable
class ModelProvider(Protocol):
    """Who answers requests; each call is one attempt, and whoever calls decides about the next."""

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """
        Ask for a reply in one piece.

        Raises:
            ModelError: there is none; `retryable` says whether trying again may help.
        """
        ...

    def stream(self, request: LLMRequest) -> AsyncGenerator[LLMDelta, None]:
        """
        Ask for a reply in pieces; the last one is `Finished`, with the whole reply.

        Who stops early closes the iterator, which ends the call.

        Raises:
            ModelError: there is no whole reply; the pieces that came are no part of any.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; further calls open new ones."""
        ...


class LLMProvider(ABC):
    """
    The base of a provider that a program brings along.

    `generate` takes either one argument called `request` (and gives what `ModelProvider.generate` gives), or the
    arguments `messages, model, tools, temperature, max_tokens, top_p, agent_config, tool_results, **more` that
    providers of Polos take. The same goes for `stream`, which may be left out: the reply then comes in one piece.
    """

    @abstractmethod
    async def generate(self, *args: Any, **kwargs: Any) -> LLMResponse:
        """Ask for a reply in one piece; see the class."""

    def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Ask for a reply in pieces; see the class."""
        raise NotImplementedError(f"{type(self).__name__} doesn't stream")

    def convert_history_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Turn items into this provider's own messages; given as they are unless overridden.

        Args:
            messages: `{"role", "content"}`, `{"type": "function_call", …}` and `{"type": "function_call_output", …}`.
        """
        return messages

    async def aclose(self) -> None:  # noqa: B027  # most have nothing to close
        """Close connections; nothing unless overridden."""


# Those that come with polos: name, module, class.
_BUILT_IN: Final = {
    "anthropic": ("polos.llm.providers.anthropic", "AnthropicProvider"),
    "openai": ("polos.llm.providers.openai", "OpenAIProvider"),
    "recorded": ("polos.llm.providers.recorded", "RecordedProvider"),
    "scripted": ("polos.llm.providers.scripted", "ScriptedProvider"),
}
_REGISTERED: Final[dict[str, type[Any]]] = {}

_Class = TypeVar("_Class", bound=type[Any])


def register_provider(name: str) -> Callable[[_Class], _Class]:
    """
    Make a class the provider of that name, in place of any other.

    ```python run
    import asyncio
    from polos.llm import LLMProvider, LLMRequest, LLMResponse, get_provider, register_provider

    @register_provider("parrot")
    class Parrot(LLMProvider):
        async def generate(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse(content=request.items[-1]["content"].upper())

    request = LLMRequest(model="grey", items=[{"role": "user", "content": "hello"}])
    print(asyncio.run(get_provider("parrot").generate(request)).content)
    ```

    Args:
        name: how agents name it; case doesn't count.
    """

    def register(cls: _Class) -> _Class:
        _REGISTERED[name.lower()] = cls
        return cls

    return register


def get_provider(provider_name: str, **settings: Any) -> ModelProvider:
    """
    Make the provider of that name.

    Args:
        provider_name: `openai`, `anthropic`, `scripted`, `recorded`, one that speaks like OpenAI (`ollama`, `gemini`,
            `groq`, `fireworks`, `together`), or one that was registered.
        settings: what its class takes, such as `base_url`; None is as good as left out. A registered class is given
            those that its constructor names.

    Returns:
        A provider of its own, with connections of its own; close it with `aclose`.

    Raises:
        ValueError: no such provider, or a setting that it doesn't have.
    """
    name = provider_name.lower()
    given = {key: value for key, value in settings.items() if value is not None}
    registered = _REGISTERED.get(name)
    if registered is not None:
        return _adapted(registered(**_taken(registered, given)), name)
    if name in COMPATIBLE:
        name, given = "openai", compatible_settings(name, given)
    if name not in _BUILT_IN:
        known = ", ".join(sorted({*_BUILT_IN, *COMPATIBLE, *_REGISTERED}))
        raise ValueError(f"no model provider is called {provider_name!r}; there are {known}")
    home, class_name = _BUILT_IN[name]
    cls = getattr(import_module(home), class_name)
    unknown = sorted(set(given) - set(inspect.signature(cls).parameters))
    if unknown:
        raise ValueError(f"the model provider {provider_name!r} has no setting {', '.join(unknown)}")
    return cast("ModelProvider", cls(**given))


def _taken(cls: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Give those settings that a registered class takes: it was written without knowing ours."""
    parameters = inspect.signature(cls).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return settings
    return {name: value for name, value in settings.items() if name in parameters}


def _adapted(provider: Any, name: str) -> ModelProvider:
    from polos.llm.providers.adapter import OwnProvider, PolosProvider

    if "messages" in inspect.signature(provider.generate).parameters:
        return PolosProvider(provider, name)
    return OwnProvider(provider)


def streams(provider: Any) -> bool:
    """Tell whether a provider has a stream of its own."""
    own: object = getattr(provider.__class__, "stream", LLMProvider.stream)
    return own is not LLMProvider.stream


@final
class Providers:
    """
    Providers that were asked for, kept so that their connections are used again.

    One is kept for each name, settings and event loop: connections belong to the loop that opened them.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: dict[tuple[int, str, str], tuple[asyncio.AbstractEventLoop, ModelProvider]] = {}

    def get(self, provider_name: str, **settings: Any) -> ModelProvider:
        """
        Give the provider of that name with those settings, a kept one if there is one.

        Args:
            provider_name: as for `get_provider`.
            settings: as for `get_provider`; those that aren't JSON make a provider that isn't kept.
        """
        loop = asyncio.get_running_loop()
        try:
            key = (id(loop), provider_name.lower(), digest_of(settings))  # a digest, as there may be keys in them
        except TypeError:
            return get_provider(provider_name, **settings)
        kept = self._kept.get(key)
        if kept is None or kept[0] is not loop:
            kept = self._kept[key] = (loop, get_provider(provider_name, **settings))
        return kept[1]

    async def aclose(self) -> None:
        """Close those of the running loop and forget all."""
        loop = asyncio.get_running_loop()
        kept, self._kept = self._kept, {}
        for home, provider in kept.values():
            if home is loop:
                await provider.aclose()
