"""Tools of MCP servers: calls, failures and connections that break."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError, StdioServerParameters
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CONNECTION_CLOSED, CallToolResult, TextContent
from polos import Polos
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.retry import RetryPolicy
from polos.errors import PolosUsageError
from polos.llm import Reply
from polos.tools.mcp import McpUnavailable, load_mcp_tools, mcp_tools

from tests.agents.mcp_server import said
from tests.agents.stage import call, make_agent
from tests.golden.form import FOLDER, Case
from tests.golden.going_on import commits, open_case

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(max_retries=2, base_delay_seconds=0.001)


class Library:
    """A server that counts what it is asked, and breaks when it is told to."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.connected = 0
        self.broken = 0  # so many of the next connections can't be made
        self.app = MCPServer("library")

        @self.app.tool()
        def shelf(book: str) -> str:
            """Say where a book stands."""
            self.called.append(book)
            return f"{book} stands on shelf 7"

        @self.app.tool(name="count.all")
        def count(shelves: list[int]) -> dict[str, int]:
            """Count books."""
            return {"books": sum(shelves)}

        @self.app.tool()
        def parts() -> CallToolResult:
            """Give parts."""
            return CallToolResult(content=[TextContent(type="text", text="one"), TextContent(type="text", text="two")])

        @self.app.tool()
        def burn(book: str) -> str:
            """Fail."""
            self.called.append(book)
            raise ToolError(f"{book} doesn't burn")

        @self.app.tool()
        async def cut(times: int) -> str:
            """Break the connection so many times."""
            self.called.append("cut")
            if len(self.called) <= times:
                raise MCPError(CONNECTION_CLOSED, "cut off")
            return "whole"

        @self.app.tool()
        async def silent() -> str:
            """Never answer."""
            self.called.append("silent")
            await asyncio.Event().wait()
            return "never"

    def __call__(self) -> Any:
        """Give what is to be connected to."""
        self.connected += 1
        if self.broken:
            self.broken -= 1
            raise ConnectionRefusedError("nobody is there")
        return self.app


async def log_of(polos: Polos) -> list[e.Event]:
    """Give all events."""
    with polos.engine.store.log.reader() as reader:
        return [decode(r.type, r.schema_version, r.payload) for r in reader.records()]


async def test_a_model_calls_tools_of_a_server(tmp_path: Path):
    """Each call is a run with a recorded step; data is data, texts are text, a tool that failed is told as it said."""
    library = Library()
    async with mcp_tools(library) as tools:
        calls = [
            ("shelf", {"book": "Dune"}), ("count_all", {"shelves": [1, 2]}), ("parts", {}), ("burn", {"book": "Emma"}),
            ("shelf", {"buk": 1}),
        ]  # fmt: skip
        agent = make_agent("mcp_reader", [Reply(tool_calls=calls), "Done."], tools=tools)
        async with Polos(tmp_path) as polos:
            found = await agent.run(polos, "Look.")
            log = await log_of(polos)

    assert [
        {"result": "Dune stands on shelf 7"}, {"books": 3}, "one\ntwo", None, None,
    ] == [one.result for one in found.tool_results]  # fmt: skip
    assert ["completed", "completed", "completed", "failed", "failed"] == [one.status for one in found.tool_results]
    assert "Error executing tool burn: Emma doesn't burn" == found.tool_results[3].error
    assert "book" in str(found.tool_results[4].error)
    assert 5 == [event.name for event in log if isinstance(event, e.StepScheduled)].count("mcp")
    assert ["Dune", "Emma"] == sorted(library.called)
    assert 1 == library.connected


async def run_once(
    folder: Path, library: Library, tool: str, payload: dict[str, Any], **options: Any
) -> tuple[Any, int]:
    """Call one tool; gives what came of it, and how many attempts failed."""
    async with mcp_tools(library, only=[tool], **{"retries": AT_ONCE, **options}) as (one,), Polos(folder) as polos:
        try:
            found = await one.run(polos, payload)
        except RuntimeError as failed:
            found = str(failed)
        log = await log_of(polos)
    return found, sum(isinstance(event, e.StepAttemptFailed) for event in log)


async def test_a_connection_that_breaks_is_made_anew(tmp_path: Path):
    """A call that broke off is made again over another connection, each attempt on record; in the end it is told."""
    library, gone = Library(), Library()
    mended = await run_once(tmp_path / "1", library, "cut", {"times": 2})
    lost, failures = await run_once(tmp_path / "2", gone, "cut", {"times": 9})

    assert (({"result": "whole"}, 2), 3, 3) == (mended, len(library.called), library.connected)
    assert "the MCP server didn't call 'cut': cut off" in lost
    assert (2, 3, 3) == (failures, len(gone.called), gone.connected)


async def test_a_server_that_can_not_be_reached(tmp_path: Path):
    """Whoever loads tools is told at once; a server that is gone later is tried again, and comes back."""
    library = Library()
    library.broken = 1
    with pytest.raises(McpUnavailable, match="didn't list its tools: ConnectionRefusedError: nobody is there"):
        async with mcp_tools(library):
            raise AssertionError("nothing to use")
    tools = await load_mcp_tools(library, only=["shelf"], retries=AT_ONCE)
    library.broken = 2
    async with Polos(tmp_path) as polos:
        found = await tools[0].run(polos, {"book": "Dune"})
        log = await log_of(polos)

    assert ({"result": "Dune stands on shelf 7"}, 2) == (
        found, sum(isinstance(event, e.StepAttemptFailed) for event in log),
    )  # fmt: skip
    assert 5 == library.connected, "one that failed, one to load, three to call"


