"""The report at the end of a run must put each test into its part and shout where a budget is broken."""

from __future__ import annotations

import pytest

from tests.budget import BUDGET_SECONDS, CHECKS, Cost, part_of, table


@pytest.mark.parametrize(
    ("nodeid", "keywords", "part"),
    [
        ("tests/test_errors.py::test_a", [], "unit and docs"),
        ("tests/docs/test_examples.py::test_a", [], "unit and docs"),
        ("tests/contract/test_log.py::test_property", ["property"], "unit and docs"),
        ("tests/agents/test_loop.py::test_a", [], "agents and models"),
        ("tests/test_llm_openai.py::test_a", [], "agents and models"),
        ("tests/test_testing_sweep_world.py::test_a", [], "sweep"),
        ("tests/test_demo.py::test_a", [], "crash"),
        ("tests/property/test_e.py::test_a", [], "properties"),
        ("tests/crash/test_kill.py::test_a[controls/1]", [], "crash"),
        ("tests/controls/test_engines.py::test_a", [], "controls"),
        ("tests/crash/test_kill.py::test_a", ["sweep"], "sweep"),
    ],
)
def test_part(nodeid, keywords, part):
    """A test belongs to the part of its folder, unless it is marked as a sweep."""
    assert part == part_of(nodeid, keywords)


def test_over_budget_is_shouted():
    """Exactly the parts that took longer than their budget, shared among the processes, are shouted about."""
    cost = Cost()
    cost.seconds.update({"crash": 2 * BUDGET_SECONDS["crash"] + 20, "controls": 2 * BUDGET_SECONDS["controls"]})
    cost.tests.update({"crash": 3})

    lines = table(cost, processes=2, check_status=0)

    assert list(BUDGET_SECONDS) == [line[:22].strip() for line in lines]
    assert ["crash"] == [line[:22].strip() for line in lines if "OVER BUDGET by 10 s" in line]
    assert ["crash"] == [line[:22].strip() for line in lines if "OVER" in line]


@pytest.mark.parametrize(("status", "text"), [(0, "passed"), (2, "FAILED")])
def test_checks_are_named(status, text):
    """The checks that ran before the tests stand in the table with how they ended, undivided."""
    cost = Cost()
    cost.seconds[CHECKS] = 91

    line = table(cost, processes=2, check_status=status)[0]

    assert line.startswith(CHECKS)
    assert text in line
    assert "OVER BUDGET by 1 s" in line


def test_a_run_without_checks_has_no_line_for_them():
    """Tests run by hand come without checks, and the table doesn't pretend that they passed."""
    assert all(CHECKS not in line for line in table(Cost(), processes=1, check_status=None))
