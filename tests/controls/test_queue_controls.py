"""
The suite catches queues, triggers and schedules that are nearly right.

As in `test_part_controls`: each check must fail with one part broken, and say why, and pass with none.
"""

from __future__ import annotations

from typing import Any

from polos.engine.state import ENDED

from tests import test_deployment
from tests.controls import broken_queues as broken
from tests.controls.test_part_controls import both, seen
from tests.property import test_schedules, test_triggers
from tests.property.test_queue_histories import play

HISTORIES = 12  # of each kind; the first that shows it ends the search


def look_at_histories(mode: str) -> None:
    """Play histories as their property does."""
    for number in range(HISTORIES):
        sim, found = play(number, mode)
        assert not found.wrong, found.wrong
        assert [] == [run for run, state in sim.audit.states.items() if state.phase not in ENDED], "these don't end"


@both(broken.frees_a_slot_twice)
def test_frees_a_slot_twice(broke: Any) -> None:
    """A queue takes one more for each that left: seen at the record at which one too many goes in."""
    with seen(broke, "limit of a queue|slots of the engine"):
        look_at_histories("calm")


@both(broken.ignores_keys)
def test_ignores_keys(broke: Any) -> None:
    """The limit of a key is everybody's own: seen where a second run of the key goes in."""
    with seen(broke, "limit of a key"):
        look_at_histories("calm")


@both(broken.passes_on_slots_of_the_evicted)
def test_passes_on_slots_of_the_evicted(broke: Any) -> None:
    """Who is evicted in a short timer loses its slot: seen where somebody goes in beside it."""
    with seen(broke, "limit of|slots of the engine"):
        look_at_histories("calm")


@both(broken.forgets_starts_in_a_crash)
def test_forgets_starts_in_a_crash(broke: Any) -> None:
    """After a crash a rate begins at nothing: seen at the start that is one too many in its window."""
    with seen(broke, "rate of a"):
        look_at_histories("killed")


@both(broken.lets_singletons_in, broken.forgets_requests)
def test_has_two_instead_of_one(broke: Any) -> None:
    """A singleton begins beside another, a request is granted twice: both are seen."""
    with seen(broke, "singleton|idempotency key"):
        look_at_histories("calm")


@both(broken.forgets_who_waits_at_the_door)
def test_forgets_who_waits_at_the_door(broke: Any) -> None:
    """Singletons that wait are never told of the end: runs are left that don't end."""
    with seen(broke, "these don't end"):
        look_at_histories("calm")


@both(broken.makes_runs_a_commit_late)
def test_makes_runs_a_commit_late(broke: Any) -> None:
    """A cursor moves before the runs that it stands for: a crash in between loses events, and it is said which."""
    with seen(broke, "was fired, and isn't there"):
        for number in range(HISTORIES):
            test_triggers.test_each_event_triggers_exactly_once(number)


@both(broken.makes_runs_a_commit_late)
def test_makes_scheduled_runs_a_commit_late(broke: Any) -> None:
    """An occurrence is recorded before its run: a crash at that very moment leaves one that has none."""
    with seen(broke, r"assert \{'.*'\} == \{'"):
        test_schedules.test_a_crash_at_every_moment("skip")


@both(broken.runs_what_is_pinned_elsewhere)
def test_runs_what_is_pinned_elsewhere(broke: Any) -> None:
    """A run that is pinned to a version that isn't there goes on by another one: it should wait."""
    with seen(broke, "assert 'pinned' == None"):
        test_deployment.test_a_pinned_run_is_only_run_by_its_version(fails=False)


@both(broken.begins_while_draining, broken.drains_without_waiting)
def test_drains_the_wrong_way(broke: Any) -> None:
    """An engine that drains begins what comes, or leaves while something is under way: both are seen."""
    with seen(broke, r"assert 'RunStarted' not in|assert \(None, True\) == \(\("):
        test_deployment.test_draining_lets_what_is_under_way_come_to_rest()