async def test_a_server_that_is_silent(tmp_path: Path):
    """A call has a limit; the connection isn't used again."""
    library = Library()
    found, failures = await run_once(
        tmp_path, library, "silent", {}, timeout_seconds=0.2, retries=RetryPolicy(max_retries=0)
    )

    assert "the MCP server didn't call 'silent'" in found
    assert (0, ["silent"]) == (failures, library.called)


async def test_a_call_that_may_be_made_once_is_made_once(tmp_path: Path):
    """With effect="at_most_once" a connection that broke in the middle leads to no second call."""
    library = Library()
    found, failures = await run_once(tmp_path, library, "cut", {"times": 1}, effect="at_most_once")

    assert "cut off" in found
    assert (0, ["cut"]) == (failures, library.called)


async def test_a_tool_that_the_server_does_not_know_any_more(tmp_path: Path):
    """What the server refuses isn't asked again."""
    library = Library()
    async with mcp_tools(library, retries=AT_ONCE) as tools, Polos(tmp_path) as polos:
        library.app.remove_tool("shelf")
        with pytest.raises(RuntimeError, match="shelf"):
            await tools[0].run(polos, {"book": "Dune"})
        log = await log_of(polos)

    assert not any(isinstance(event, e.StepAttemptFailed) for event in log)


async def test_tools_have_names_that_models_take(tmp_path: Path):
    """Names are made fit, prefixed and chosen; two of one name, and one that isn't there, are refused."""
    library = Library()
    async with mcp_tools(library, prefix="lib.", only=["count.all", "shelf"], approval="always") as tools:
        told = [tool.to_llm_tool_definition()["function"] for tool in tools]

    assert ["lib_shelf", "lib_count_all"] == [one["name"] for one in told]
    assert ("Say where a book stands.", ["book"]) == (told[0]["description"], told[0]["parameters"]["required"])
    assert ["always", "always"] == [tool.approval for tool in tools]
    with pytest.raises(ValueError, match="has no tool 'cellar'; it has shelf, "):
        await load_mcp_tools(library, only=["cellar"])
    with pytest.raises(ValueError, match="timeout_seconds must be positive, it is 0"):
        await load_mcp_tools(library, timeout_seconds=0)

    @library.app.tool(name="count all")
    def twin() -> str:
        return ""

    with pytest.raises(ValueError, match="two tools of the MCP server would be called 'count_all'"):
        await load_mcp_tools(library)


async def test_without_the_sdk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "mcp", None)

    with pytest.raises(PolosUsageError, match=r"install polos-engine\[mcp\]"):
        await load_mcp_tools("http://127.0.0.1:1/mcp")


# ------------------------------------------------------------------------------------ a server that is a program


def shop(folder: Path) -> StdioServerParameters:
    """Say how the server in `mcp_server.py` is begun."""
    root = Path(__file__).resolve().parent.parent.parent
    return StdioServerParameters(
        command=sys.executable, args=["-m", "tests.agents.mcp_server", str(folder)], cwd=str(root),
        env={"PYTHONPATH": str(root)},
    )  # fmt: skip


async def test_a_server_that_is_a_program_is_talked_to_over_its_input_and_output(tmp_path: Path):
    """One process serves all calls of the block, also those after it died in the middle of one; none is left behind."""
    calls = [("price", {"of": "tea"}), ("price", {"of": "coffee"})]
    async with mcp_tools(shop(tmp_path), retries=AT_ONCE) as tools:
        replies = [Reply(tool_calls=calls), call("buy", what="tea"), call("price", of="milk"), "Done."]
        agent = make_agent("mcp_shopper", replies, tools=tools)
        async with Polos(tmp_path / "data") as polos:
            found = await agent.run(polos, "Shop.")
            log = await log_of(polos)

    assert [{"cents": 300}, {"cents": 600}, {"result": "bought tea"}, {"cents": 400}] == [
        one.result for one in found.tool_results
    ]
    assert 1 == sum(isinstance(event, e.StepAttemptFailed) for event in log)
    notes = said(tmp_path)
    words = [note.partition(" ")[0] for note in notes]
    assert ["begun", "price", "price", "buy", "begun", "buy", "price"] == words
    assert {"price tea", "price coffee"} == set(notes[1:3])
    for note in notes:
        if note.startswith("begun "):
            with pytest.raises(ProcessLookupError):
                os.kill(int(note.removeprefix("begun ")), 0)


async def test_a_program_that_is_not_there(tmp_path: Path):
    """It is told at once, with what was to be run."""
    nothing = StdioServerParameters(command=str(tmp_path / "nobody"), args=[])

    with pytest.raises(McpUnavailable, match="didn't list its tools: FileNotFoundError"):
        await load_mcp_tools(nothing)


def test_a_call_that_was_recorded_then_is_not_made_now():
    """From wherever a recorded log breaks off, the tools of today take what stands in it, and make the open calls."""
    case, app, called = Case(FOLDER / "format-1" / "mcp_tools"), MCPServer("library"), list[str]()

    @app.tool()
    async def shelf(book: str) -> str:
        """Say where a book stands; a plain function would be called in a thread, for which no virtual time waits."""
        called.append(book)
        return f"{book} stands on shelf 8"

    (tool,) = asyncio.run(load_mcp_tools(app))
    ends = [line for line in case.lines if line.record.type == "StepCompleted" and b'"mcp"' in line.record.payload]
    made: dict[int, list[str]] = {}
    for at in [at for at in commits(case) if ends[0].position - 3 < at <= ends[1].position]:
        called.clear()
        sim = open_case(case, at)
        sim.workflows["golden_shelf"] = tool.known_as("golden_shelf")
        with sim:
            sim.settle()
        made[at] = list(called)

    assert {at: ["Dune", "Emma"][sum(end.position <= at for end in ends) :] for at in made} == made
    assert {0, 1, 2} == {len(books) for books in made.values()}
