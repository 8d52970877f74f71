"""
Patterns of topics: which topics a trigger listens to.

A topic is a text whose segments are parted by ``/``, as in the engine's own ``workflow/<id>/<run>``; a topic without
one is a single segment. In a pattern ``*`` stands for exactly one segment and ``**`` for any number of them, none
included. A wildcard is a whole segment or an error: ``orders.*`` would otherwise be a pattern that never matches what
its author meant, and nobody would be told.

Matching goes back to the last ``**`` alone, so it costs at most (segments of the pattern) x (segments of the topic),
whoever chose the two.
"""

from __future__ import annotations

__all__ = ["check_pattern", "is_pattern", "matches"]

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
