"""
An agent, killed: at every commit of its run and at random, while it streams and calls several tools at once.

Each run is two lives or more on a directory of its own: one that is killed, perhaps others that are, and one that
comes to the end. What was asked of the model and of the tools is told by somebody whom the engine doesn't know: by a
ledger where the model is a script, and by the journal of a server that outlives all of them where it is reached by
the official SDKs.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from polos import Agent
from polos.points import POINTS

from tests.campaign import SEED, scaled
from tests.crash import engine_checks as checks
from tests.crash.agent_checks import Undisturbed, check, no_reply_is_bought_twice, transcript
from tests.crash.agent_lives import OVER_HTTP, Death, agent, live, warm
from tests.crash.children import in_child
from tests.crash.engine_lives import forked
from tests.crash.mock_model import TURNS, Asked, MockModel, by_turn, serving

# What is behind a commit, and what is before one or beside one: everywhere an agent's run can be between two facts.
AT_COMMITS = ("after_append_before_handback", "committed_before_effect")
BETWEEN = ("before_append", "code_on_loop", "inside_effect", "after_effect_before_outcome")
RUNS_OF_A_SCRIPT = scaled(8, 500)  # a test; there are four of them
RUNS_OVER_HTTP = scaled(5, 100)  # a test; there are five for each way: with each commit, 200 in all
ALL_CUTS_EVERY = 25  # the stream of one run in so many is read behind each of its events
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


@dataclass
class Stage:
    """An agent and who plays its model, and what came of a run that nobody killed."""

    agent: Agent
    place: Path
    mock: MockModel | None = None
    expected: Undisturbed = field(default_factory=lambda: Undisturbed({}, {}))

    def __post_init__(self) -> None:
        """Run once undisturbed."""
        self.begin()
        directory = self.place / "undisturbed"
        directory.mkdir()
        assert 0 == forked(partial(live, directory, 0, Death(), self.agent))
        result = in_child(lambda: transcript(checks.find(directory), self.agent))
        self.expected = Undisturbed(result, {turn: asked[0].told for turn, asked in by_turn(self.journal()).items()})

    def begin(self) -> None:
        """Let nobody have asked anything."""
        if self.mock is not None:
            self.mock.begin()

    def journal(self) -> list[Asked]:
        """Give what the server was asked."""
        return [] if self.mock is None else self.mock.journal()

    def run_killed(self, deaths: list[Death], *, all_cuts: bool) -> list[int]:
        """Let a run be killed so often, and come to its end; gives how the lives ended."""
        self.begin()
        directory = self.place / "run"
        directory.mkdir()
        codes = [
            forked(partial(live, directory, number, death, self.agent), kill_after_seconds=death.seconds)
            for number, death in enumerate(deaths)
        ]
        assert 0 == forked(partial(live, directory, len(deaths), Death(), self.agent))
        check(directory, self.agent, self.expected, self.journal(), all_cuts=all_cuts)
        shutil.rmtree(directory)
        return codes

    def run_killed_at_every(self, point: str) -> int:
        """Let a run be killed at each of the times that it comes to a point; gives how many those were."""
        codes = [KILLED]
        while codes[-1] == KILLED:
            death = Death(point, len(codes))
            codes += self.run_killed([death], all_cuts=len(codes) % ALL_CUTS_EVERY == 0)
        assert 0 == codes[-1]
        return len(codes) - 2


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Stage:
    """Let a script play the model."""
    return Stage(agent, tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="module")
def served() -> Iterator[MockModel]:
    """Have a server play the model."""
    with pytest.MonkeyPatch.context() as patch, serving() as mock:
        for name, value in mock.environment().items():
            patch.setenv(name, value)
        yield mock


@pytest.fixture(scope="module", params=OVER_HTTP)
def over_http(request, served, tmp_path_factory) -> Stage:
    """Reach the server by one interface, with replies in one piece or in many."""
    return Stage(OVER_HTTP[request.param], tmp_path_factory.mktemp(request.param), served)


def test_killed_at_every_commit(scripted):
    """Killed at each commit of its run, an agent asks for no recorded reply again, and comes to the same transcript."""
    assert scripted.run_killed_at_every("after_append_before_handback") > 15


@pytest.mark.parametrize("number", range(4))
def test_killed_at_random(scripted, number):
    """The same when it is killed anywhere, up to three times."""
    chance = random.Random(f"{SEED}-agent-{number}")
    for count in range(RUNS_OF_A_SCRIPT):
        points = [chance.choice((*AT_COMMITS, *BETWEEN)) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
        deaths = [Death(point, round(chance.triangular(1, 30, 8))) for point in points]
        scripted.run_killed(deaths, all_cuts=count % ALL_CUTS_EVERY == 0)


@pytest.mark.parametrize("over_http", ["responses-sse", "messages-sse"], indirect=True)
def test_killed_at_every_commit_with_a_server(over_http):
    """By the server's own journal, too, no recorded reply is asked for again, whichever commit was the last."""
    assert over_http.run_killed_at_every("committed_before_effect") > 15


@pytest.mark.parametrize("number", range(5))
def test_killed_at_random_with_a_server(over_http, number):
    """Nor is one after kills at any point or moment, by each SDK, with replies in one piece and in many."""
    chance = random.Random(f"{SEED}-{over_http.agent.id}-{number}")
    for count in range(RUNS_OVER_HTTP):
        deaths = [
            Death(seconds=chance.uniform(0.03, 0.25))
            if chance.random() < 0.4
            else Death(chance.choice((*AT_COMMITS, *BETWEEN)), round(chance.triangular(1, 30, 8)))
            for _ in range(chance.choice((1, 1, 1, 2, 3)))
        ]
        over_http.run_killed(deaths, all_cuts=count % ALL_CUTS_EVERY == 0)


@pytest.mark.parametrize(
    ("journal", "found"),
    [
        ([0, 1, 1, 2], "requests behind the one whose reply is recorded"),
        ([0, -1, 2], "turns whose recorded reply the server didn't send whole"),
        ([0, 1, 9], "requests that no undisturbed run makes"),
    ],
)
def test_a_journal_that_shows_otherwise(journal, found):
    """A reply that was asked for again, that came from nowhere, or to another conversation is told by the journal."""
    told = {turn: f"conversation {turn}" for turn in range(TURNS)}
    asked = [
        Asked(number, min(abs(turn), 2), turn >= 0, "another" if turn == 9 else told[abs(turn)])
        for number, turn in enumerate(journal, start=1)
    ]

    with pytest.raises(AssertionError, match=found):
        no_reply_is_bought_twice(asked, {0: 1, 1: 2, 2: len(journal)}, told)


def test_the_points_are_all_there():
    """The points at which agents are killed are points of the engine."""
    assert {*AT_COMMITS, *BETWEEN} <= set(POINTS)
