"""Ids of new runs: each is behind the one before, and behind what was there."""

from __future__ import annotations

import pytest
from polos.clock import RunIds
from polos.testing.clock import VirtualClock

DAY_US = 86_400_000_000


def test_ids_go_on_behind_those_that_are_there() -> None:
    """Where clock and chance begin anew, nothing that was made before is made again, and the order is kept."""
    first = RunIds(VirtualClock())
    made = [first.new() for _ in range(3)]
    again = RunIds(VirtualClock())
    again.go_on(made[-1])

    assert made == sorted({*made})
    assert made[-1] < again.new()


@pytest.mark.parametrize(
    "last", ["", "zebra", "ffffffff-ffff-4fff-bfff-ffffffffffff", "F19B76DA-A800-7000-A1C3-536CE76DE57A"]
)
def test_ids_from_elsewhere_do_not_lead(last: str) -> None:
    """A run may have any id; one that isn't made here doesn't keep others from having their time in them."""
    plain, led = RunIds(VirtualClock()), RunIds(VirtualClock())
    led.go_on(last)

    assert plain.new() == led.new()


def test_an_id_that_is_older_changes_nothing() -> None:
    """The way back is no way: what is behind anyway stays as it is."""
    clock = VirtualClock()
    older = RunIds(clock).new()
    clock.advance(DAY_US)
    ids = RunIds(clock)
    before = ids.new()
    ids.go_on(older)

    assert before < ids.new()
