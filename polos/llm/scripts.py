"""
Replies that are written beforehand, for tests and for work without a network.

Which reply is given is read from the request, and from nothing else: **reply n is for the request whose conversation
holds n turns of the model**. A counter in memory would be simpler and wrong. After a crash it would begin again, while
the recorded replies aren't asked for a second time; and two runs at once would take each other's replies. So a list
of replies is a conversation, told from its beginning, and every run of an agent tells it.

`Attempts` is the one exception, as attempts are what it is about: it counts how often this very request was made, in
this process.

A script is a definition, like a workflow: `script(name, …)` keeps it under a name, and the agent with
`provider="scripted", model=name` plays it. A model whose name ends in `.json` is a file of replies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import polos.errors
from polos.errors import ModelError, PolosUsageError
from polos.llm.jsonish import an_object, json_file
from polos.llm.messages import Item, LLMRequest, is_model_made

__all__ = ["Attempts", "Reply", "Script", "ScriptEnded", "find_script", "read_reply", "script", "turns_of"]


class ScriptEnded(PolosUsageError):
    """A scripted model was asked for more replies than its script has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    One reply of a scripted model.

    ```python run
    import asyncio
    from polos.llm import LLMRequest, Reply, get_provider, script, user_item

    script("clerk", [Reply(tool_calls=[("lookup", {"order": 7})]), "It was shipped."])
    request = LLMRequest(model="clerk", items=[user_item("Where is order 7?")])
    reply = asyncio.run(get_provider("scripted").generate(request))
    print(reply.tool_calls[0].function.name, reply.stop_reason)
    ```

    Attributes:
        text: what it says.
        tool_calls: the tools that it wants called: name and arguments, as JSON or as the text that it writes.
        thinking: what it lets see of its reasoning.
        chunks: the pieces in which a stream gives the text; None for one piece a word.
        delay_seconds: before the reply, and before each piece of a stream.
        cut_after: a stream ends without its end after so many pieces, and so does a reply in one piece.
        error: raised instead of a reply; after the pieces that `chunks` names, in a stream.
        stop_reason: why it stops; None for `tool_calls` or `stop`, whichever it is.
        usage: fields of `polos.llm.TokenUsage`; what isn't named is counted, a token for four characters.
    """

    text: str | None = None
    tool_calls: Sequence[tuple[str, Any]] = ()
    thinking: str | None = None
    chunks: Sequence[str] | None = None
    delay_seconds: float = 0.0
    cut_after: int | None = None
    error: ModelError | None = None
    stop_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and what isn't there."""
        if self.chunks is not None and self.text is not None and "".join(self.chunks) != self.text:
            raise ValueError(f"chunks aren't the text: {''.join(self.chunks)!r} and {self.text!r}")
        if self.delay_seconds < 0:
            raise ValueError(f"delay_seconds must not be negative, it is {self.delay_seconds!r}")


@dataclass(frozen=True, slots=True)
class Attempts:
    """
    Replies to one and the same request, one for each time that it is made; the last one for all further times.

    ```python run
    from polos.errors import ModelRateLimited
    from polos.llm import Attempts, script

    script("busy", [Attempts([ModelRateLimited(retry_after_seconds=2), "Now I have time."])])
    ```

    Attributes:
        replies: at least one.
    """

    replies: Sequence[Reply | str | ModelError]

    def __post_init__(self) -> None:
        """Refuse to have no reply."""
        if not self.replies:
            raise ValueError("replies must not be empty")


_One: TypeAlias = Reply | str | ModelError
_Answering: TypeAlias = Callable[[LLMRequest], _One | Awaitable[_One]]


@dataclass(frozen=True, slots=True)
class Script:
    """
    What a scripted model says.

    Attributes:
        name: of the script.
        replies: one for each turn, or what makes one of a request.
    """

    name: str
    replies: Sequence[_One | Attempts] | _Answering

    def next(self, request: LLMRequest) -> _One | Attempts | Awaitable[_One]:
        """
        Give the reply to a request.

        Raises:
            ScriptEnded: the conversation is longer than the script.
        """
        if callable(self.replies):
            return self.replies(request)
        turn = turns_of(request.items)
        if turn >= len(self.replies):
            raise ScriptEnded(
                f"script {self.name!r} has {len(self.replies)} replies, and the conversation holds {turn} turns of the"
                " model already; add a reply, or give a function of the request instead of a list"
            )
        return self.replies[turn]


