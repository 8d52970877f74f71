"""
An agent, killed: at every commit of its run and at random, while it streams and calls several tools at once.

Each run is two lives or more on a directory of its own: one that is killed, perhaps others that are, and one that
comes to the end. What was asked of the model and of the tools is told by a ledger that the engine doesn't know.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from polos.engine import events as e
from polos.points import POINTS

from tests.campaign import SEED, scaled
from tests.crash import engine_checks as checks
from tests.crash.agent_lives import Death, agent, live, read_streams, streamed, warm
from tests.crash.children import in_child
from tests.crash.engine_lives import forked

# What is behind a commit, and what is before one or beside one: everywhere an agent's run can be between two facts.
AT_COMMITS = ("after_append_before_handback", "committed_before_effect")
BETWEEN = ("before_append", "code_on_loop", "inside_effect", "after_effect_before_outcome")
RUNS_AT_RANDOM = scaled(8, 500)  # a test; there are twenty of them
ALL_CUTS_EVERY = 25  # the stream of one run in so many is read behind each of its events
KILLED = -signal.SIGKILL

_PROMISES = (
    checks.called_before_recorded,
    checks.steps_complete_once,
    checks.rows_are_the_fold,
    checks.time_never_goes_back,
    checks.every_run_ended,
)


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


def transcript(found: checks.Found) -> dict[str, Any]:
    """Give what an agent's run came to, without the ids of its runs."""
    results = [
        event.result for run, event, _ in found.events(e.RunCompleted) if found.created(run).workflow == agent.id
    ]
    assert 1 == len(results), "one run of the agent"
    return {**results[0], "agent_run_id": ""}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Give the transcript of a run that nobody kills."""
    directory = tmp_path_factory.mktemp("undisturbed")
    assert 0 == forked(lambda: live(directory, 0, Death()))
    return in_child(lambda: transcript(checks.find(directory)))


def nothing_is_paid_twice(found: checks.Found) -> None:
    """What a model was asked is asked again only while there is no reply on record; no tool begins after its end."""
    replies = Counter((run, event.name) for run, event, _ in found.events(e.StepCompleted) if "llm_" in event.name)
    ends = {run: at for run, event, at in found.events(e.RunCompleted) if found.created(run).workflow != agent.id}
    begun_late = [line.key for line in found.ledger.lines("begun") if line.more >= ends[line.key]]
    asked = [line.more for line in found.ledger.lines("asked")]

    assert {1} == set(replies.values())
    assert len(replies) == len(set(asked)), "as many different requests as replies: the conversation took no other way"
    assert [] == begun_late, "tools that were begun again after they had ended"


def readers_have_each_event_once(directory: Path, found: checks.Found, *, all_cuts: bool) -> None:
    """Whoever read on behind the last noted event, in life after life, has the stream; so has a reader cut anywhere."""
    (run,) = (run for run in found.runs if found.created(run).workflow == agent.id)
    streams = read_streams(directory, run, all_cuts=all_cuts)
    numbers: dict[str, list[int]] = {}
    for _, _, step, index, _ in streams.whole:
        if index is not None:
            numbers.setdefault(step, []).append(index)

    assert streams.whole == streamed(directory)
    for place, rest in streams.rests.items():
        assert streams.whole[place + 1 :] == rest
    assert {step: list(range(len(found))) for step, found in numbers.items()} == numbers, "deltas count without gaps"
    assert streams.text.endswith(transcript(found)["result"])
    assert 1 == streams.text.count("turn 1 of the model"), "what came of a call that was made again is no answer"


def check(directory: Path, expected: dict[str, Any], *, all_cuts: bool) -> None:
    """Check all that was promised of a run that came to its end."""

    def look() -> None:
        found = checks.find(directory)
        for promise in _PROMISES:
            promise(found)
        nothing_is_paid_twice(found)
        assert expected == transcript(found)
        readers_have_each_event_once(directory, found, all_cuts=all_cuts)

    in_child(look)


def run_killed(directory: Path, expected: dict[str, Any], deaths: list[Death], *, all_cuts: bool) -> list[int]:
    """Let a run be killed so often, and come to its end; gives how the lives ended."""
    codes = [forked(partial(live, directory, number, death)) for number, death in enumerate(deaths)]
    assert 0 == forked(lambda: live(directory, len(deaths), Death()))
    check(directory, expected, all_cuts=all_cuts)
    shutil.rmtree(directory)
    return codes


@pytest.mark.parametrize("point", AT_COMMITS)
def test_killed_at_every_commit(tmp_path, undisturbed, point):
    """Killed at each commit of its run, an agent asks for no recorded reply again, and comes to the same transcript."""
    codes = [KILLED]
    while codes[-1] == KILLED:
        death = Death(point, len(codes))
        codes += run_killed(tmp_path / "run", undisturbed, [death], all_cuts=len(codes) % ALL_CUTS_EVERY == 0)

    assert len(codes) > 15
    assert 0 == codes[-1]


@pytest.mark.parametrize("number", range(20))
def test_killed_at_random(tmp_path, undisturbed, number):
    """The same when it is killed anywhere, up to three times."""
    chance = random.Random(f"{SEED}-agent-{number}")
    for count in range(RUNS_AT_RANDOM):
        points = [chance.choice((*AT_COMMITS, *BETWEEN)) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
        deaths = [Death(point, round(chance.triangular(1, 30, 8))) for point in points]
        run_killed(tmp_path / "run", undisturbed, deaths, all_cuts=count % ALL_CUTS_EVERY == 0)


def test_the_points_are_all_there():
    """The points at which agents are killed are points of the engine."""
    assert {*AT_COMMITS, *BETWEEN} <= set(POINTS)
