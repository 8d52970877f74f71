"""
What generated programs have found, kept: the smallest program of each defect, and what happened to it.

Chance would find each of them again, but not in every run of the suite. Each is also killed at every moment.
"""

from __future__ import annotations

import pytest
from polos.testing.simulation import Simulation

from tests.property.playing import play
from tests.property.programs import Node, program
from tests.property.test_programs import look, meaning, outcome

NEVER: Node = ["signal", "never", None]
STEP: Node = ["step", "a", 0, 0, 2_000, "idempotent"]
ONCE: Node = ["step", "b", 0, 0, 70_000, "at_most_once"]

FOUND: dict[str, tuple[Node, list[Node]]] = {
    "a child that nobody awaits was detached when the run ended": (["seq", [["flaky", 1], ["orphan", STEP]]], []),
    "a second attempt began before the first one's end was durable": (
        ["seq", [["orphan", STEP], ["flaky", 1]]],
        [["stop"], ["update"]],
    ),
    "a run that was read again began at the time of its last record": (
        ["seq", [["sleep", 1.0], STEP, ["sleep", 1.0], ["sleep", 20.0]]],
        [["run", 900], ["run", 900], ["crash"], ["run", 900], ["crash"]],
    ),
    "a fact that was recorded and not delivered was forgotten in a run that waits": (
        ["batch", [["timeout", NEVER, 2.0], ["timeout", NEVER, 2.0]]],
        [],
    ),
    "nobody was asked about a step of unknown outcome after a second crash": (
        ["step", "c", 0, 0, 3_000_000, "at_most_once"],
        [["run", 900], ["crash"], ["die", 2], ["run", 1]],
    ),
    "a request answered by an earlier attempt couldn't be given up": (
        ["seq", [["failing_group", [["timeout", NEVER, 2.0], ONCE], ["signal", "never", 5.0], STEP], ["flaky", 1]]],
        [],
    ),
    "code gave up what was answered and not delivered yet": (
        ["cancelled", ["suspend", "x", None], ["suspend", "x", None]],
        [],
    ),
    "cleaning up that was refused warned of a coroutine that nobody awaited": (
        ["left_behind", ["finally", STEP, ["wait_for", ["state", "c"], 10_000_000.0]], ["value", "now"]],
        [],
    ),
    "a clock set back kept a failed log from being tried again": (
        ["seq", [STEP, ONCE]],
        [["fail", "UNKNOWN_LOST"], ["run", 1], ["jump", -1_000_000]],
    ),
    "an update with the name of a step under way was taken for its answer": (
        ["step", "a", 0, 0, 3_000_000, "idempotent"],
        [["run", 900], ["update"], ["run", 1], ["crash"]],
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_found_once(what: str) -> None:
    """What was found once isn't found again, in what led to it."""
    node, disturbances = FOUND[what]
    with Simulation([program], seed=1, latency_us_max=400) as sim:
        call = play(sim, node, disturbances)

        assert meaning(node) == outcome(sim, call.run)
        look(sim)


@pytest.mark.parametrize("what", FOUND)
def test_found_once_and_killed_at_every_moment(what: str) -> None:
    """What was found once isn't found again, wherever the engine dies."""
    node, _ = FOUND[what]
    with Simulation([program], seed=1) as sim:
        play(sim, node, [])
        ticks = sim.world.ticks
    for tick in range(1, ticks + 1):
        with Simulation([program], seed=1) as sim:
            sim.world.crash_at.add(tick)
            call = play(sim, node, [])

            assert meaning(node) == outcome(sim, call.run)
            look(sim)
