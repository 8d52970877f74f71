"""Copies of a log in memory: they share what neither has changed, and neither sees what the other writes."""

from __future__ import annotations

from polos.store.log import Epoch
from polos.store.memory import MemoryLog

from tests.contract.logs import payloads, record, unit


def contents(log: MemoryLog) -> tuple[list[bytes], Epoch]:
    with log.reader() as reader:
        return payloads(list(reader.records())), reader.head().epoch


def test_whoever_writes_writes_alone() -> None:
    """A log, its copy and a copy of that go on from the same, each for itself; a reader keeps what it has opened."""
    log = MemoryLog()
    log.append([unit(record("a", payload=b"1"))], epoch=log.acquire())
    copies = [log, log.copy(), log.copy().copy()]
    with copies[1].reader() as reader:
        for number, one in enumerate(copies):
            epochs = [one.acquire() for _ in range(number + 1)]
            one.append([unit(record("a", payload=b"%d" % (number + 2)))], epoch=epochs[-1])

        assert [b"1"] == payloads(list(reader.records()))
    assert [([b"1", b"%d" % (number + 2)], Epoch(number + 2)) for number in range(3)] == [
        contents(one) for one in copies
    ]
