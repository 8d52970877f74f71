"""
The whole engine, killed: at every named point of the commit path, and at random.

Each test is many short lives on one directory, all but the last one killed, under a load that does a little of
everything. What has to hold afterwards is in `engine_checks`, each promise a function; what really happened is told
by a ledger that the engine doesn't know.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from polos.points import POINTS

from tests.campaign import SEED, scaled
from tests.crash.children import in_child
from tests.crash.engine_checks import CHECKS, find
from tests.crash.engine_lives import Plan, client, fresh_life, killed_life, warm

ROUNDS = scaled(20, 400)
KILLS_A_ROUND = 20
FRESH = scaled(10, 100)
KILLS_A_POINT = scaled(7, 70)
KILLED = -signal.SIGKILL

# Where a life comes at least once, but perhaps no more.
RARE = frozenset(POINTS[-6:]) | {"blob_before_append"}


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


def check(directory: Path) -> None:
    """Check all that was promised, in a child: this process must never open a store."""

    def look() -> None:
        found = find(directory)
        for promise in CHECKS:
            promise(found)

    in_child(look)


def finish(directory: Path) -> None:
    """Let the last life come to its end, and see that everything is as it was promised."""
    assert 0 == killed_life(directory, Plan(999, runs=1))

    check(directory)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point(tmp_path, point):
    """Killed at a named point of the commit path, again and again, each time a little later: every promise holds."""
    deaths = []
    with client(tmp_path):
        for number in range(KILLS_A_POINT):
            step = number % 7  # a long campaign goes through these again: a life comes there some thirty times, no more
            nth = 1 if point in RARE else 1 + step * step // 2
            deaths.append(killed_life(tmp_path, Plan(number, point, nth)))
        finish(tmp_path)

    assert [KILLED] * KILLS_A_POINT == deaths


@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_at_random(tmp_path, number):
    """Killed at random points and moments, twenty times: every promise holds."""
    chance = random.Random(f"{SEED}-{number}")
    life = kills = 0
    with client(tmp_path):
        while kills < KILLS_A_ROUND:
            life += 1
            if chance.random() < 0.5:
                plan = Plan(life, chance.choice(POINTS), round(chance.triangular(1, 30, 1)))
            else:
                plan = Plan(life, seconds=chance.triangular(0.02, 0.25, 0.05))
            kills += killed_life(tmp_path, plan) == KILLED
        finish(tmp_path)


@pytest.mark.parametrize("number", range(FRESH // 5))
def test_killed_in_a_fresh_interpreter(tmp_path, number):
    """The same with interpreters of their own, which check the store and read the sources, too: nothing is lost."""
    chance = random.Random(f"{SEED}-fresh-{number}")
    with client(tmp_path):
        deaths = [fresh_life(tmp_path, Plan(life, chance.choice(POINTS))) for life in range(5)]
        finish(tmp_path)

    assert [KILLED] * 5 == deaths