_SCRIPTS: Final[dict[str, Script]] = {}


def script(name: str, replies: Sequence[_One | Attempts] | _Answering | str) -> Script:
    """
    Write a script; the agent with `provider="scripted"` and this model plays it.

    ```python run
    import asyncio
    from polos.llm import LLMRequest, get_provider, script, user_item

    script("greeter", ["Hello!", "You said that already."])
    script("echo", lambda request: request.items[-1]["content"])

    request = LLMRequest(model="echo", items=[user_item("Anybody here?")])
    print(asyncio.run(get_provider("scripted").generate(request)).content)
    ```

    Args:
        name: the model's name; a script of that name is replaced.
        replies: texts, replies and errors, the first for the first turn of the model in a conversation and so on; a
            function of the request, async or not, that gives one; or one text, for every request.
    """
    if isinstance(replies, str):
        always = replies
        made = Script(name, lambda _: always)
    else:
        made = Script(name, replies if callable(replies) else tuple(replies))
    _SCRIPTS[name] = made
    return made


def find_script(name: str) -> Script:
    """
    Give the script of that name, or of the file of that name.

    Raises:
        PolosUsageError: there is none, or the file isn't one.
    """
    if name in _SCRIPTS:
        return _SCRIPTS[name]
    if name.endswith(".json"):
        return _read_file(Path(name))
    raise PolosUsageError(
        f"no script is called {name!r}: write one with polos.llm.script({name!r}, [...]), or name a .json file"
    )


def turns_of(items: Sequence[Item]) -> int:
    """Count the turns of the model in a conversation: items of its own, one after another, are one turn."""
    made = [is_model_made(item) for item in items]
    return sum(1 for index, own in enumerate(made) if own and not (index and made[index - 1]))


# ------------------------------------------------------------------------------------------------------ from a file


def _read_file(path: Path) -> Script:
    try:
        told: Any = json_file(path)
        inner = an_object(told)
        replies: list[Any] = told if inner is None else inner["replies"]
        return Script(str(path), tuple(_read_turn(one) for one in replies))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as problem:
        raise PolosUsageError(f"{path} is no script: {type(problem).__name__}: {problem}") from problem


def _read_turn(told: Any) -> _One | Attempts:
    attempts = (an_object(told) or {}).get("attempts")
    return read_reply(told) if attempts is None else Attempts([read_reply(one) for one in attempts])


def read_reply(told: Any) -> _One:
    """
    Read a reply from JSON: a text, or an object with the fields of `Reply`.

    `tool_calls` are objects with `name` and `arguments`, and `error` is one with `type` (a class of `polos.errors`),
    `message` and fields of that error.

    Raises:
        ValueError: it is none.
    """
    if isinstance(told, str):
        return told
    inner = an_object(told)
    if inner is None:
        raise ValueError(f"a reply is a text or an object, not {told!r}")
    fields = dict(inner)
    unknown = sorted(set(fields) - set(Reply.__dataclass_fields__))
    if unknown:
        raise ValueError(f"a reply has no {', '.join(unknown)}")
    if "tool_calls" in fields:
        fields["tool_calls"] = [(call["name"], call.get("arguments", {})) for call in fields["tool_calls"]]
    if "error" in fields:
        fields["error"] = _read_error(dict(fields["error"]))
    return Reply(**fields)


def _read_error(told: dict[str, Any]) -> ModelError:
    name = told.pop("type")
    found = getattr(polos.errors, str(name), None)
    if not (isinstance(found, type) and issubclass(found, ModelError)):
        raise ValueError(f"error.type must be a ModelError of polos.errors, it is {name!r}")  # noqa: TRY004  # it is read
    return found(told.pop("message", ""), **told)
