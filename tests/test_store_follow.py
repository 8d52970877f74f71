"""Following a log: nothing twice, nothing left out, in order; from threads, from event loops, from other processes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from polos.store.follow import Follower
from polos.store.lmdb_log import LmdbLog
from polos.store.log import Position
from polos.store.memory import MemoryLog

from tests.contract.logs import payloads, record, unit
from tests.store_children import PATIENCE_SECONDS, Child


@pytest.fixture
def log():
    """A log in memory with five records."""
    made = MemoryLog()
    made.append([unit(record("a", b"%d" % at)) for at in range(5)], epoch=made.acquire())
    yield made
    made.close()


def more(log: MemoryLog, payload: bytes) -> None:
    """Append one record."""
    with log.reader() as reader:
        epoch = reader.head().epoch
    log.append([unit(record("a", payload))], epoch=epoch)


def test_what_is_there_is_taken_in_batches_from_a_position(log: MemoryLog):
    """`take` never waits and never repeats."""
    with Follower(log, after=Position(1), batch_records_max=3) as follower:
        assert [b"1", b"2", b"3"] == payloads(follower.take())
        assert 4 == follower.position
        assert [b"4"] == payloads(follower.take())
        assert [] == follower.take()
        more(log, b"5")
        assert [b"5"] == payloads(follower.take())


def test_a_thread_is_woken_by_each_commit(log: MemoryLog):
    """Everything arrives, in order, while another thread appends; closing ends the loop."""
    got: list[bytes] = []
    enough = threading.Event()
    follower = Follower(log, batch_records_max=2)

    def follow() -> None:
        for found in follower:
            got.append(found.payload)
            if len(got) == 105:
                enough.set()

    thread = threading.Thread(target=follow)
    thread.start()
    for at in range(5, 105):
        more(log, b"%d" % at)
    assert enough.wait(PATIENCE_SECONDS)
    follower.close()
    follower.close()
    thread.join(PATIENCE_SECONDS)

    assert [b"%d" % at for at in range(105)] == got
    assert not thread.is_alive()


def test_waiting_tells_whether_there_may_be_something(log: MemoryLog):
    """Without a commit a wait with a limit ends with False; a commit, or closing, with True."""
    follower = Follower(log)
    assert follower.wait(0)
    follower.take()
    assert not follower.wait(0)
    more(log, b"5")
    assert follower.wait(0)
    follower.take()
    follower.close()
    assert follower.wait(0)


def test_a_task_is_woken_by_each_commit(log: MemoryLog):
    """The same on an event loop, with commits from another thread."""

    async def follow() -> list[bytes]:
        got: list[bytes] = []
        with Follower(log, batch_records_max=2) as follower:
            async for found in follower:
                got.append(found.payload)
                if len(got) >= 5:
                    if len(got) == 25:
                        return got
                    await asyncio.to_thread(more, log, b"%d" % len(got))
        raise AssertionError("closed too early")

    assert [b"%d" % at for at in range(25)] == asyncio.run(follow())


def test_a_task_that_waits_ends_when_the_follower_is_closed(log: MemoryLog):
    """Also when the log itself is closed below it."""

    async def follow(close: bool) -> int:
        follower = Follower(log)

        async def count() -> int:
            return len([found async for found in follower])

        task = asyncio.create_task(count())
        while not follower._waiting:
            await asyncio.sleep(0)
        if close:
            follower.close()
        else:
            log.close()
            follower.wake()
        return await task

    assert 5 == asyncio.run(follow(close=True))
    assert 5 == asyncio.run(follow(close=False))


def test_a_task_that_gives_up_waiting_leaves_nothing_behind(log: MemoryLog):
    """Cancelled, its loop gone: the next commit finds nobody to wake, and that is fine."""
    follower = Follower(log)
    follower.take()

    async def give_up() -> None:
        task = asyncio.create_task(follower.wait_async())
        while not follower._waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert not follower._waiting

    async def leave(waiting: asyncio.Future[None]) -> None:
        follower._waiting.add((asyncio.get_running_loop(), waiting))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave(loop.create_future()))
    loop.close()
    more(log, b"5")
    assert [b"5"] == payloads(follower.take())
    follower.close()


APPENDER = """
    import sys
    from polos.store.lmdb_log import LmdbLog
    from tests.contract.logs import record, unit
    log = LmdbLog(sys.argv[1], map_bytes=64 << 20)
    epoch = log.acquire()
    print("ready", flush=True)
    for line in sys.stdin:
        log.append([unit(record("a", line.strip().encode()))], epoch=epoch)
"""


def test_another_process_is_followed_by_looking(tmp_path: Path):
    """From a thread and from an event loop, with nobody to wake either."""
    with Child(APPENDER, tmp_path) as other:
        assert "ready" == other.hear()
        log = LmdbLog(tmp_path, read_only=True, map_bytes=64 << 20)
        got: list[bytes] = []
        other.tell("0")
        with Follower(log, poll_seconds=0.001) as follower:
            for found in follower:
                got.append(found.payload)
                if len(got) == 5:
                    break
                other.tell(str(len(got)))

        async def follow(after: Position) -> None:
            other.tell("5")
            with Follower(log, after=after, poll_seconds=0.001) as follower:
                async for found in follower:
                    got.append(found.payload)
                    if len(got) == 10:
                        break
                    other.tell(str(len(got)))

        asyncio.run(follow(follower.position))
        log.close()

    assert [b"%d" % at for at in range(10)] == got
