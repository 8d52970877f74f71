"""An exception that says when to come back is believed, within reason."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.engine.retry import RetryPolicy, next_delay_us
from polos.testing.simulation import Simulation

POLICY = RetryPolicy(max_retries=2, base_delay_seconds=1, max_delay_seconds=10)


class TooManyRequests(Exception):
    """What a client of some service raises."""

    retry_after_seconds = 90.0


calls: list[float] = []


@workflow(id="told_to_come_back")
async def told(ctx: WorkflowContext) -> int:
    """A step whose service asks for a minute and a half."""

    def ask() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise TooManyRequests
        return len(calls)

    return await ctx.step.run("ask", ask)


def test_the_next_attempt_waits_as_long_as_it_was_asked_to():
    """No attempt comes before the time that the exception names, and one comes right then."""
    calls.clear()
    with Simulation([told]) as sim:
        run = sim.create(told, None).run
        sim.run_for(89.9)
        before = len(calls)
        sim.run_for(0.2)

        assert (1, 2) == (before, len(calls))
        assert 2 == sim.result(run)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(30, 30), (30.5, 30.5), (0.1, 1), (-5, 1), (None, 1), ("60", 1), (nan, 1), (inf, 1), (10**9, 86_400)],
)
def test_what_counts_as_a_time_to_wait(asked: Any, seconds: float):
    """A longer time than the policy's is kept, up to a day; what is no number of seconds says nothing."""
    delay_us = next_delay_us(POLICY, failed_attempts=1, chance=0.0, asked_seconds=asked)

    assert round(seconds * 1e6) == delay_us


def test_nobody_comes_back_when_no_attempt_is_left():
    """What the exception asks for adds no attempt."""
    assert None is next_delay_us(POLICY, failed_attempts=3, chance=0.0, asked_seconds=30)
