"""
Queues, schedules, triggers and children at once, killed: at random from outside, and at the points of the commit path.

Each test is many short lives on one directory, all but the last killed, each with a clock ahead of the one before, and
a client beside them that goes by way of the inbox. What has to hold afterwards is in `line_checks`.
"""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path

import pytest
from polos.points import POINTS

from tests.campaign import SEED, scaled
from tests.crash.children import in_child
from tests.crash.engine_lives import client, forked
from tests.crash.line_checks import CHECKS, find
from tests.crash.line_lives import Death, attend, live, warm

ROUNDS = scaled(3, 200)
KILLS_A_ROUND = 8
KILLED = -signal.SIGKILL


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


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_mixed_load_is_killed_at_random(tmp_path, number):
    """Whoever is killed when: what was told is there, every run ends, and none is there twice."""
    chance = random.Random(f"{SEED}-lines-{number}")
    lived = kills = 0
    with client(tmp_path, attend):
        while kills < KILLS_A_ROUND:
            if chance.random() < 0.4:
                death, seconds = Death(chance.choice(POINTS), round(chance.triangular(1, 40, 4))), None
            else:
                death, seconds = Death(), chance.triangular(0.02, 0.4, 0.12)
            kills += forked(partial(live, tmp_path, lived, death), kill_after_seconds=seconds) == KILLED
            lived += 1
    assert 0 == forked(partial(live, tmp_path, lived, Death(), last=True))

    check(tmp_path)
