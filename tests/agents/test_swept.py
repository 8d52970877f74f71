"""An agent that does everything at once, crashed by the kit: nobody can tell, and nothing counts twice."""

from __future__ import annotations

from typing import Any

import pytest
from polos import Agent, Budget, Workflow
from polos.errors import ModelRequestRefused
from polos.llm import LLMRequest, Reply
from polos.testing import CrashOutcome, CrashReport, CrashSweepFailed, ExploredWorld, explore
from polos.testing.simulation import Simulation
from polos.testing.sweep import sweep

from tests.agents import swept as s
from tests.agents.stage import make_agent
from tests.campaign import scaled

ASKED = {("desk", 0), ("desk", 1), ("clerk", 0), ("clerk", 1), ("closer", 2)}


def once_each(outcome: CrashOutcome) -> None:
    """Check what was done outside, beside what was recorded, which the sweep itself compares."""
    asked = {(note["who"], note["turn"], note["digest"]) for note in s.world.notes("asked")}
    books = {name: outcome.result[name] for name in ("calls", "spent_tokens", "total_steps", "stop_reason")}

    assert "completed" == outcome.status
    assert sorted(ASKED) == sorted((who, turn) for who, turn, _ in asked), "the same request each time"
    assert s.world.count("asked") <= len(ASKED) + len(outcome.crashes), "again only what was under way"
    assert (1, {"cents": 5}) == (s.world.count("paid"), {"cents": s.world.notes("paid")[0]["cents"]})
    assert 1 == len({(note["run"], note["key"]) for note in s.world.notes("decided")}), "one question"
    assert {"calls": 5, "spent_tokens": 100, "total_steps": 3, "stop_reason": "handoff"} == books
    assert 60 == outcome.result["usage"]["total_tokens"], "of the desk and the closer; the clerk has a run of its own"


def swept(**options: Any) -> CrashReport:
    """Sweep the desk."""
    return sweep(s.desk, {"input": "Pay."}, **{"answers": s.ANSWERS, "check": once_each, "processes": 0, **options})


def test_delegation_handoff_approval_and_question_survive_crashes():
    """A tool with leave, a question, an agent that is asked and one that takes over: each is had once."""
    report = swept(points=scaled(35, 10_000), pairs=scaled(6, 1_000))

    assert len(report.points) > 100
    assert 0 == report.unknown


def test_they_survive_kills_in_processes_of_their_own():
    """The same in child processes, which find agents and tools by the names that a module has for them."""
    report = swept(real=True, points=1, pairs=0)

    assert report.processes >= 1


def test_a_sweep_needs_an_answer_to_each_question():
    """What nobody answers is told, by the key that is asked for."""
    with pytest.raises(CrashSweepFailed, match=r"waits for suspend 'ask_user_.*answers has nothing for it"):
        swept(answers={"approve_*": s.decide})


def sent_once(outcome: CrashOutcome) -> None:
    """Check what was done, and what the model was told of it."""
    (told,) = outcome.result["tool_results"]

    assert (1, "sent to ann") == (s.world.count("sent"), told["result"])


SAID = {"resolve_swept_send_*": s.say_of_the_mail}
REAL = {"points": scaled(8, 1_000), "pairs": scaled(0, 20)}
MAILING = [(s.sender, None, True), (s.sender, SAID, False), (s.poster, None, False)]


@pytest.mark.parametrize(("agent", "answers", "unknown"), MAILING)
def test_a_tool_is_called_once_however_it_is_told(agent: Agent, answers: Any, unknown: bool):
    """Killed anywhere, twice, it isn't called again: it is asked itself, a person is, or its outcome stays unknown."""
    report = sweep(agent, {"input": "Go."}, check=sent_once, answers=answers, processes=0, pairs=scaled(20, 1_000))

    assert (unknown, len(report.points)) == (report.unknown > 0, report.singles)


