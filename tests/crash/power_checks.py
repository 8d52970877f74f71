"""
What must hold of a data directory after a power cut, given what had been promised.

Each check gets an image laid out, what had been promised at the last moment at which a cut could have left it (all
of that must be there) and at the first (nothing that was begun later may be). It opens the store as a user does,
which looks for damage first, looks at everything, and goes on working there.
"""

from __future__ import annotations

from pathlib import Path

from polos.errors import NotAPolosStore
from polos.store.directory import Store, open_store

from tests.crash.lives import MAP_BYTES
from tests.crash.lives_checks import check_commands, check_units, go_on
from tests.crash.power_server import Promises, walk

__all__ = ["copies", "units_and_commands"]

GROUP = 3  # units that go into one commit at most


def units_and_commands(top: Path, last: Promises, first: Promises) -> None:
    """Check L1 to L8 on what the lives of `tests.crash.lives` leave: units, blobs and commands."""
    data = top / "data"
    with open_store(data, map_bytes=MAP_BYTES, sync="off") as store:
        _owned_since(store, last)
        count = check_units(store)
        least, most = (max([0, *passed.get("acknowledged", [])]) for passed in (last, first))
        assert count >= least, f"{least} units were acknowledged, and {count} are there"
        assert count <= most + GROUP, f"{most} units were acknowledged, and {count} are there already"
        put, consumed = max([0, *last.get("put", [])]), max([0, *last.get("consumed", [])])
        check_commands(store, put=put, consumed=consumed)
        assert not (data / "inbox" / "unreadable").exists(), "a command was torn"
        store.release_ownership()
        go_on(store, count)
    report = walk(data)
    assert report.damage is None, str(report.damage)


def copies(top: Path, last: Promises, first: Promises) -> None:
    """Check that a backup is whole, or no store; and there, if it was told to be."""
    goal = top / "copies" / "copy"
    try:
        store = open_store(goal, map_bytes=MAP_BYTES, read_only=True)
    except NotAPolosStore:
        assert not last.get("copied"), "a backup was made, and is none"
        return
    with store:
        assert check_units(store) == 5, "a backup without all that there was"
        assert [item.command_id for item in store.inbox.pending()] == ["1"], "a backup without its command"
    report = walk(goal)
    assert report.damage is None, str(report.damage)


def _owned_since(store: Store, promised: Promises) -> None:
    """Check L7: an epoch that was taken isn't given away again."""
    with store.log.reader() as reader:
        epoch = reader.head().epoch
    taken = max([len(promised.get("begin", [])), *promised.get("owned", [])])
    assert epoch >= taken, f"epoch {taken} was taken, and {epoch} is the last that is known"
