"""
What the short lives of `tests.crash.lives` must have left, whatever ended them.

A kill and a power cut differ in what they may take, not in what was promised; so the checks are the same, on an
open store, and whoever calls them knows what had been promised.
"""

from __future__ import annotations

from polos.errors import StoreFenced
from polos.store.directory import Store

from tests.contract.logs import payloads
from tests.crash.lives import body, consume, numbered

__all__ = ["check_commands", "check_units", "go_on"]


def check_units(store: Store) -> int:
    """Check that the log holds whole units from the first on, with their rows; give how many."""
    with store.log.reader() as reader:
        left = payloads(list(reader.stream("left")))
        count = len(left)
        numbers = range(1, count + 1)

        assert [b"%d" % number for number in numbers] == left == payloads(list(reader.stream("right")))
        assert [[body(number)] for number in numbers] == [payloads(list(reader.stream(f"own-{n}"))) for n in numbers]
        assert [number for number in numbers if number > count - 3] == [key[1] for key, _ in reader.rows(("unit",))]
        assert (b"%d" % count if count else None) == reader.row(("last",))
        # To read a record is to verify it against its place in the chain.
        positions = [item.position for item in reader.records()]
        assert [*range(1, len(positions) + 1)] == positions
        assert len(positions) == reader.head().position
    return count


def go_on(store: Store, count: int) -> None:
    """Check that the next owner gets a newer epoch and can append what comes next, and the one before can't."""
    with store.log.reader() as reader:
        before = reader.head().epoch
    epoch = store.acquire_ownership()

    assert epoch > before
    try:
        store.log.append([numbered(count + 1)], epoch=before)
    except StoreFenced:
        pass
    else:
        raise AssertionError(f"L7: an owner of epoch {before} could append under epoch {epoch}")
    assert 1 == len(store.log.append([numbered(count + 1)], epoch=epoch))
    assert count + 1 == check_units(store)


def check_commands(store: Store, *, put: int, consumed: int = 0) -> None:
    """
    Check that commands are there or recorded, each once and whole, and that the next owner consumes the rest.

    Args:
        store: owned by nobody.
        put: up to which number they were promised to be kept; the next one may be there.
        consumed: up to which number they were promised to be recorded.
    """
    with store.log.reader() as reader:
        recorded = [int(payload) for payload in payloads(list(reader.stream("inbox")))]
    kept = [int(item.command_id) for item in store.inbox.pending()]

    assert [*range(1, len(recorded) + 1)] == recorded, f"not each command once: {recorded}"
    assert len(recorded) >= consumed, f"{consumed} commands were recorded, and {len(recorded)} are"
    assert set(range(1, put + 1)) <= {*recorded, *kept}, f"{put} commands were put, and {recorded} and {kept} are there"
    assert {*recorded, *kept} <= set(range(1, put + 2)), f"nobody put so many: {recorded} and {kept}"
    consume(store, store.acquire_ownership())
    with store.log.reader() as reader:
        names = [str(number).encode() for number in sorted({*recorded, *kept})]
        assert names == payloads(list(reader.stream("inbox")))
        assert [b"payload of " + name for name in names] == [value for _, value in reader.rows(("consumed",))]
    assert [] == list(store.inbox.pending())
