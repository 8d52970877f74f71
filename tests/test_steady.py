"""Time that never goes back and never stands still, whatever the clock below does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polos import WorkflowContext, workflow
from polos.runtime.steady import RATE, SteadyClock
from polos.testing.clock import VirtualClock
from polos.testing.loop import SimulatedLoop
from polos.testing.simulation import Simulation

HOUR_US = 3_600_000_000

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(0, 2 * HOUR_US)),
        st.tuples(st.just("jump"), st.integers(-3 * HOUR_US, 3 * HOUR_US)),
    ),
    max_size=30,
)


@given(moves=MOVES, recorded=st.integers(0, HOUR_US))
def test_it_goes_on_and_never_back(moves: list[tuple[str, int]], recorded: int) -> None:
    """It advances with time, is never behind the clock below, and ahead by no more than that was set back."""
    below = VirtualClock()
    clock = SteadyClock(below)
    clock.not_before(below.now_us() + recorded)
    before, most_ahead = clock.now_us(), recorded
    for move, by_us in moves:
        wall_us = below.now_us()
        getattr(below, move)(by_us)
        now_us = clock.now_us()
        if move == "advance":
            assert now_us - before >= int(by_us * RATE) - 1
        else:
            most_ahead += max(wall_us - below.now_us(), 0)
        assert now_us >= max(before, below.now_us())
        assert now_us - below.now_us() <= most_ahead
        before = now_us


def test_an_error_fades_away() -> None:
    """Ten hours after the clock was set back by one, the two clocks are the same again, and stay so."""
    below = VirtualClock()
    clock = SteadyClock(below)
    clock.now_us()
    below.jump(-HOUR_US)
    assert clock.is_behind
    for _ in range(11):
        below.advance(HOUR_US)
        clock.now_us()
    assert not clock.is_behind
    assert below.now_us() == clock.now_us()


@pytest.mark.parametrize(
    ("jump_us", "wanted_seconds"),
    [
        (0, 60),
        (-HOUR_US, 61),  # set back while it is waited: what has passed since counts nearly whole
        (30_000_000, 30),
        (HOUR_US, 5),
    ],
)
def test_a_moment_comes_once(jump_us: int, wanted_seconds: int) -> None:
    """A moment a minute off comes once, late by no more than a tenth; a jump forward brings it nearer."""
    below = VirtualClock()
    clock = SteadyClock(below)
    loop = SimulatedLoop(below)
    came: list[int] = []

    async def wait() -> None:
        due_us = clock.now_us() + 60_000_000
        clock.call_at(due_us, lambda: came.append(below.monotonic_us()))

    task = loop.create_task(wait())
    loop.run_for(5_000_000)
    below.jump(jump_us)
    loop.run_for(HOUR_US)
    loop.run_for(2 * HOUR_US)
    loop.close()

    assert task.done()
    assert 1 == len(came)
    assert wanted_seconds <= came[0] / 1e6 <= wanted_seconds + 6


def test_a_moment_that_is_cancelled_does_not_come() -> None:
    """A handle's cancel takes both ways of waking back."""
    below = VirtualClock()
    clock = SteadyClock(below)
    loop = SimulatedLoop(below)
    came: list[str] = []

    async def wait() -> None:
        clock.call_at(clock.now_us() + 1_000, lambda: came.append("it came")).cancel()

    loop.create_task(wait())
    loop.run_for(10_000_000)
    loop.close()

    assert [] == came


@workflow(id="naps")
async def naps(ctx: WorkflowContext) -> None:
    """Wait for a second, sixty times."""
    for _ in range(60):
        await ctx.step.wait_for("nap", seconds=1)


@pytest.mark.parametrize("crash", [False, True])
def test_waits_go_on_when_the_clock_was_set_back(crash: bool) -> None:
    """A clock that was a day ahead for a while holds nothing up: seconds stay seconds, here and in the next engine."""
    with Simulation([naps]) as sim:
        sim.clock.jump(24 * HOUR_US)
        call = sim.create(naps, None)
        sim.run_for(10)
        sim.clock.jump(-24 * HOUR_US)
        if crash:
            sim.recover()
        sim.run_for(70)

        assert sim.audit.end_of(call.run) is not None
