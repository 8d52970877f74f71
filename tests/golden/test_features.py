"""No feature is without a golden history: those that the code names are found in it, the others stand in a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_overloads

import pytest
from polos import Agent, Budget, Queue, RateLimit, Retention, RetryPolicy, Tool, workflow
from polos.step import Step

from tests.golden import features
from tests.golden.form import FOLDER, cases
from tests.golden.test_golden import UNWRITTEN

CASES = cases()
MADE: dict[str, Callable[..., Any]] = {
    "workflow": get_overloads(workflow)[-1],  # the form with arguments
    "tool": Tool, "Agent": Agent, "Queue": Queue, "RateLimit": RateLimit, "Retention": Retention,
    "RetryPolicy": RetryPolicy, "Budget": Budget,
}  # fmt: skip


def parameters(name: str) -> list[str]:
    """Give the names of the arguments of a definition, in their order."""
    found = [
        one.name
        for one in inspect.signature(MADE[name]).parameters.values()
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and one.name != "func"
    ]
    return [*found, *(features.agent_options() if name == "Agent" else ())]


def test_every_heading_has_its_histories():
    """Each heading of a page about features stands in the table, and none that isn't there any more."""
    assert set(features.headings()) == set(features.FEATURES)


def test_every_history_shows_a_feature():
    """What the table names is kept, and what is kept is named by it."""
    kept = {case.name for case in CASES} | {path.parent.name for path in FOLDER.glob("format-*/*/store.tar.xz")}

    assert kept == {name for names in features.FEATURES.values() for name in names.split()}


def test_every_field_of_an_event_is_in_a_golden_history():
    """Each field has been recorded with something in it, but for those that have a reason."""
    found = {one for one in features.unwritten_fields(CASES) if one.partition(".")[0] not in UNWRITTEN}

    assert set(features.NOT_RECORDED) == found, "write a case: python -m tests.golden.make NAME"


@pytest.mark.parametrize("name", MADE)
def test_every_argument_is_in_a_golden_program(name: str):
    """Each argument of a definition is given by some golden program, but for those that have a reason."""
    assert set(features.ARGUMENTS[name]) == features.unused_names({name: parameters(name)})[name]


def test_every_method_of_a_step_is_in_a_golden_program():
    """Each method of `ctx.step` is called by some golden program."""
    methods = {name for name, found in inspect.getmembers(Step, callable) if not name.startswith("_")}

    assert len(methods) > 20
    assert set() == methods - features.methods_called()
