"""
Generated workflows are killed at every moment: the share of `make torture` that every run of the suite takes.

Split into parts, so that the processes that share a run share these, too.
"""

from __future__ import annotations

import pytest

from tests import torture as tortures
from tests.campaign import SEED, scaled
from tests.torture import Tortured, torture

PARTS = 8
SCENARIOS = scaled(3_000, 40_000)


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_moment(part: int) -> None:
    """Whatever a program is made of and whatever else happens to it, a crash at any moment changes no result."""
    done = Tortured()
    number = part
    while done.scenarios < SCENARIOS / PARTS:
        done.add(torture(SEED, number))
        number += PARTS

    assert [] == done.failures


def test_a_failure_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that fails is told with the command that repeats it, the tick, the program and what disturbed it."""
    monkeypatch.setattr(tortures, "meaning", lambda _: "something else")

    done = torture(SEED, 3)

    assert done.failures[0].startswith(f"python -m tests.torture --seed {SEED} --first 3 --programs 1\ntick 1 of [")


@pytest.mark.parametrize(("seed", "number"), [(2, 8), (4, 9), (5, 10)])
def test_each_scenario_has_its_crash(seed: int, number: int) -> None:
    """Moments are counted where they happen: on a disk that is as slow, which makes other moments of these programs."""
    done = torture(seed, number)

    assert [] == done.failures
    assert done.scenarios > 0


def test_a_scenario_without_its_crash_is_no_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment that never comes shows nothing: it is a failure of the torture."""
    monkeypatch.setattr(tortures, "_ticks", lambda *_: [1, 10_000])

    done = torture(SEED, 3)

    assert 3 == len(done.failures)
    assert "nothing crashed: there were" in done.failures[0]
