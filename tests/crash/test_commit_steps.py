"""
The store survives being killed before any system call of anything it does to its files.

Each test is a short life of a data directory, killed before each call that changes or syncs a file
and before each mark; the marks say what had been promised by then. What a victim left is opened in
a child and must hold everything promised (L4), nothing in part (L3), in a chain that verifies (L8),
under projection rows that fit (L6); and work must go on there, under a newer epoch (L7).

These are deaths of the process: what it handed to the kernel is there. Power cuts are another test.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest
from polos.store.directory import Store, open_store
from polos.store.log import Key, Position

from tests.contract.logs import payloads, record, unit
from tests.crash.children import ChildFailed, in_child
from tests.crash.kill_points import KillPoint, any_call, kill_points
from tests.crash.lives import (
    LARGE_BYTES,
    MAP_BYTES,
    append_groups,
    consume,
    make_and_append,
    make_store,
    numbered,
    opened,
    put_and_consume,
    write_rounds,
    write_with_blobs,
)
from tests.crash.lives_checks import check_commands, check_units, go_on
from tests.crash.stepper import mark

pytestmark = pytest.mark.usefixtures("ptrace")

KEPT: list[Store] = []  # stores that are never closed, as if their process had died


def survivors(point: KillPoint, check: Callable[[Store], object], *, opened_as_users_do: bool = False) -> None:
    """Check in a child what a victim left."""

    def run() -> None:
        with opened(point.directory, check=opened_as_users_do) as store:
            check(store)

    try:
        in_child(run)
    except ChildFailed as failure:
        failure.add_note(str(point))
        raise


def check_promises(point: KillPoint, *, promised: int = 0, group: int, opened_as_users_do: bool = False) -> None:
    """Check what acknowledgements promise, `promised` ones from before included, and that work goes on."""
    acknowledged = max([promised, *point.numbers("acknowledged")])

    def check(store: Store) -> None:
        count = check_units(store)
        assert acknowledged <= count <= acknowledged + group
        go_on(store, count)

    survivors(point, check, opened_as_users_do=opened_as_users_do)


def test_making_a_store(tmp_path):
    """A store that was killed while it was made can be opened and used as if nothing had been there."""
    for point in kill_points(make_and_append, tmp_path / "victims"):
        check_promises(point, group=1)


@pytest.mark.parametrize("sync", ["full", "off"])
def test_appending(tmp_path, sync):
    """Groups that were acknowledged are there, others are there whole or not at all; synced or not."""
    program = partial(append_groups, sync=sync)

    # Opening checks what wasn't closed cleanly, in an interpreter of its own; it must find no fault with any of these.
    for point in kill_points(program, tmp_path / "victims", prepare=make_store, begin="begin"):
        check_promises(point, group=2, opened_as_users_do=True)


def test_writing_with_blobs(tmp_path):
    """The same through the writer's thread, with groups, and with payloads that become blobs first."""
    for point in kill_points(write_with_blobs, tmp_path / "victims", prepare=make_store, begin="begin"):
        check_promises(point, group=3)


def check_inbox(point: KillPoint, *, put: int, consumed: int = 0) -> None:
    """Check that commands that were promised to be kept are consumed once, before the kill or after it."""
    put = max([put, *point.numbers("put")])
    consumed = max([consumed, *point.numbers("consumed")])
    survivors(point, partial(check_commands, put=put, consumed=consumed))


def test_commands_through_the_inbox(tmp_path):
    """A command that was put is consumed exactly once, whoever is killed when."""
    for point in kill_points(put_and_consume, tmp_path / "victims", prepare=make_store, begin="begin"):
        check_inbox(point, put=0)


def test_recovery_is_killed_too(tmp_path):
    """A store whose owner died is recovered; killed anywhere in that, it is recovered by the next one."""

    def crash(directory: Path) -> None:
        store = opened(directory)
        KEPT.append(store)
        epoch = store.acquire_ownership()
        write_rounds(store, epoch, [[1, 2], [3], [4], [5]])
        for number in (1, 2):
            store.inbox.put(str(number), b"payload of %d" % number)
        first = unit(record("inbox", b"1"), rows={("consumed", "1"): b"payload of 1"})
        store.log.append([first], epoch=epoch)

    def program(directory: Path) -> None:
        with opened(directory) as store:
            epoch = store.acquire_ownership()
            consume(store, epoch)
            store.log.append([numbered(6)], epoch=epoch)
            mark("acknowledged", 6)

    for point in kill_points(program, tmp_path / "victims", prepare=crash):
        check_promises(point, promised=5, group=1)
        check_inbox(point, put=2, consumed=1)


