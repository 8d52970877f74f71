"""
What pytest sees of the kit: options and fixtures.

`polos.testing` names this module in its `pytest_plugins`, so that the package itself can be imported without pytest, by
the child processes of a crash sweep among others. Loading it must cost next to nothing, because a project that uses the
kit in three tests loads it for all of them: nothing of polos is imported before a test asks for it.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import pytest

from polos.testing.fixtures import (
    polos,
    polos_clock,
    polos_events,
    polos_faults,
    polos_hanging,
    polos_lmdb,
    polos_settings,
)
from polos.testing.sweep_fixture import NAMES, PROPERTY, finish, polos_crash

__all__ = [
    "polos",
    "polos_clock",
    "polos_crash",
    "polos_events",
    "polos_faults",
    "polos_hanging",
    "polos_lmdb",
    "polos_settings",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
]

_elsewhere: Final = pytest.StashKey[list[tuple[bool, list[str]]]]()

REWRITTEN = "polos recorded run rewritten"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("polos", "durable execution")
    group.addoption(
        "--polos-accept",
        action="store_true",
        default=False,
        help="rewrite recorded runs that differ from the current code, where that can be done honestly",
    )
    group.addoption(
        "--polos-crash",
        action="store_true",
        default=False,
        help="tests that use polos_crash try every crash point, and pairs, instead of a sample",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell whoever compares with a recording whether to accept."""
    if config.getoption("--polos-accept", default=False):  # a plugin named by a test module comes too late for options
        from polos.testing.accepting import ACCEPTING

        ACCEPTING.set(True)


@pytest.hookimpl(tryfirst=True)  # the report of the test, which may go to another process, is made behind this
def pytest_runtest_makereport(item: pytest.Item) -> None:
    """Note which recorded runs a test has rewritten."""
    accepting = sys.modules.get("polos.testing.accepting")
    if accepting is not None:
        item.user_properties += [(REWRITTEN, path) for path in accepting.REWRITTEN]
        accepting.REWRITTEN.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each crash sweep did, and which recorded runs were rewritten."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    calls = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "call"]
    lines = [str(text) for report in calls for name, text in report.user_properties if name == PROPERTY]
    if lines:
        terminalreporter.section("crash sweeps")
        for line in lines:
            terminalreporter.write_line(line)
    rewritten = [str(text) for report in calls for name, text in report.user_properties if name == REWRITTEN]
    if rewritten:
        terminalreporter.section("recorded runs")
        for path in rewritten:
            terminalreporter.write_line(f"rewritten: {path}; look at the diff before you commit it")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process of pytest-xdist says of its sweeps."""
    said = getattr(node, "workeroutput", {}).get(NAMES)
    if said is not None:
        node.config.stash.setdefault(_elsewhere, []).append(said)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a single crash was wanted, and there was no such sweep."""
    wanted = os.environ.get("POLOS_CRASH_POINT")
    if wanted and not session.config.getoption("--collect-only", default=False):
        finish(session, wanted, session.config.stash.setdefault(_elsewhere, []))