@pytest.mark.parametrize(("agent", "answers", "unknown"), MAILING)
def test_it_is_called_once_by_processes_of_their_own(agent: Agent, answers: Any, unknown: bool):
    """The same where each life is a process that is killed; a sample of the points in a short campaign."""
    report = sweep(agent, {"input": "Go."}, check=sent_once, answers=answers, real=True, **REAL)

    assert (unknown, scaled(8, len(report.points))) == (report.unknown > 0, report.singles)


@pytest.mark.parametrize("real", [False, True])
def test_a_tool_that_is_called_twice_is_found_without_a_check(real: bool):
    """Calls are held against the effect class: nobody needs to say that once is right."""
    with pytest.raises(CrashSweepFailed, match=r"call 2 of tool swept_fling .*nobody has said that it wasn't done"):
        sweep(s.careless, {"input": "Go."}, real=real, processes=0, pairs=0)


def test_an_agent_is_swept_by_what_it_is_asked():
    """A text does, as for `agent.run`; so do items, and the payload that is made of either."""
    item = {"role": "user", "content": "Go."}
    for given in ("Go.", [item], s.sender.with_input("Go.").payload):
        assert 1 == sweep(s.sender, given, check=sent_once, answers=SAID, processes=0, pairs=0, points=1).singles


def test_an_agent_is_explored_by_what_it_is_asked():
    """The same in an exploration."""
    agent = make_agent("explored_asked", lambda request: Reply(text=str(request.items[-1]["content"])))

    @explore(runs=1, workflows=[agent])
    def explored(world: ExploredWorld) -> None:
        world.start(agent, "Go.")
        assert "Go." in world.finish().result["result"]

    explored()


def test_what_says_nothing_of_what_an_agent_is_asked_is_refused():
    """`with_input` is for starting agents inside a run; what is to be given in its place is said."""
    refused: Any

    with pytest.raises(TypeError, match=r"given what it is asked: text, items .* this is {'inptu': 'Go.'}"):
        sweep(s.sender, {"inptu": "Go."})
    with pytest.raises(TypeError, match=r"given what it is asked: text"):
        sweep(s.sender)
    for refused in ((s.sender.with_input("Go."),), (s.sender, s.sender.with_input("Go."))):
        with pytest.raises(TypeError, match=r"given apart: agent, and text, .*with_input\(\.\.\.\)\.payload is, too"):
            sweep(*refused)


def test_a_call_without_a_record_is_found(monkeypatch: pytest.MonkeyPatch):
    """Nobody could tell afterwards that it was made."""
    monkeypatch.setattr(s.Careless, "call", Workflow.call)

    with pytest.raises(CrashSweepFailed, match=r"call 1 of tool swept_fling .* before its record is durable"):
        sweep(s.careless, {"input": "Go."}, processes=0, pairs=0)


def test_a_run_that_is_retried_counts_each_call_once():
    """What was paid before a run failed is on record: retried, it pays only for what is new."""
    refused: list[int] = []

    def reply(request: LLMRequest) -> Any:
        turn = sum(1 for item in request.items if item.get("role") == "assistant")
        if turn == 0:
            return Reply(text="First the file.", tool_calls=[("swept_file", {})], usage=s.USED)
        if not refused:
            refused.append(1)
            raise ModelRequestRefused("not today")
        return Reply(text="There.", usage=s.USED)

    agent = make_agent("swept_retried", reply, tools=[s.look_up], budget=Budget(calls=2))
    with Simulation([agent, s.look_up]) as sim:
        run = sim.create(agent, {"input": "Go."}).run
        sim.settle()
        assert "not today" in str(sim.audit.end_of(run))
        sim.send("retry", run=run)
        sim.settle()
        found = sim.result(run)
        used = sim.audit.states[run].usage["swept_retried"]

    assert ("There.", 2, "completed") == (found["result"], found["calls"], found["stop_reason"])
    assert (2, found["spent_tokens"]) == (used["calls"], used["input_tokens"] + used["output_tokens"])
