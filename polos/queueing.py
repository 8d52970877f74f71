"""
Queues as programs name them: how many runs may be under way, and how fast they may begin.

A queue is a name; what holds for it is said where a workflow is defined, and kept by the engine. This module only
holds what was said, checks it at once, and knows how it is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast, final

from polos import checking
from polos.checking import SECONDS_MAX
from polos.engine.json import Json

__all__ = ["Queue", "RateLimit", "queue", "read_queue"]

# How many of anything a queue can be told: what a signed 32-bit number holds, far above what fits into memory.
COUNT_MAX: Final = 2**31 - 1

_FIELDS: Final = (
    "concurrency_limit", "key_concurrency_limit", "rate_limit", "key_rate_limit", "max_queued",
)  # fmt: skip


@final
class RateLimit:
    """
    At most so many starts in any window of so many seconds; an example stands at `Queue`.

    Attributes:
        limit: how many runs may begin.
        period_seconds: in any window of this length.
    """

    __slots__ = ("limit", "period_seconds")

    def __init__(self, limit: int, period_seconds: float) -> None:
        """
        Take both.

        Raises:
            ValueError: one of them isn't a positive number, or the period is below a microsecond.
        """
        _count("limit of a RateLimit", limit, least=1)
        given = cast("object", period_seconds)
        if isinstance(given, bool) or not isinstance(given, int | float) or not 1e-6 <= given <= SECONDS_MAX:
            # Less than what times are recorded in would be no period, and no limit.
            raise ValueError(
                f"period_seconds of a RateLimit must be a positive number, a microsecond at least, it is {given!r}"
            )
        self.limit: int = limit
        self.period_seconds: float = period_seconds

    def __eq__(self, other: object) -> bool:
        """Tell whether another one says the same."""
        return isinstance(other, RateLimit) and repr(self) == repr(other)

    def __hash__(self) -> int:
        """Hash what it says."""
        return hash((self.limit, self.period_seconds))

    def __repr__(self) -> str:
        """Show it as it is written."""
        return f"RateLimit({self.limit!r}, {self.period_seconds!r})"


class Queue:
    """
    A queue, to be given to workflows.

    ```python run
    from polos import Queue, RateLimit, workflow

    mail = Queue("mail", concurrency_limit=3, rate_limit=RateLimit(100, period_seconds=60), max_queued=10_000)

    @workflow(queue=mail)
    async def send(ctx, payload: dict):
        return payload["to"]

    print(send.queue_name, send.queue_concurrency_limit)
    ```

    Attributes:
        name: workflows that name the same queue share it.
        concurrency_limit: runs that may be under way at once. Runs with a concurrency key are counted for each key by
            itself, unless `key_concurrency_limit` says how many of a key may be; then it counts the whole queue.
        key_concurrency_limit: runs of one concurrency key that may be under way at once.
        rate_limit: how many runs of the queue may begin in which time.
        key_rate_limit: how many runs of one concurrency key may begin in which time.
        max_queued: runs that may wait to begin; more are refused with `QueueFull`.
    """

    def __init__(
        self,
        name: str,
        concurrency_limit: int | None = None,
        *,
        key_concurrency_limit: int | None = None,
        rate_limit: RateLimit | None = None,
        key_rate_limit: RateLimit | None = None,
        max_queued: int | None = None,
    ) -> None:
        """
        Take what holds for the queue; None stands for no limit.

        Raises:
            ValueError: the name is no text or empty, or a number isn't one that a limit can be.
            TypeError: a rate is no `RateLimit`.
        """
        if not isinstance(cast("object", name), str):
            raise ValueError(f"the name of a queue must be a text, it is {name!r}")  # noqa: TRY004  # as Polos does
        checking.name("the name of a queue", name)
        for what, number, least in (
            ("concurrency_limit", concurrency_limit, 1),
            ("key_concurrency_limit", key_concurrency_limit, 1),
            ("max_queued", max_queued, 0),
        ):
            if number is not None:
                _count(f"{what} of queue {name!r}", number, least=least)
        for what, rate in (("rate_limit", rate_limit), ("key_rate_limit", key_rate_limit)):
            if rate is not None and not isinstance(cast("object", rate), RateLimit):
                raise TypeError(f"{what} of queue {name!r} must be a RateLimit, it is {rate!r}")
        self.name: str = name
        self.concurrency_limit: int | None = concurrency_limit
        self.key_concurrency_limit: int | None = key_concurrency_limit
        self.rate_limit: RateLimit | None = rate_limit
        self.key_rate_limit: RateLimit | None = key_rate_limit
        self.max_queued: int | None = max_queued

    def __repr__(self) -> str:
        """Show it as it is written."""
        said = [f", {name}={value!r}" for name in _FIELDS if (value := getattr(self, name)) is not None]
        return f"Queue({self.name!r}{''.join(said)})"

    def recorded(self) -> dict[str, Json]:
        """Give what is recorded of it, None where nothing was said left out; empty if it only has a name."""
        found: dict[str, Json] = {}
        if self.key_concurrency_limit is None:
            found["key_concurrency_limit"] = self.concurrency_limit
        else:
            found["concurrency_limit"] = self.concurrency_limit
            found["key_concurrency_limit"] = self.key_concurrency_limit
        for name, rate in (("rate", self.rate_limit), ("key_rate", self.key_rate_limit)):
            if rate is not None:
                found[f"{name}_limit"] = rate.limit
                found[f"{name}_period_us"] = round(rate.period_seconds * 1e6)
        found["max_queued"] = self.max_queued
        return {name: value for name, value in found.items() if value is not None}


def queue(
    name: str,
    concurrency_limit: int | None = None,
    *,
    key_concurrency_limit: int | None = None,
    rate_limit: RateLimit | None = None,
    key_rate_limit: RateLimit | None = None,
    max_queued: int | None = None,
) -> Queue:
    """Make a queue; what each argument means, and an example, stands at `Queue`."""
    return Queue(
        name,
        concurrency_limit,
        key_concurrency_limit=key_concurrency_limit,
        rate_limit=rate_limit,
        key_rate_limit=key_rate_limit,
        max_queued=max_queued,
    )


def read_queue(given: object, workflow: str) -> Queue | None:
    """
    Read what a workflow was told of its queue: a name, a `Queue`, or a dict with the arguments of one.

    Raises:
        ValueError: it is something else, or says something that a queue can't be.
    """
    if given is None or isinstance(given, Queue):
        return given
    if isinstance(given, str):
        return Queue(given)
    if isinstance(given, dict):
        said: dict[str, Any] = {"name": workflow, **cast("dict[str, Any]", given)}
        if unknown := said.keys() - {"name", *_FIELDS}:
            raise ValueError(f"the queue of workflow {workflow!r} can't have {sorted(map(str, unknown))}")
        for name in ("rate_limit", "key_rate_limit"):
            if isinstance(said.get(name), Mapping):
                said[name] = _rate(name, cast("Mapping[str, Any]", said[name]))
        return Queue(**said)
    if hasattr(given, "name") and hasattr(given, "concurrency_limit"):
        return Queue(getattr(given, "name"), getattr(given, "concurrency_limit"))  # noqa: B009  # any object that has them
    raise ValueError(f"queue must be a name, a Queue or a dict, it is {given!r}")


def _rate(name: str, given: Mapping[str, Any]) -> RateLimit:
    if set(given) != {"limit", "period_seconds"}:
        raise ValueError(f"{name} has 'limit' and 'period_seconds', it was given {sorted(map(str, given))}")
    return RateLimit(given["limit"], given["period_seconds"])


def _count(what: str, number: object, *, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= COUNT_MAX:
        raise ValueError(f"{what} must be a number from {least}, it is {number!r}")
