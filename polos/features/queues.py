"""
Queues while the engine runs: looking at them, holding them up, changing what holds.

What is changed here is an event of the log like everything else. It holds until it is changed again, or until a new
version of the code says something new about the queue. `client` is a `Polos` or a `PolosClient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import orjson

from polos import checking
from polos.engine import events as e
from polos.engine.json import Json
from polos.queueing import Queue, RateLimit
from polos.runtime.connection import StoreConnection
from polos.store.log import Log, Reader

__all__ = ["QueueInfo", "configure", "get", "list", "pause", "resume"]

_UNSET: Final[Any] = object()


class QueuesClient(Protocol):
    """What these functions need of a client."""

    def _connection(self) -> StoreConnection:
        """Give the way to the engine."""
        ...

    def _log(self) -> Log:
        """Give the log, to read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """
    A queue as the log has it.

    Attributes:
        name: its name.
        queued: runs that wait to begin.
        paused: whether nothing new begins.
        concurrency_limit: of the whole queue.
        key_concurrency_limit: of each concurrency key.
        rate_limit: of the whole queue.
        key_rate_limit: of each concurrency key.
        max_queued: how many may wait to begin.
    """

    name: str
    queued: int = 0
    paused: bool = False
    concurrency_limit: int | None = None
    key_concurrency_limit: int | None = None
    rate_limit: RateLimit | None = None
    key_rate_limit: RateLimit | None = None
    max_queued: int | None = None


async def pause(client: QueuesClient, name: str) -> None:
    """
    Let nothing new begin in a queue; what was begun goes on. Durable when it returns.

    ```python run
    import asyncio, tempfile
    from polos import Polos, queues, workflow

    @workflow(queue="reports")
    async def report(ctx):
        return "done"

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                await queues.pause(polos, "reports")
                handle = await report.invoke(polos)
                print(queues.get(polos, "reports").queued)
                await queues.resume(polos, "reports")
                print((await polos._wait_ended(handle.id))["result"])

    asyncio.run(main())
    ```

    Raises:
        UnknownQueue: no workflow names it, no run ever did, and nothing was said of it. `configure` makes a queue
            known before its first run.
        TypeError: the name is no text.
        ValueError: the name is empty.
    """
    await _change(client, name, {"paused": True})


async def resume(client: QueuesClient, name: str) -> None:
    """
    Let a queue that was paused go on. Durable when it returns.

    An example stands at `pause`.

    Raises:
        UnknownQueue: as for `pause`.
    """
    await _change(client, name, {"paused": False})


async def configure(
    client: QueuesClient,
    name: str,
    *,
    concurrency_limit: int | None = _UNSET,
    key_concurrency_limit: int | None = _UNSET,
    rate_limit: RateLimit | None = _UNSET,
    key_rate_limit: RateLimit | None = _UNSET,
    max_queued: int | None = _UNSET,
    create: bool = False,
) -> None:
    """
    Change what holds for a queue, also while runs wait in it; who is under way goes on. Durable when it returns.

    An example stands at `pause`.

    Args:
        client: a `Polos` or a `PolosClient`.
        name: of the queue.
        concurrency_limit: of the whole queue; None for no limit. What isn't given stays.
        key_concurrency_limit: of each concurrency key.
        rate_limit: of the whole queue.
        key_rate_limit: of each concurrency key.
        max_queued: how many may wait to begin.
        create: whether it may be a queue that nobody has named yet, such as one that `invoke` will name.

    Raises:
        UnknownQueue: nobody has named it, and it isn't to be created.
        ValueError: a number isn't one that a limit can be.
        TypeError: a rate is no `RateLimit`.
    """
    given: dict[str, Any] = {
        "concurrency_limit": concurrency_limit,
        "key_concurrency_limit": key_concurrency_limit,
        "max_queued": max_queued,
    }
    rates = {"rate": rate_limit, "key_rate": key_rate_limit}
    said = {key: value for key, value in given.items() if value is not _UNSET}
    said |= {f"{key}_limit": value for key, value in rates.items() if value is not _UNSET}
    Queue(name, **said)  # says what is wrong with it
    changes: dict[str, Json] = {key: value for key, value in said.items() if not key.endswith("rate_limit")}
    for key, rate in rates.items():
        if rate is not _UNSET:
            changes[f"{key}_limit"] = None if rate is None else rate.limit
            changes[f"{key}_period_us"] = None if rate is None else round(rate.period_seconds * 1e6)
    await _change(client, name, changes, create=create)


def get(client: QueuesClient, name: str) -> QueueInfo:
    """
    Give a queue as the log has it; one that nobody ever used or named has no limits and no runs.

    An example stands at `pause`.
    """
    checking.name("name", name)
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # ours, and offered for this
        return _info(reader, name)


def list(client: QueuesClient) -> Sequence[QueueInfo]:  # noqa: A001  # `queues.list` is what one looks for
    """
    Give every queue that something was said of, that a run named, or in which runs wait to begin, by name.

    An example stands at `pause`.
    """
    with client._log().reader() as reader:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        names = {str(key[1]) for key, _ in (*reader.rows(("queue",)), *reader.rows(("line",)))}
        return [_info(reader, name) for name in sorted(names)]


def _info(reader: Reader, name: str) -> QueueInfo:
    row = reader.row(("queue", name))
    said = e.QueueConfigured(queue=name, by="") if row is None else e.QueueConfigured(**orjson.loads(row))
    return QueueInfo(
        name=name,
        queued=sum(1 for _ in reader.rows(("line", name))),
        paused=said.paused,
        concurrency_limit=said.concurrency_limit,
        key_concurrency_limit=said.key_concurrency_limit,
        rate_limit=_rate(said.rate_limit, said.rate_period_us),
        key_rate_limit=_rate(said.key_rate_limit, said.key_rate_period_us),
        max_queued=said.max_queued,
    )


def _rate(limit: int | None, period_us: int | None) -> RateLimit | None:
    return None if limit is None or period_us is None else RateLimit(limit, period_us / 1e6)


async def _change(client: QueuesClient, name: str, changes: dict[str, Json], *, create: bool = False) -> None:
    checking.name("name", name)
    command = cast("dict[str, Json]", {"kind": "queue", "queue": name, "changes": changes})
    if create:
        command["create"] = True
    await client._connection().execute(command)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
