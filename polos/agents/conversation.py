"""
The conversation of a run, and what is recorded of each request.

Each request sends the whole conversation again; a log that kept each would grow with the square of its length. So a
request is recorded by what is new in it: the digests of the messages that were added since the request before, and
each message under its digest the first time that it is sent. Replies are recorded by the steps that got them, and are
named here only by digest. Where the conversation was rewritten (it was shortened, or a hook changed it), all of its
digests are given once.

The record is made before the call and in the commit of its intent, so what was sent is known also of a call that never
came back.
"""

from __future__ import annotations

from typing import Any, final

from polos.engine.json import Json
from polos.llm.digests import digest_of, request_outline
from polos.llm.messages import Item, LLMRequest

__all__ = ["Conversation", "request_items"]


@final
class Conversation:
    """Messages to and from a model, and which of them the log holds."""

    def __init__(self, items: list[Item], *, aside: bool = False) -> None:
        """
        Begin with some messages.

        Args:
            items: the messages.
            aside: whether it is a question beside the run's conversation.
        """
        self._aside = aside
        self._items = list(items)
        self._digests = [digest_of(item) for item in items]
        self._stored: set[str] = set()
        self._sent: list[str] = []  # digests of the request before
        self._requests = 0

    @property
    def items(self) -> list[Item]:
        """The messages, in order; a list of the caller's own."""
        return list(self._items)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._items)

    def append(self, *items: Item) -> None:
        """Add messages."""
        self._items += items
        self._digests += [digest_of(item) for item in items]

    def append_reply(self, items: list[Item]) -> None:
        """Add what a model replied: the step that got it has it on record."""
        self.append(*items)
        self._stored.update(self._digests[len(self._digests) - len(items) :])

    def replace(self, items: list[Item]) -> None:
        """Let the conversation be another one."""
        self._items = list(items)
        self._digests = [digest_of(item) for item in items]

    def record(self, request: LLMRequest) -> dict[str, Json]:
        """
        Give what is recorded of a request, and count it as sent.

        Args:
            request: whose items are those of the conversation.
        """
        outline = request_outline(request, item_digests=self._digests)
        digests = outline.pop("items")
        texts: dict[str, Any] = dict(zip(digests, request.items, strict=True))
        tools = [tool.model_dump(exclude_defaults=True) for tool in request.tools]
        schema = [request.output_schema_name, request.output_schema]
        for name, value in (("system", request.system), ("tools", tools), ("output_schema", schema)):
            if outline[name] is not None:
                texts[outline[name]] = value
        new = {digest: value for digest, value in texts.items() if digest not in self._stored}
        self._stored.update(new)
        before = len(self._sent)
        goes_on = before > 0 and digests[:before] == self._sent
        record: dict[str, Json] = {**outline, "number": self._requests, "count": len(digests)}
        if self._aside:
            record["aside"] = True
        if goes_on:
            record["added"] = digests[before:]
        else:
            record["items"] = digests
        if new:
            record["stored"] = new
        self._sent = digests
        self._requests += 1
        return record


def request_items(records: list[dict[str, Any]]) -> list[list[str]]:
    """
    Give the digests of the messages of each request of a run.

    Args:
        records: what `Conversation.record` gave, in order.
    """
    found: list[list[str]] = []
    for record in records:
        if "items" in record:
            found.append(list(record["items"]))
        else:
            found.append([*found[-1], *record["added"]])
        assert len(found[-1]) == record["count"], "a request is recorded with how many messages it has"
    return found
