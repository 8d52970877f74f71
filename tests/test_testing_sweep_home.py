"""A sweep and the working directory: each life begins in the same one, and so does what comes after the sweep."""

from __future__ import annotations

import os
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
