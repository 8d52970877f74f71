"""
What one run wants of another: start it, tell its parent how it ended, cancel, resume, signal, publish.

`decide` sees one run and changes one run, so such a wish leaves it as a message. Its id is made of
the sender and the version of the event that sent it, so that sending again gives the same id and the
receiver can ignore it. A message to a run of the same log is decided in the same append unit; any
other is owed (`MessageOwed`) until the other log's inbox keeps it (`MessageDelivered`).
"""

from __future__ import annotations

from polos.data_class import dataclass
from polos.engine.json import Json
from polos.errors import CommandRefused

__all__ = ["Message", "body_text", "message_from_json", "message_to_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    A wish with an address.

    Attributes:
        id: sender and version; the same wish has the same id.
        kind: "start", "finished", "cancel", "retry", "resume", "signal" or "publish".
        target: a run, or the topic of a "publish".
        body: a JSON object; its keys depend on the kind.
    """

    id: str
    kind: str
    target: str
    body: dict[str, Json]


def message_to_json(message: Message) -> Json:
    """Give the message as a JSON object."""
    return {"id": message.id, "kind": message.kind, "target": message.target, "body": message.body}


def message_from_json(value: Json) -> Message:
    """
    Give back what `message_to_json` was given.

    Raises:
        CommandRefused: it is something else.
    """
    body = value.get("body") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(body, dict):
        raise CommandRefused(f"a message is an object with an id, a kind, a target and a body, not {value!r}")
    return Message(id=_text(value, "id"), kind=_text(value, "kind"), target=_text(value, "target"), body=body)


def body_text(message: Message, name: str) -> str:
    """
    Give a field of a message's body that is a text.

    Raises:
        CommandRefused: it isn't there, or is something else.
    """
    return _text(message.body, name, of=f"a message of kind {message.kind!r}")


def _text(found: dict[str, Json], name: str, *, of: str = "a message") -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise CommandRefused(f"{of} needs {name!r}, a text; it has {value!r}")
    return value