def test_collecting_garbage(tmp_path):
    """A garbage collection that is killed has removed nothing that is needed, and the next one ends it."""
    stray = b"nobody names this" * 10

    def prepare(directory: Path) -> None:
        with opened(directory) as store:
            write_rounds(store, store.acquire_ownership(), [[1], [2], [3], [4], [5]])
            store.blobs.put(stray)
            store.inbox.put("1", b"payload of 1")
            for where in ("inbox", "blobs/00"):
                (directory / "data" / where).mkdir(exist_ok=True)
                (directory / "data" / where / ".new-1-1").write_bytes(b"half")
        for path in directory.rglob("*"):
            os.utime(path, (0, 0))  # what is young is no garbage yet

    def collect(directory: Path) -> None:
        with opened(directory) as store:
            store.acquire_ownership()
            mark("begin")
            store.collect_garbage()

    def check(store: Store) -> None:
        assert 5 == check_units(store)
        assert ["1"] == [item.command_id for item in store.inbox.pending()]

    for point in kill_points(collect, tmp_path / "victims", prepare=prepare, begin="begin"):
        survivors(point, check)
        in_child(partial(collect, point.directory))
        survivors(point, check)
        data = point.directory / "data"
        assert [] == list(data.rglob(".new-*"))
        assert [LARGE_BYTES] == [path.stat().st_size for path in data.glob("blobs/*/*")]


@contextlib.contextmanager
def reading(directory: Path) -> Generator[None]:
    """Keep a process beside that has a view of the log open all the time, and look through it at the end."""
    ready_hear, ready_tell = os.pipe()
    end_hear, end_tell = os.pipe()

    def read() -> None:
        os.close(end_tell)
        with open_store(directory / "data", map_bytes=MAP_BYTES, check=False, read_only=True) as store:
            with store.log.reader() as reader:
                before = payloads(list(reader.records()))
                os.write(ready_tell, b"!")
                os.read(end_hear, 1)
                assert before == payloads(list(reader.records()))
            assert check_units(store) >= 3

    def hold() -> None:
        # A thread, because somebody has to wait for the child while the victim runs.
        try:
            in_child(read)
        except ChildFailed as failure:
            failures.append(failure)
        finally:
            os.write(ready_tell, b"!")

    failures: list[ChildFailed] = []
    thread = threading.Thread(target=hold)
    thread.start()
    os.read(ready_hear, 1)
    try:
        yield
    finally:
        os.close(end_tell)
        thread.join()
        for descriptor in (end_hear, ready_hear, ready_tell):
            os.close(descriptor)
    assert [] == failures


def test_a_reader_lives_on(tmp_path):
    """When the owner dies in a commit, a reader beside it keeps its view, and the next owner isn't held up."""

    def prepare(directory: Path) -> None:
        with opened(directory) as store:
            store.log.append([numbered(n) for n in (1, 2, 3)], epoch=store.acquire_ownership())

    def program(directory: Path) -> None:
        with opened(directory) as store:
            epoch = store.acquire_ownership()
            mark("begin")
            for number in (4, 5):
                store.log.append([numbered(number)], epoch=epoch)
                mark("acknowledged", number)

    victims = kill_points(
        program, tmp_path / "victims", prepare=prepare, selector=any_call, begin="begin", beside=reading
    )
    for point in victims:
        check_promises(point, promised=3, group=1)


def test_replacing_rows(tmp_path):
    """Rows that another polos computes are put in place all at once, or not at all; then work goes on."""
    old: dict[Key, bytes] = {("old", number): b"row" * 100 for number in range(300)}
    new: dict[Key, bytes] = {("new", number): b"other" * 100 for number in range(300)}

    def prepare(directory: Path) -> None:
        with opened(directory) as store:
            epoch = store.acquire_ownership()
            store.log.append([unit(record("a"), rows=dict(old))], epoch=epoch)

    def program(directory: Path) -> None:
        with opened(directory) as store:
            epoch = store.acquire_ownership()
            mark("begin")
            store.log.replace_rows(new, version=1, at=Position(1), epoch=epoch)
            mark("acknowledged", 1)

    def check(store: Store, *, acknowledged: bool) -> None:
        with store.log.reader() as reader:
            found = reader.rows_version(), dict(reader.rows())
        assert found in ([(1, new)] if acknowledged else [(0, old), (1, new)])
        epoch = store.acquire_ownership()
        store.log.replace_rows(new, version=1, at=Position(1), epoch=epoch)
        store.log.append([unit(record("a"), rows={("new", 0): None})], epoch=epoch)

    seen = 0
    for point in kill_points(program, tmp_path / "victims", prepare=prepare, begin="begin"):
        survivors(point, partial(check, acknowledged=bool(point.numbers("acknowledged"))))
        seen += 1
    assert seen > 3
