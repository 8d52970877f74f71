"""
What a run of an agent must show in the end, however often it was killed.

The checks are the same whoever plays its model. That a recorded reply was never asked for again is said by the
ledger, where the model is a script in the agent's own process, and by the journal of the server, where it is one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from polos import Agent
from polos.engine import events as e

from tests.crash import engine_checks as checks
from tests.crash.agent_lives import read_streams, streamed
from tests.crash.children import in_child
from tests.crash.mock_model import TURNS, Asked, by_turn, neutral, serial

__all__ = ["Undisturbed", "check", "no_reply_is_bought_twice", "replies", "transcript"]

_PROMISES = (
    checks.called_before_recorded,
    checks.steps_complete_once,
    checks.rows_are_the_fold,
    checks.time_never_goes_back,
    checks.every_run_ended,
)


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """
    What a run that nobody kills comes to.

    Attributes:
        result: its transcript, by the agent.
        told: what the server was told for each turn, by the server; empty without one.
    """

    result: dict[str, Any]
    told: dict[int, Any]


def transcript(found: checks.Found, agent: Agent) -> dict[str, Any]:
    """Give what an agent's run came to, without ids."""
    results = [
        event.result for run, event, _ in found.events(e.RunCompleted) if found.created(run).workflow == agent.id
    ]
    assert 1 == len(results), "one run of the agent"
    told: dict[str, Any] = neutral({**results[0], "agent_run_id": ""})
    return told


def replies(found: checks.Found) -> dict[int, int]:
    """Give which request each recorded reply came from, by its turn."""
    return {
        int(event.name.rpartition(":")[2]) - 1: serial(event.value["content"])
        for _, event, _ in found.events(e.StepCompleted)
        if event.name.startswith("llm_")
    }


def nothing_is_paid_twice(found: checks.Found, agent: Agent) -> None:
    """Each turn has one reply on record; what a model was asked differs only by turn; no tool begins after its end."""
    recorded = Counter((run, event.name) for run, event, _ in found.events(e.StepCompleted) if "llm_" in event.name)
    ends = {run: at for run, event, at in found.events(e.RunCompleted) if found.created(run).workflow != agent.id}
    begun_late = [line.key for line in found.ledger.lines("begun") if line.more >= ends[line.key]]
    asked = [line.more for line in found.ledger.lines("asked")]

    assert [1] * TURNS == list(recorded.values())
    assert len(set(asked)) in ({TURNS} if asked else {0}), "a request for each turn: the conversation took no other way"
    assert [] == begun_late, "tools that were begun again after they had ended"


def no_reply_is_bought_twice(journal: list[Asked], recorded: dict[int, int], told: dict[int, Any]) -> None:
    """By the server's journal, nobody asked for a turn again once a reply to it was on record, or asked otherwise."""
    asked = by_turn(journal)
    again = {turn: [one.number for one in asked[turn] if one.number > number] for turn, number in recorded.items()}
    unsaid = [turn for turn, number in recorded.items() if [number] != [n for n in _sent(asked[turn]) if n == number]]
    others = [one.number for one in journal if one.told != told[one.turn]]

    assert set(range(TURNS)) == recorded.keys() == asked.keys()
    assert {turn: [] for turn in recorded} == again, "requests behind the one whose reply is recorded"
    assert [] == unsaid, "turns whose recorded reply the server didn't send whole"
    assert [] == others, "requests that no undisturbed run makes"


def _sent(asked: list[Asked]) -> list[int]:
    return [one.number for one in asked if one.answered]


def readers_have_each_event_once(directory: Path, found: checks.Found, agent: Agent, *, all_cuts: bool) -> None:
    """Whoever read on behind the last noted event, in life after life, has the stream; so has a reader cut anywhere."""
    (run,) = (run for run in found.runs if found.created(run).workflow == agent.id)
    streams = read_streams(directory, run, all_cuts=all_cuts, agent=agent)
    numbers: dict[str, list[int]] = {}
    for _, _, step, index, _ in streams.whole:
        if index is not None:
            numbers.setdefault(step, []).append(index)

    assert streams.whole == streamed(directory)
    for place, rest in streams.rests.items():
        assert streams.whole[place + 1 :] == rest
    assert {step: list(range(len(found))) for step, found in numbers.items()} == numbers, "deltas count without gaps"
    if agent.stream_to_workflow:
        assert neutral(streams.text).endswith(transcript(found, agent)["result"])
        assert 1 == streams.text.count("turn 1 of the model"), "what came of a call that was made again is no answer"


def check(directory: Path, agent: Agent, expected: Undisturbed, journal: list[Asked], *, all_cuts: bool) -> None:
    """Check all that was promised of a run that came to its end; the journal is empty if there is no server."""

    def look() -> None:
        found = checks.find(directory)
        for promise in (*_PROMISES, partial(nothing_is_paid_twice, agent=agent)):
            promise(found)
        assert expected.result == transcript(found, agent)
        if expected.told:
            no_reply_is_bought_twice(journal, replies(found), expected.told)
        readers_have_each_event_once(directory, found, agent, all_cuts=all_cuts)

    in_child(look)
