"""
The scenes of agents: what people ask them, and what they answer when an agent asks.

See `tests.golden.scenes`; these stand by themselves because most of them have to find out first what they are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

from polos.engine import events as e
from polos.testing.simulation import Simulation

__all__ = ["OF_AGENTS"]


def _questions(sim: Simulation) -> list[tuple[str, str, Any]]:
    """Give run, key and data of everything that a person is asked."""
    return [
        (run, event.key, event.data)
        for run, state in sim.audit.states.items()
        for event, _, _ in sim.audit.histories[run]
        if isinstance(event, e.WaitStarted) and event.kind == "suspend" and event.name in state.ops
    ]


def agents(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.forecaster, {"input": "How is it in Oslo?", "streaming": True}, user="ada")
    sim.settle()
    sim.create(program.critic, {"input": "Review the film Up."})
    sim.settle()


def agent_tools(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.cashier, {"input": "Do what there is."})
    sim.run_for(1)
    sim.recover()
    sim.run_for(1)
    for run, key, data in _questions(sim):
        given: Any = {"seats": 4}
        if "_approval" in data:
            given = {
                "approved": data["_form"]["context"]["input"]["cents"] == 500,
                "approver": "ann",
                "feedback": "No.",
            }
            given["digest"] = data["_approval"]["digest"]
        sim.send("resume", run=run, key=key, data=given)
        sim.run_for(1)
    sim.settle()
    while asked := _questions(sim):  # the fourth call began when one of the first three had ended
        run, key, _ = asked[0]
        sim.send("resume", run=run, key=key, data={"seats": 4})
        sim.settle()
    program.WORLD["hangs"] = True
    for sent in (False, True):
        sim.create(program.postman, {"input": "A letter."})
        sim.run_for(1)
        program.WORLD["sent"] = sent
        sim.recover()
        sim.settle()
        for run, key, _ in _questions(sim):
            sim.send("resume", run=run, key=key, data={"outcome": "completed", "value": "sent, says the post"})
        sim.settle()


def mcp_tools(sim: Simulation, program: ModuleType) -> None:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from polos.tools.mcp import load_mcp_tools

    app, breaks = MCPServer("golden library"), [False, True]

    def server() -> MCPServer:
        if breaks and breaks.pop(0):
            raise ConnectionError("the line is dead")
        return app

    @app.tool()
    async def shelf(book: str) -> str:
        """Say where a book stands."""
        if book == "Emma":
            raise ToolError("it is lent")
        return f"{book} stands on shelf 7"

    @app.tool()
    async def count(shelves: list[int]) -> dict[str, int]:
        """Count books."""
        return {"books": sum(shelves)}

    for tool in asyncio.run(load_mcp_tools(server)):
        sim.workflows["golden_" + tool.id] = tool.known_as("golden_" + tool.id)  # the program has others in their place
    sim.create(program.librarian, {"input": "Which books are there?"})
    sim.settle()


def agent_handoffs(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.desk, {"input": "What of my file?", "budget": {"calls": 9}}, session="a desk")
    sim.settle()


def agent_checks(sim: Simulation, program: ModuleType) -> None:
    for agent in (program.secretary, program.writer, program.kind):
        sim.create(agent, {"input": "Write.", "streaming": agent is program.kind})
        sim.settle()
    for name in ("ada", "nobody"):
        sim.create(program.hooked, {"to": name})
        sim.settle()


def agent_sessions(sim: Simulation, program: ModuleType) -> None:
    for number in range(3):
        sim.create(program.talker, {"input": f"How is it on day {number}?"}, session="of rain", user="ada")
        sim.settle()


def agent_budgets(sim: Simulation, program: ModuleType) -> None:
    run = sim.create(program.asking, {"input": "Go."}).run
    sim.settle()
    decisions: list[dict[str, Any]] = [{"approved": True, "calls": 1}, {"approved": False}]
    for more in decisions:
        ((_, key, _),) = _questions(sim)
        sim.send("resume", run=run, key=key, data=more)
        sim.settle()
    sim.create(program.frugal, {"input": "Go."})
    sim.settle()


def agents_in_workflows(sim: Simulation, program: ModuleType) -> None:
    sim.create(program.card, None, session="a card")
    sim.settle()


OF_AGENTS: tuple[Callable[[Simulation, ModuleType], None], ...] = (
    agents, agent_tools, mcp_tools, agent_handoffs, agent_checks, agent_sessions, agent_budgets, agents_in_workflows,
)  # fmt: skip
