"""
What each part of the suite costs, beside what it may cost.

A suite that takes a quarter of an hour is a suite that people stop running, and nobody sees the minute at which it
got too slow. So each part has a budget, and every run ends with the table. A part over its budget is shouted about
but doesn't fail the run: how fast a machine is says nothing about the change that is being tested.

A part's time is the time its tests took, divided by the processes that shared the work: with all of them busy that
is what the part adds to the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["BUDGET_SECONDS", "CHECKS", "Budget", "Cost", "part_of", "table"]

CHECKS: Final = "lint, types, imports"
UNIT: Final = "unit and docs"

BUDGET_SECONDS: Final[Mapping[str, int]] = {
    CHECKS: 90,
    UNIT: 120,
    "agents and models": 120,
    "properties": 240,
    "crash": 180,
    "sweep": 120,
    "controls": 90,
}

_FOLDERS: Final = {"property": "properties", "crash": "crash", "controls": "controls", "agents": "agents and models"}
_OF_MODELS: Final = ("test_llm_", "test_examples_api")  # quick each, but there are as many as of all the rest
_OF_THE_KIT: Final = ("test_testing_", "test_soak")  # what sweeps and explores, and half an hour of load made short
_KILLS: Final = ("test_demo",)


def part_of(nodeid: str, keywords: Iterable[str]) -> str:
    """Give the part a test belongs to: by its mark `sweep`, else by its file, else by its folder."""
    if "sweep" in keywords:
        return "sweep"
    *folders, file = nodeid.split("::", maxsplit=1)[0].split("/")
    if file.startswith(_OF_THE_KIT):
        return "sweep"
    if file.startswith(_KILLS):
        return "crash"
    if file.startswith(_OF_MODELS):
        return "agents and models"
    return next((_FOLDERS[folder] for folder in folders if folder in _FOLDERS), UNIT)


@dataclass
class Cost:
    """What a run took so far: seconds and tests by part."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    tests: Counter[str] = field(default_factory=Counter)


def table(cost: Cost, *, processes: int, check_status: int | None) -> list[str]:
    """Give the lines of the report; `check_status` is how the checks before the tests ended, None without any."""
    lines: list[str] = []
    for part, budget in BUDGET_SECONDS.items():
        is_checks = part == CHECKS
        if is_checks and check_status is None:
            continue
        took = cost.seconds[part] / (1 if is_checks else processes)
        what = ("passed" if check_status == 0 else "FAILED, see above") if is_checks else f"{cost.tests[part]} tests"
        over = f"   <<<<<< OVER BUDGET by {took - budget:.0f} s >>>>>>" if took > budget else ""
        lines.append(f"{part:<22}{took:8.1f} s of {budget:3} s   {what}{over}")
    return lines


class Budget:
    """The plugin that adds up the reports and prints the table before pytest's own last line."""

    def __init__(self, *, processes: int, check_seconds: float, check_status: int | None) -> None:
        self._cost = Cost()
        self._cost.seconds[CHECKS] += check_seconds
        self._processes = processes
        self._check_status = check_status

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of one test."""
        part = part_of(report.nodeid, report.keywords)
        self._cost.seconds[part] += report.duration
        if report.when == "call":
            self._cost.tests[part] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        terminalreporter.section("time of each part, and its budget")
        for line in table(self._cost, processes=self._processes, check_status=self._check_status):
            terminalreporter.write_line(line, red="OVER BUDGET" in line or "FAILED" in line)
