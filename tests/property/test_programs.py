"""
The engine's promises, on generated programs, under generated disturbances.

Each property is named by its number in the design. What `Audit` looks at by itself, at each commit and each call of a
step: E1 (all that is recorded folds), E3 (a step ends once), E4 (who ended owes nothing), E8 (a step that ended isn't
called again), the output rule, and that recorded time never goes back.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from polos.engine import events as e
from polos.store.faults import Fault
from polos.testing.simulation import Simulation

from tests.campaign import scaled
from tests.property.generated import disturbances, racing, steady, ungentle
from tests.property.oracle import Raised, expected
from tests.property.playing import play
from tests.property.programs import Node, program
from tests.property.replaying import check_replay, continues

SEEDS = st.integers(0, 1_000)


def outcome(sim: Simulation, run: str) -> Any:
    """Give a run's result, or the name of what it failed with."""
    end = sim.audit.end_of(run)
    if isinstance(end, e.RunContinued):
        return outcome(sim, end.successor)
    if isinstance(end, e.RunFailed):
        return f"raised {end.error.type}"
    assert isinstance(end, e.RunCompleted)
    return end.result


def meaning(node: Node) -> Any:
    """Give what a program's outcome must be."""
    try:
        return expected(node)
    except Raised as raised:
        return f"raised {raised.name}"


def called_too_often(sim: Simulation) -> dict[tuple[str, str], int]:
    """Give the steps that were called more often than they fail, for an engine that didn't crash."""
    found: dict[tuple[str, str], int] = {}
    for (run, name), calls in sim.world.calls.items():
        _, fails, retries, *_ = [*name.partition("#")[0].split("-"), "0", "0"]
        # A run that is tried again calls what the attempt before gave up.
        if sim.audit.states[run].retries == 0 and calls > min(int(fails), int(retries)) + 1:
            found[run, name] = calls
    return found


def look(sim: Simulation) -> None:
    """Look at everything that must hold when all is over."""
    assert [] == [event.message for event in sim.audit.diverged]
    sim.audit.check_rows()
    if not sim.alive:
        sim.start()
    for run in sim.audit.states:
        sim.audit.check_folding(run)
        check_replay(sim, run)
        continues(sim, run, every=3)


@settings(max_examples=scaled(150, 20_000))
@given(steady, disturbances, SEEDS)
def test_e8_disturbances_change_no_result(node: Node, what: list[Node], seed: int) -> None:
    """E8, E9: a program gives what its tree means, whatever happens to the engine meanwhile."""
    with Simulation([program], seed=seed, latency_us_max=seed % 3 * 400) as sim:
        call = play(sim, node, what)

        assert meaning(node) == outcome(sim, call.run)
        look(sim)


@settings(max_examples=scaled(150, 20_000))
@given(racing, ungentle, SEEDS)
def test_e6_whatever_happened_replays(node: Node, what: list[Node], seed: int) -> None:
    """E6: whatever order things took in a program that races with itself, its history replays."""
    with Simulation([program], seed=seed, latency_us_max=seed % 3 * 400) as sim:
        play(sim, node, what)

        look(sim)


@settings(max_examples=scaled(8, 1_000))
@given(steady, SEEDS)
def test_e8_a_crash_at_every_moment(node: Node, seed: int) -> None:
    """E8: a crash at any moment that can make a difference, and recovery, change no result and repeat no step."""
    with Simulation([program], seed=seed) as sim:
        play(sim, node, [])
        ticks = sim.world.ticks
    for tick in range(1, ticks + 1):
        with Simulation([program], seed=seed) as sim:
            sim.world.crash_at.add(tick)
            call = play(sim, node, [])

            assert 2 == sim.world.life
            assert meaning(node) == outcome(sim, call.run)
            look(sim)


@settings(max_examples=scaled(4, 1_000))
@given(steady, SEEDS, st.sampled_from(list(Fault)))
def test_e8_a_failure_of_every_append(node: Node, seed: int, fault: Fault) -> None:
    """E8: whichever append fails, and however, no result changes and no step is repeated, the call itself included."""
    with Simulation([program], seed=seed) as sim:
        play(sim, node, [])
        appends = sim.plan.appends
    for number in range(1, appends + 1):
        with Simulation([program], seed=seed) as sim:
            sim.plan.at(number, fault)
            call = play(sim, node, [])

            assert meaning(node) == outcome(sim, call.run)
            assert {} == called_too_often(sim)
            look(sim)
