"""
The store survives a power cut at any moment of anything it does to its files.

Each test is a short life of a data directory, recorded call by call. From the recording come the images that a cut
could leave (`power_disk` says by which model, `power_images` which of them), and each is opened in a process of its
own: all that had been promised must be there (L4), blobs and commands included, nothing in part (L3), in a chain
that verifies (L8), under rows that fit (L6), behind an epoch that isn't given away again (L7), and work must go on.

That these checks can fail, and do where a sync is missing, is shown in `tests/controls/test_power_controls.py`.
"""

from __future__ import annotations

from functools import partial

import pytest

from tests.campaign import SEED, scaled
from tests.crash.fileops import record
from tests.crash.lives import (
    append_groups,
    come_again,
    copy_store,
    fill_store,
    make_and_append,
    make_store,
    put_and_consume,
    write_with_blobs,
)
from tests.crash.power_disk import Cut, History, Snapshot
from tests.crash.power_engine import live
from tests.crash.power_images import Picture, pictures
from tests.crash.power_runs import check_all, recorded

pytestmark = pytest.mark.usefixtures("ptrace")

SUBSETS = scaled(4, 1_000)  # of what isn't synced, for each interval between two syncs
TEAR_STEP = scaled(40, 1)  # a write is torn at every so manieth sector
ENGINE_SUBSETS = scaled(4, 100)
MOMENT_STEP = scaled(24, 1)  # an engine does much, so its power is cut at every so manieth moment
ENGINE_IMAGES = scaled(40, 3_000)  # and takes long to look at, so at most so many images are
KILL_STEP = scaled(4, 1)  # and a program killed at every so manieth operation
UNITS = "tests.crash.power_checks:units_and_commands"
COPIES = "tests.crash.power_checks:copies"
ENGINE = "tests.crash.power_engine:runs_go_on"


@pytest.mark.parametrize(
    ("life", "prepare"),
    [
        (make_and_append, None),
        (append_groups, make_store),
        (write_with_blobs, make_store),
        (put_and_consume, make_store),
    ],
    ids=lambda function: getattr(function, "__name__", ""),
)
def test_power_cut(tmp_path, life, prepare):
    """Whatever a cut leaves opens, holds all that was promised and nothing in part, and takes appends again."""
    history = recorded(tmp_path / "lived", life, prepare)
    made = pictures(history, subsets=SUBSETS, seed=f"{SEED}-{life.__name__}", tear_step=TEAR_STEP)
    print(f"power cut in {life.__name__}: {made}")

    assert [] == check_all(tmp_path, UNITS, [(history, each) for each in made.found])


def test_power_cut_of_a_backup(tmp_path):
    """A backup that was told to be made is there and whole; before that it is whole or no store."""
    history = recorded(tmp_path / "lived", copy_store, fill_store)
    made = pictures(history, subsets=SUBSETS, seed=f"{SEED}-backup", tear_step=4 * TEAR_STEP)
    print(f"power cut of a backup: {made}")

    assert [] == check_all(tmp_path, COPIES, [(history, each) for each in made.found])


def test_power_cut_of_an_engine(tmp_path):
    """What an engine told anybody stands after a cut; the next one ends every run, and calls no step that had ended."""
    history = recorded(tmp_path / "lived", live, make_store)
    promises = [when for when, _, _ in history.marks]
    moments = {*promises, *history.moments[::MOMENT_STEP]}
    made = pictures(history, subsets=ENGINE_SUBSETS, seed=f"{SEED}-engine", tear_step=4 * TEAR_STEP, moments=moments)
    chosen = made.some(ENGINE_IMAGES, f"{SEED}-engine")
    print(f"power cut of an engine: {len(chosen):,} of {made}")

    assert [] == check_all(tmp_path, ENGINE, [(history, each) for each in chosen])


def test_power_cut_after_a_kill(tmp_path):
    """What the killed one made and didn't sync is synced by who comes after, before anything is promised on it."""
    first = tmp_path / "first"
    first.mkdir()
    nothing = Snapshot.take(first)
    killed = record(lambda: come_again(first), under=first)
    histories: list[tuple[History, list[int]]] = []
    for number, op in enumerate(killed.ops[::KILL_STEP]):
        second = tmp_path / f"second-{number}"
        second.mkdir()
        history = History(nothing)
        history.follow(killed, first, nothing, until=op.ended)
        begun = history.moments[-1]
        history.image(history.everything(begun)).write(second)
        before = Snapshot.take(second)
        history.follow(record(partial(come_again, second), under=second), second, before)
        histories.append((history, [moment for moment, _, _ in history.marks if moment > begun]))

    # All that isn't certain is lost: at the first promise of the second life, and at its end.
    found = [
        (history, Picture(Cut(moment), moment, "nothing uncertain kept"))
        for history, moments in histories
        for moment in (moments[0], history.moments[-1])
    ]
    print(f"power cut after a kill: {len(found)} images, after {len(histories)} kills")

    assert [] == check_all(tmp_path, UNITS, found)
    assert len(found) > 30
