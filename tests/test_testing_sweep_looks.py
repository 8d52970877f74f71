"""What a crash sweep holds against each replay, and the arguments and checks that it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from polos.testing import CrashOutcome

from tests import sweep_workflows as w
from tests.test_testing_sweep import failure, swept


@pytest.mark.parametrize(
    ("flow", "answers", "text"),
    [
        (w.keeps_the_time, {}, "StateChanged: ctx.state: changes in another way"),
        (w.waits_by_chance, {}, "RequestChanged: timer 'pause'"),
        (w.asks_by_chance, {"approve": 1}, "RequestChanged: wait 'approve'"),
    ],
    ids=["state", "timer", "suspend"],
)
def test_whatever_code_asks_for_otherwise_is_found(flow: Any, answers: dict[str, Any], text: str):
    """Replayed, it has to ask for the same state, timers and waits, not only for the same steps; the line is told."""
    failed = failure(flow, answers=answers)

    assert "replayed, it asks for something else" in failed.differences[0]
    assert text in failed.differences[0]
    assert ("sweep_workflows.py:" in failed.differences[0]) is (flow is not w.keeps_the_time)


@pytest.mark.parametrize("check", [lambda _: False, lambda _: _never()], ids=["False", "a coroutine"])
def test_a_check_that_cannot_fail_is_refused(check: Any):
    """A check raises; one that gives False, or what nobody awaits, would let everything pass."""
    with pytest.raises(TypeError, match="check is a plain function that raises"):
        swept(w.small, check=check)


async def _never() -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": "x"}, "seed is a whole number, it is 'x'"),
        ({"seed": None}, "seed is a whole number, it is None"),
        ({"real": "no"}, "real is True or False, it is 'no'"),
        ({"every_point": 1}, "every_point is True or False, it is 1"),
        ({"workflows": w.small}, "workflows is a list of workflows"),
    ],
)
def test_wrong_arguments_are_told(options: dict[str, Any], text: str):
    """What makes no sense is refused by its name before anything is begun."""
    with pytest.raises(TypeError, match=text):
        swept(w.small, **options)


def test_an_effect_in_the_body_is_explained():
    """A body that acts outside of steps fails without a crash, and the page says that its code is run once more."""

    def check(outcome: CrashOutcome) -> None:
        assert 1 == w.bank.count("acted")

    failed = failure(w.acts_in_its_body, check=check)

    assert "no crash is needed" in str(failed)
    assert "what a body does besides steps is done again" in str(failed)


def test_a_step_that_is_never_awaited_is_found():
    """A forgotten `await` is no warning among many: the step never runs, and the page has the line."""
    failed = failure(w.forgets_to_await)

    assert re.search(
        r"Step.run is called at .*sweep_workflows.py:\d+ and never awaited, so it does nothing", failed.differences[0]
    )
