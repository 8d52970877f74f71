"""Answers that nothing asks for: refused where that is certain, told where it isn't."""

from __future__ import annotations

from typing import Any

import pytest
from polos import workflow
from polos.errors import PolosUsageError
from polos.testing import CrashSweepFailed, Outside
from polos.testing.sweep import sweep

orders = Outside("answers")


async def place() -> str:
    """Place an order, of which there may be one."""
    if orders.count("placed"):
        raise ValueError("there is one")
    orders.note("placed")
    return "placed"


@workflow(id="answers-waits")
async def waits(ctx) -> Any:
    return await ctx.step.wait_for_signal("paid")


@workflow(id="answers-orders")
async def places(ctx, payload: dict[str, str]) -> Any:
    """Ask a person what to do with an order that there is already, which only a recovery comes upon."""
    try:
        return await ctx.step.run("place", place, effect=payload["effect"], max_retries=0)
    except Exception:
        return (await ctx.step.suspend("look", {})).data


NOTHING = "answers has {}, and nothing has asked for that (asked for was {})"


def swept(which: Any, answers: dict[str, Any], *, effect: str = "idempotent", **options: Any) -> list[str]:
    """Sweep in this process; gives the notes."""
    report = sweep(which, {"effect": effect}, **{"answers": answers, "processes": 0, "pairs": 0, **options})
    return report.notes


def test_a_key_that_nothing_asks_for_is_refused():
    """Every point was tried, so it is misspelt or left over; what was asked for is said as well."""
    with pytest.raises(PolosUsageError) as refused:
        swept(waits, {"paid": 1, "piad": 2, "called": len})

    assert NOTHING.format("'piad', 'called'", "'paid'") + ", although every point was tried" == str(refused.value)


def test_of_a_sample_it_is_told():
    """A point that wasn't tried may be the one at which it is asked for."""
    assert [NOTHING.format("'piad'", "'paid'")] == swept(waits, {"paid": 1, "piad": 2}, points=2)


def test_what_is_asked_in_a_recovery_alone_is_asked_for():
    """Neither refused nor told, though the undisturbed run knows nothing of it."""
    assert [] == swept(places, {"look": "placed"})
    with pytest.raises(PolosUsageError, match=r"answers has 'lok'.*asked for was 'look'"):
        swept(places, {"look": "placed", "lok": "placed"})


def test_a_misspelt_step_of_unknown_outcome_is_refused():
    """Its scenarios end uncompared, which would look as if all was well."""
    assert [] == swept(places, {"place": "placed"}, effect="at_most_once")
    with pytest.raises(PolosUsageError, match=r"answers has 'palce'.*asked for was 'place'"):
        swept(places, {"palce": "placed"}, effect="at_most_once")


def test_a_step_whose_outcome_is_always_known_is_told():
    """Its effect class may be another one some day; a sample doesn't even know whether it is asked for."""
    answers = {"look": "placed", "place": "placed"}

    assert [NOTHING.format("'place'", "'look'")] == swept(places, answers)
    assert [] == swept(places, {"look": "placed", "pl*": 1, "place": 1}, points=1)


def test_a_beginning_is_told():
    """It may be for names that nobody knows before; one that another key was preferred to did its part."""
    assert [] == swept(waits, {"paid": 1, "p*": 2, "*": 3})
    assert [NOTHING.format("'q*'", "'paid'")] == swept(waits, {"paid": 1, "q*": 2})


def test_a_run_that_waits_in_vain_tells_of_it():
    """What is asked for and what is answered stand one above the other."""
    with pytest.raises(CrashSweepFailed) as failed:
        swept(waits, {"piad": 1})

    assert NOTHING.format("'piad'", "'paid'") == failed.value.differences[-1]


@pytest.mark.sweep
def test_what_child_processes_ask_for_nobody_knows_here():
    """So nothing is refused there."""
    assert NOTHING.format("'piad'", "'paid'") in swept(waits, {"paid": 1, "piad": 2}, real=True)
