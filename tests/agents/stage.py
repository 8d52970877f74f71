"""
Agents in a box: what tests of agents and their tools look at and answer.

Everything is read from the log, as a person who was asked something would see it: open questions are waits that have
no answer, calls and approvals are events.
"""

from __future__ import annotations

from typing import Any

from polos import Agent
from polos.engine import events as e
from polos.llm import Reply, script
from polos.testing.simulation import Simulation

__all__ = ["answer", "call", "events", "make_agent", "open_questions", "run_of", "values"]


def make_agent(name: str, replies: Any, **options: Any) -> Agent:
    """Make an agent that says what a script says."""
    script(name, replies)
    return Agent(id=name, provider="scripted", model=name, **options)


def call(name: str, /, **arguments: Any) -> Reply:
    """Ask for one tool."""
    return Reply(tool_calls=[(name, arguments)])


def events(sim: Simulation, kind: type[Any], run: str | None = None) -> list[Any]:
    """Give the events of a kind, of one run or of all, in each run's order."""
    return [
        event
        for stream, history in sim.audit.histories.items()
        for event, _, _ in history
        if isinstance(event, kind) and run in {None, stream}
    ]


def values(sim: Simulation, key: str, run: str | None = None) -> list[Any]:
    """Give the recorded values of a name."""
    return [one.value for one in events(sim, e.ValueRecorded, run) if one.name.partition("#")[0] == key]


def open_questions(sim: Simulation) -> list[tuple[str, str, Any]]:
    """Give run, key and data of every suspend that nobody has answered."""
    found: list[tuple[str, str, Any]] = []
    for run, history in sim.audit.histories.items():
        waits: dict[str, e.WaitStarted] = {}
        for event, _, _ in history:
            match event:
                case e.WaitStarted(kind="suspend"):
                    waits[event.name] = event
                case e.WaitSatisfied() | e.WaitExpired() | e.WaitCancelled():
                    waits.pop(event.name, None)
                case _:
                    pass
        if not sim.audit.states[run].ended_us:
            found += [(run, wait.key, wait.data) for wait in waits.values()]
    return found


def answer(sim: Simulation, run: str, key: str, data: Any) -> Any:
    """Answer a question and let happen what happens then; gives the command."""
    told = sim.send("resume", run=run, key=key, data=data)
    sim.settle()
    return told


def run_of(sim: Simulation, workflow: str) -> str:
    """Give the only run of a workflow."""
    (run,) = (run for run, state in sim.audit.states.items() if state.workflow == workflow)
    return run
