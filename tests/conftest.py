"""
What holds for every test: one seed, bounded Hypothesis, a time budget.

Warnings are errors, unknown marks are errors and a test that passes although marked xfail is an error; those three
stand in pyproject.toml. Hypothesis has no deadline here, because a wall clock says nothing on a shared machine,
and no database, because a case that only one machine remembers makes two machines disagree.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from polos import registry
from polos.definition import Workflow

from tests.budget import Budget
from tests.campaign import LONG, SEED

pytest_plugins = ["polos.testing", "tests.cli_kit"]  # the first as our users have it

settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", parent=settings.get_profile("ci"), max_examples=10_000)
settings.load_profile("long" if LONG else "ci")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Seed Hypothesis before its own plugin looks, and add up times in the process that prints."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it runs in the background with Ctrl-C ignored, and children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("hypothesis_seed") is None:
        config.option.hypothesis_seed = str(SEED)
    if not hasattr(config, "workerinput"):
        status = os.environ.get("POLOS_CHECK_STATUS")
        budget = Budget(
            processes=config.getoption("numprocesses", None) or 1,
            check_seconds=float(os.environ.get("POLOS_CHECK_SECONDS", "0")),
            check_status=None if status is None else int(status),
        )
        config.pluginmanager.register(budget, "polos-budget")


def pytest_collection_finish() -> None:
    """
    Tell the collector that what is there now stays.

    Thousands of collected tests and all that their modules import are half a million objects or more, and whatever
    looks for garbage (Python by itself, and each test that wants to see something gone) would go through them every
    time: a third of the unit tests' time. What comes from here on is looked at as ever.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Say which campaign this is and how to repeat it."""
    campaign = "long" if LONG else "short"
    return f"campaign: {campaign}, seed {SEED} (repeat with POLOS_SEED={SEED} POLOS_CAMPAIGN={campaign})"


def _starts_by_itself(found: Workflow[Any], home: str | None) -> bool:
    """Tell whether a workflow of another module of tests than this one is started by events or by the clock."""
    module = found.func.__module__
    of_a_test = module.rpartition(".")[2].startswith("test_")
    return of_a_test and module != home and (found.trigger is not None or found.said_schedule is not None)


@pytest.fixture(autouse=True)
def own_workflows(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Let ids stand for the workflows of the test's own module: another one may have defined the same id since.

    What other modules of tests want started by events or by the clock isn't known either: it would have runs here.
    """
    before = registry.get_all_workflows()
    home = getattr(request.module, "__name__", None)
    registry.restore({name: one for name, one in before.items() if not _starts_by_itself(one, home)})
    for found in vars(request.module).values() if request.module is not None else ():
        if isinstance(found, Workflow):
            registry.register(found)
    yield
    registry.restore(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the project's tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio alone: polos knows no other loop."""
    return "asyncio"
