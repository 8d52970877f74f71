"""
The store survives a power cut at any moment of anything it does to its files.

Each test is a short life of a data directory, recorded call by call. From the recording come the images that a cut
could leave (`power_disk` says by which model, `power_images` which of them), and each is opened in a process of its
own: all that had been promised must be there (L4), blobs and commands included, nothing in part (L3), in a chain
that verifies (L8), under rows that fit (L6), behind an epoch that isn't given away again (L7), and work must go on.

That these checks can fail, and do where a sync is missing, is shown in `tests/controls/test_power_controls.py`.
"""

from __future__ import annotations

import random
from functools import partial

import pytest

from tests.campaign import LONG, SEED, scaled
from tests.crash.changes import Link, MakeDirectory, Rename
from tests.crash.failing_lives import fail_and_keep, fail_and_undo, without_the_sync
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
BACKUP_TEAR_STEP = scaled(160, 1)
# An engine does much, and takes long to look at: subsets and tears are the same, but torn mixtures are fewer, and
# a short campaign draws the syncs before which power is cut, and the images.
ENGINE_MIXTURES = scaled(2, 10)
ENGINE_TEAR_STEP = scaled(160, 1)
ENGINE_SYNCS = scaled(12, 1_000_000)
ENGINE_IMAGES = scaled(30, 1_000_000)
KILL_STEP = scaled(16, 1)  # a program is killed behind every new name, and behind every so manieth other operation
NAMES = (Link, MakeDirectory, Rename)
FAILING_MARKS = ("failing", ("kept", "lost"))
FAILING = "tests.crash.failing_lives:check"
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


@pytest.mark.parametrize("life", [fail_and_keep, fail_and_undo])
def test_power_cut_after_a_failed_sync(tmp_path, life):
    """What is found of a commit whose sync failed, and told, stays so; and so does all that is acknowledged then."""
    history = recorded(tmp_path / "lived", life, make_store, without_the_sync)
    failing, told = (min(when for when, name, _ in history.marks if name in names) for names in FAILING_MARKS)
    moments = None if LONG else {told, *(when for when in history.syncs if when > failing)}
    seed = f"{SEED}-{life.__name__}"
    made = pictures(history, subsets=SUBSETS, seed=seed, tear_step=TEAR_STEP, moments=moments)
    print(f"power cut in {life.__name__}: {made}")

    assert [] == check_all(tmp_path, FAILING, [(history, each) for each in made.found])


def test_power_cut_of_a_backup(tmp_path):
    """A backup that was told to be made is there and whole; before that it is whole or no store."""
    history = recorded(tmp_path / "lived", copy_store, fill_store)
    made = pictures(history, subsets=SUBSETS, seed=f"{SEED}-backup", tear_step=BACKUP_TEAR_STEP)
    print(f"power cut of a backup: {made}")

    assert [] == check_all(tmp_path, COPIES, [(history, each) for each in made.found])


def test_power_cut_of_an_engine(tmp_path):
    """What an engine told anybody stands after a cut; the next one ends every run, and calls no step that had ended."""
    history = recorded(tmp_path / "lived", live, make_store)
    seed = f"{SEED}-engine"
    syncs = sorted(set(history.syncs))
    before = random.Random(seed).sample(syncs, min(ENGINE_SYNCS, len(syncs)))
    promises = [when for when, _, _ in history.marks]
    made = pictures(
        history,
        subsets=SUBSETS,
        mixtures=ENGINE_MIXTURES,
        seed=seed,
        tear_step=ENGINE_TEAR_STEP,
        moments=None if LONG else {*promises, *before},
    )
    chosen = made.some(ENGINE_IMAGES, seed)
    print(f"power cut of an engine: {len(chosen):,} of {made}")

    assert [] == check_all(tmp_path, ENGINE, [(history, each) for each in chosen])


def test_power_cut_after_a_kill(tmp_path):
    """What the killed one made and didn't sync is synced by who comes after, before anything is promised on it."""
    first = tmp_path / "first"
    first.mkdir()
    nothing = Snapshot.take(first)
    killed = record(lambda: come_again(first), under=first)
    histories: list[tuple[History, list[int]]] = []
    behind = [op for at, op in enumerate(killed.ops) if at % KILL_STEP == 0 or isinstance(op.change, NAMES)]
    for number, op in enumerate(behind):
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
    assert len(found) > 20
