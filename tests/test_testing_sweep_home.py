"""A sweep and what is the process's: each life begins with the same, and so does what comes after the sweep."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import workflow
from polos.testing import CrashSweepFailed
from polos.testing.sweep import sweep
from polos.testing.sweep_room import Home

from tests import sweep_workflows as w
from tests.test_testing_patience import Hangs, failure, hangs, step

__all__ = ["hangs"]  # a fixture

pytestmark = pytest.mark.sweep


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of this test's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@workflow(id="home-writes")
async def writes(ctx) -> str:
    """Write a file where it is, and go away."""

    def write() -> str:
        Path("written").touch()
        os.chdir("/")
        return "written"

    found: str = await ctx.step.run("write", write)
    return found


def test_each_life_begins_where_the_sweep_did(home: Path):
    """Of a scenario or of the recovery from its crash, and wherever the one before it has gone."""
    begun: list[Path] = []

    def set_up(directory: Path) -> None:
        begun.append(Path.cwd())
        os.chdir(directory)

    report = sweep(writes, {}, setup=set_up, processes=0, pairs=2)

    assert len(begun) > report.scenarios
    assert {home} == set(begun)
    assert (home, []) == (Path.cwd(), list(home.iterdir()))


async def fetches() -> None:
    """Leave everything behind that a process can have, and a killed one hands to nobody."""
    os.environ["POLOS_TEST_KEY"] = "fetched"
    os.environ["TZ"] = "Asia/Tokyo"
    os.environ.pop("POLOS_TEST_GIVEN", None)
    os.umask(0o007)
    sys.path.insert(0, "/fetched")


def of_the_process() -> tuple[object, ...]:
    mask = os.umask(0o077)
    os.umask(mask)
    return os.environ.get("POLOS_TEST_KEY"), os.environ.get("POLOS_TEST_GIVEN"), time.tzname, mask, list(sys.path)


async def uses(what: str) -> str:
    match what:
        case "environment":
            return os.environ["POLOS_TEST_KEY"]
        case "umask":
            return f"{of_the_process()[3]:o}"
        case _:
            return sys.path[0]


@workflow(id="home-fetches")
async def fetching(ctx, payload: dict) -> str:
    """Hand things on by the process, as a program does that sets a key once."""
    await ctx.step.run("fetch", fetches)
    used: str = await ctx.step.run("use", uses, payload["what"])
    return used


@pytest.mark.parametrize("what", ["environment", "umask", "path"])
def test_what_a_process_has_is_handed_to_no_other_life(monkeypatch: pytest.MonkeyPatch, what: str):
    """A step that was done isn't called again, so what it has set is gone with the process; afterwards as well."""
    monkeypatch.setenv("POLOS_TEST_GIVEN", "given")
    before = of_the_process()

    with pytest.raises(CrashSweepFailed):
        sweep(fetching, {"what": what}, processes=0)

    assert before == of_the_process()


@pytest.mark.parametrize("what", ["environment", "umask", "path"])
def test_no_child_process_has_it_either(what: str):
    """It was set in the undisturbed run, before the first child process was needed or after it."""
    for _ in range(2):
        with pytest.raises(CrashSweepFailed) as failed:
            sweep(fetching, {"what": what}, real=True, pairs=0)
        assert failed.value.real


def check_has_given(_outcome: Any) -> None:
    assert os.environ["POLOS_TEST_GIVEN"] == "given"


async def has_given() -> str:
    return os.environ["POLOS_TEST_GIVEN"]


@workflow(id="home-given")
async def given(ctx, payload: dict) -> str:
    """Use what the program was started with."""
    found: str = await ctx.step.run("given", has_given)
    return found


def test_child_processes_have_what_the_sweep_began_with(monkeypatch: pytest.MonkeyPatch):
    """The interpreters that they are forked from may be older than that."""
    sweep(w.small, {}, real=True, pairs=0, points=1)
    monkeypatch.setenv("POLOS_TEST_GIVEN", "given")

    assert sweep(given, {}, check=check_has_given, real=True, pairs=0).processes > 2


def check_fails(_outcome: Any) -> None:
    os.chdir("/")
    raise AssertionError


def test_a_sweep_that_fails_gives_the_directory_back(home: Path):
    """What fails ends it like anything else."""
    with pytest.raises(CrashSweepFailed):
        sweep(w.small, {}, check=check_fails, setup=os.chdir, processes=0)

    assert home == Path.cwd()


def test_a_sweep_that_is_given_up_gives_the_directory_back(home: Path, hangs: Hangs):
    """Its thread is lost and can't; the one that watches over it does, and nobody else's is taken away later."""
    failure(step, "block", setup=os.chdir)

    assert home == Path.cwd()


@pytest.mark.parametrize("early", [True, False])
def test_a_directory_that_is_gone_is_left_alone(home: Path, early: bool):
    """Before the sweep, so that it has none, or in it: there is nothing to go back to."""
    (gone := home / "gone").mkdir()
    os.chdir(gone)
    vanish: Callable[[], None] = gone.rmdir
    if early:
        vanish()
    at = Home()
    os.chdir(home)
    if not early:
        vanish()
    at.go_back()

    assert home == Path.cwd()
