"""
The images of power cuts show every sync that is left out.

As in `test_controls`, each life is lived twice, by a store that leaves one sync out and by the store as it is, and
its images are checked in the same way: those of the first must be found broken, in these words, and those of the
second sound. A break is made in the recorded child, so nothing here is pretended: the log of
`leaves_syncing_to_the_system` really is opened with sync off, and what no call synced, a cut may take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.controls import broken
from tests.crash.changes import Sync
from tests.crash.failing_lives import fail_and_keep, fail_and_undo, without_the_sync
from tests.crash.fileops import record
from tests.crash.lives import append_groups, come_again, make_and_append, make_store, put_and_consume, write_with_blobs
from tests.crash.power_disk import Cut, History, Snapshot
from tests.crash.power_engine import live
from tests.crash.power_images import Picture, pictures
from tests.crash.power_runs import check_all, recorded

pytestmark = pytest.mark.usefixtures("ptrace")

UNITS = "tests.crash.power_checks:units_and_commands"
FAILING = "tests.crash.failing_lives:check"
ENGINE = "tests.crash.power_engine:runs_go_on"
IMAGES_MAX = 80
PARTS = 12


def look(
    where: Path,
    history: History,
    says: str,
    *,
    check: str = UNITS,
    images_max: int = IMAGES_MAX,
    moments: Sequence[int] = (),
) -> None:
    """Check images of the moments of promises, and others: some must fail, in these words; or none of a few."""
    moments = [*moments, *(when for when, _, _ in history.marks)]
    made = pictures(history, subsets=1, seed="controls", tear_step=60, moments=moments)
    if not says:
        assert [] == check_all(where, check, [(history, each) for each in made.some(images_max, "controls")])
        return
    # Some breaks show in every other image, so that the first part is enough; some in five of three hundred.
    chosen = made.some(len(made.found), "controls")
    found: list[str] = []
    for first in range(PARTS):
        found += check_all(where, check, [(history, each) for each in chosen[first::PARTS]])
        if any(says in failure for failure in found):
            return
    pytest.fail(f"no image shows {says!r}, only {found}")


def both(*cases: tuple[broken.Break, Callable[[Path], None], str]) -> Any:
    """Live a life with a store that is broken, and with one that isn't."""
    sound = [(broken.nothing, life, "") for life in dict.fromkeys(life for _, life, _ in cases)]
    return pytest.mark.parametrize(
        ("broke", "life", "says"), [*cases, *sound], ids=lambda one: getattr(one, "__name__", "")
    )


@both(
    (broken.leaves_syncing_to_the_system, append_groups, "died of SIGBUS"),
    (broken.syncs_no_meta_page, append_groups, "units were acknowledged, and"),
    (broken.forgets_to_sync_contents, write_with_blobs, "isn't what was put"),
    (broken.forgets_to_sync_names, write_with_blobs, "isn't there"),
    (broken.commits_before_the_blob, write_with_blobs, "isn't there"),
    (broken.forgets_to_sync_contents, put_and_consume, "commands were put, and"),
    (broken.forgets_to_sync_names, put_and_consume, "commands were put, and"),
    (broken.forgets_to_sync_names, make_and_append, "units were acknowledged, and"),
)
def test_a_missing_sync(tmp_path, broke, life, says):
    """Each sync that a store leaves out costs it something that was promised, in some image."""

    def lived(directory: Path) -> None:
        broke()
        life(directory)

    look(tmp_path, recorded(tmp_path / "lived", lived, None if life is make_and_append else make_store), says)


@both((broken.syncs_no_meta_page, live, "told, and not recorded"))
def test_an_engine_that_is_told_too_early(tmp_path, broke, life, says):
    """An engine whose log acknowledges what isn't certain calls steps, and answers, of which a cut leaves no record."""

    def lived(directory: Path) -> None:
        broke()
        life(directory)

    look(tmp_path, recorded(tmp_path / "lived", lived, make_store), says, check=ENGINE, images_max=8)


@both(
    (broken.opens_again_without_a_commit, fail_and_keep, "found to be kept, and is gone"),
    (broken.writes_over_what_may_come_back, fail_and_undo, "StoreDamaged"),
)
def test_what_a_failed_sync_left(tmp_path, broke, life, says):
    """What is found when a log is opened again is made certain before it is told, and before it is written over."""

    def lived(directory: Path) -> None:
        broke()
        life(directory)

    history = recorded(tmp_path / "lived", lived, make_store, without_the_sync)
    look(tmp_path, history, says, check=FAILING, images_max=8, moments=history.syncs)


@pytest.mark.parametrize("left_out", [True, False], ids=["left out", "as recorded"])
def test_meta_page_before_data(tmp_path, left_out):
    """If the sync between data and meta page is taken out of the recording, there are images that LMDB can't read."""
    top = tmp_path / "lived"
    top.mkdir()
    before = Snapshot.take(top)
    whole = record(partial(make_and_append, top), under=top)
    ops = tuple(op for op in whole.ops if not (left_out and isinstance(op.change, Sync) and op.change.data_only))
    history = History(before)
    history.follow(replace(whole, ops=ops), top, before)

    look(tmp_path, history, "StoreDamaged" if left_out else "")


@both((broken.trusts_the_name_of_a_command, come_again, "commands were put, and"))
def test_what_a_killed_one_did_not_sync(tmp_path, broke, life, says):
    """A client is killed before it synced the name of its command; whoever puts it again must not take it for kept."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    nothing = Snapshot.take(first)
    killed = record(partial(life, first), under=first)
    put = next(op for op in killed.ops if getattr(op.change, "new", "").endswith("/inbox/1"))
    history = History(nothing)
    history.follow(killed, first, nothing, until=put.ended)
    history.image(history.everything(history.moments[-1])).write(second)

    def again() -> None:
        broke()
        life(second)

    before = Snapshot.take(second)
    history.follow(record(again, under=second), second, before)
    at = history.moments[-1]
    found = check_all(tmp_path, UNITS, [(history, Picture(Cut(at), at, "nothing uncertain kept"))])

    assert [says in failure for failure in found] == ([True] if says else [])
