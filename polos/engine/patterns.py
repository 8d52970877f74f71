"""
Patterns of topics: which topics a trigger listens to.

A topic is a text whose segments are parted by ``/``, as in the engine's own ``workflow/<id>/<run>``; a topic without
one is a single segment. In a pattern ``*`` stands for exactly one segment and ``**`` for any number of them, none
included. A wildcard is a whole segment or an error: ``orders.*`` would otherwise be a pattern that never matches what
its author meant, and nobody would be told.

Matching goes back to the last ``**`` alone, so it costs at most (segments of the pattern) x (segments of the topic),
whoever chose the two. Many patterns are looked at together (`Patterns`), so that a topic costs what those cost that
begin like it, and not what all of them do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Generic, TypeVar, final

from polos.data_class import dataclass

__all__ = ["Patterns", "check_pattern", "is_pattern", "matches"]

T = TypeVar("T")

SEPARATOR = "/"


def is_pattern(topic: str) -> bool:
    """Tell whether a topic to listen to stands for many."""
    return "*" in topic


def check_pattern(name: str, topic: str) -> None:
    """
    Refuse a pattern that can't be meant.

    Args:
        name: of the argument, for the message.
        topic: a topic or a pattern.

    Raises:
        ValueError: a ``*`` stands for less than a segment.
    """
    for segment in topic.split(SEPARATOR):
        if "*" in segment and segment not in ("*", "**"):
            raise ValueError(
                f"{name} must have * or ** as a whole segment between slashes, it is {topic!r}: "
                f"'orders/*' matches 'orders/new', and 'orders/**' whatever is below"
            )


def matches(pattern: str, topic: str) -> bool:
    """
    Tell whether a pattern matches a topic.

    Example:
        >>> [matches("orders/*/paid", topic) for topic in ("orders/eu/paid", "orders/paid", "orders/eu/x/paid")]
        [True, False, False]
        >>> [matches("orders/**", topic) for topic in ("orders", "orders/eu/paid", "invoices")]
        [True, True, False]
    """
    wanted, given = pattern.split(SEPARATOR), topic.split(SEPARATOR)
    at = read = 0
    resume: tuple[int, int] | None = None  # behind the last "**", and up to where it reaches by now
    while read < len(given):
        if at < len(wanted) and wanted[at] == "**":
            at += 1
            resume = at, read
        elif at < len(wanted) and wanted[at] in ("*", given[read]):
            at, read = at + 1, read + 1
        elif resume is not None:
            at, read = resume[0], resume[1] + 1
            resume = at, read
        else:
            return False
    return all(segment == "**" for segment in wanted[at:])


@final
@dataclass(slots=True, eq=False)
class _Node:
    """What follows one beginning of patterns."""

    below: dict[str, _Node] = field(default_factory=dict[str, "_Node"])
    ending: list[int] = field(default_factory=list[int])  # numbers of the patterns that end here
    stays: bool = False  # reached by a "**", which takes whatever comes


@final
class Patterns(Generic[T]):
    """
    Patterns with what they stand for, found by a topic.

    Example:
        >>> patterns = Patterns()
        >>> for pattern in ("orders/*", "invoices/**", "**"):
        ...     patterns.add(pattern, pattern)
        >>> patterns.matching("orders/new")
        ['orders/*', '**']
    """

    def __init__(self) -> None:
        """Start without any."""
        self._root = _Node()
        self._values: list[T] = []

    def add(self, pattern: str, value: T) -> None:
        """Add a pattern, and what it stands for."""
        node = self._root
        for segment in pattern.split(SEPARATOR):
            node = node.below.setdefault(segment, _Node(stays=segment == "**"))
        node.ending.append(len(self._values))
        self._values.append(value)

    def matching(self, topic: str) -> list[T]:
        """Give what the patterns stand for that match a topic, in the order in which they were added."""
        reached = _with_none([self._root])
        for segment in topic.split(SEPARATOR):
            following: list[_Node] = []
            for node in reached:
                if node.stays:
                    following.append(node)
                following += [node.below[name] for name in {segment, "*"} - {"**"} if name in node.below]
            reached = _with_none(following)
        return [self._values[number] for number in sorted(number for node in reached for number in node.ending)]


def _with_none(nodes: Iterable[_Node]) -> dict[_Node, None]:
    """Give nodes, each once, with those that a "**" reaches that stands for no segment at all."""
    found: dict[_Node, None] = {}
    for start in nodes:
        node: _Node | None = start
        while node is not None and node not in found:
            found[node] = None
            node = node.below.get("**")
    return found
