"""
Tools of MCP servers: what a server offers becomes tools of an agent, each call a recorded step.

A server is somebody else's process. So what it says is believed only as text for the model; its names are made fit for
models; and it may be gone at any moment. A call that broke off is made again by the step's policy, over a connection
that is made anew; when that doesn't help the model is told, as of any tool that failed. What the server itself calls a
failure of the tool is an answer: it is recorded, told to the model, and not asked for again.

The tools have to be there before the engine is: whoever goes on after a crash needs the definitions of the calls that
were under way. So they are loaded first, and used for as long as the program lives. An MCP connection belongs to the
task that opened it, and calls come from many; so one task of ours holds it (`_Line`), opens it and closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar, Unpack, cast, final

from polos.context import WorkflowContext
from polos.engine.json import Json
from polos.engine.retry import RetryPolicy
from polos.errors import PolosUsageError
from polos.llm.jsonish import texts_mended
from polos.llm.messages import fit_name
from polos.tools.tool import Tool, ToolApproval

if TYPE_CHECKING:
    from mcp import Client, StdioServerParameters
    from mcp.types import CallToolResult
    from mcp.types import Tool as Offered

__all__ = ["McpOptions", "McpRefused", "McpToolFailed", "McpUnavailable", "load_mcp_tools", "mcp_tools"]

_T = TypeVar("_T")
_TIMEOUT_SECONDS: Final = 60.0
_RETRIES: Final = RetryPolicy(max_retries=2, base_delay_seconds=1.0, max_delay_seconds=10.0)
_TOOLS_MAX: Final = 1_000


class McpUnavailable(RuntimeError):
    """An MCP server didn't answer, or the connection broke; asking again may help."""


class McpRefused(RuntimeError):
    """An MCP server knows no such tool or doesn't take the arguments; asking again doesn't help."""


class McpToolFailed(RuntimeError):
    """A tool of an MCP server was called and failed; what it says is told to the model."""


class McpOptions(TypedDict, total=False):
    """
    What `mcp_tools` and `load_mcp_tools` take beside the server.

    Attributes:
        prefix: before each tool's name.
        only: names of the tools that are wanted, as the server has them; all of them without.
        approval: "always" to ask a person before each call.
        effect: what a second call after a crash would do; with "at_most_once" none is made, not even after an error.
        retries: when a call is made again that broke off.
        timeout_seconds: how long a call, or connecting, may take; 60 without.
    """

    prefix: str
    only: Collection[str]
    approval: ToolApproval
    effect: Literal["idempotent", "at_most_once", "pure"]
    retries: RetryPolicy
    timeout_seconds: float


@asynccontextmanager
async def mcp_tools(
    server: str | StdioServerParameters | Callable[[], Any] | Any, **options: Unpack[McpOptions]
) -> AsyncGenerator[list[Tool], None]:
    """
    Connect to an MCP server and give its tools, for agents; needs the extra `polos-engine[mcp]`.

    ```python run
    import asyncio, tempfile
    from mcp.server import MCPServer
    from polos import Agent, Polos
    from polos.llm import Reply, script
    from polos.tools.mcp import mcp_tools

    app = MCPServer("library")

    @app.tool()
    def shelf(book: str) -> str:
        "Say where a book stands."
        return f"{book} stands on shelf 7"

    script("librarian", [Reply(tool_calls=[("shelf", {"book": "Dune"})]), "Shelf 7."])

    async def main():
        async with mcp_tools(app) as tools:
            librarian = Agent(id="librarian", provider="scripted", model="librarian", tools=tools)
            with tempfile.TemporaryDirectory() as folder:
                async with Polos(folder) as polos:
                    print((await librarian.run(polos, "Where is Dune?")).tool_results[0].result)

    asyncio.run(main())
    ```

    Args:
        server: an address (`https://…/mcp`), an `mcp.StdioServerParameters`, an `MCPServer` of this process, or a
            function that gives one of them or a transport, called for each connection.
        **options: see `McpOptions`.

    Yields:
        The tools; the connection is closed at the end of the block, and was made anew whenever it broke.

    Raises:
        McpUnavailable: the server can't be reached.
        ValueError: two tools have one name, or one of `only` isn't there.
        PolosUsageError: the extra isn't installed.
    """
    line = _Line(server, options.get("timeout_seconds", _TIMEOUT_SECONDS))
    try:
        yield _tools(line, await line.offered(), options)
    finally:
        await line.close()


async def load_mcp_tools(
    server: str | StdioServerParameters | Callable[[], Any] | Any, **options: Unpack[McpOptions]
) -> list[Tool]:
    """
    Give the tools of an MCP server, for programs without a place for `async with`: each call connects anew.

    Args:
        server: as for `mcp_tools`.
        **options: see `McpOptions`.

    Raises:
        McpUnavailable: the server can't be reached.
        ValueError: two tools have one name, or one of `only` isn't there.
        PolosUsageError: the extra isn't installed.
    """
    line = _Line(server, options.get("timeout_seconds", _TIMEOUT_SECONDS), keeps=False)
    return _tools(line, await line.offered(), options)


# --------------------------------------------------------------------------------------------------------- the tools


def _tools(line: _Line, offered: list[Offered], options: McpOptions) -> list[Tool]:
    only, effect = options.get("only"), options.get("effect", "idempotent")
    missing = sorted(set(only or ()) - {one.name for one in offered})
    if missing:
        raise ValueError(f"the MCP server has no tool {missing[0]!r}; it has {', '.join(one.name for one in offered)}")
    wanted = [one for one in offered if only is None or one.name in only]
    names = [fit_name(options.get("prefix", ""), one.name) for one in wanted]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two tools of the MCP server would be called {twice[0]!r}: take one of them with only=")
    again = options.get("retries", _RETRIES) if effect != "at_most_once" else RetryPolicy(max_retries=0)
    approval = options.get("approval")
    return [
        _tool(line, one, name, again, approval=approval, effect=effect) for name, one in zip(names, wanted, strict=True)
    ]


def _tool(line: _Line, offered: Offered, name: str, retries: RetryPolicy, **options: Any) -> Tool:
    async def call(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
        # The step's own function, so that the record names the tool and its arguments are those of the call.
        answer = await ctx.step.run(
            "mcp", line.call, offered.name, input,
            max_retries=retries.max_retries, base_delay=retries.base_delay_seconds, max_delay=retries.max_delay_seconds,
            jitter=retries.jitter, non_retryable=(McpRefused,),
        )  # fmt: skip
        if answer["failed"]:
            raise McpToolFailed(str(answer["content"]))
        return answer["content"]

    told = offered.description or offered.title or offered.name
    return Tool(name, description=told, parameters=dict(offered.input_schema), func=call, **options)


def _read(result: CallToolResult) -> dict[str, Json]:
    """Give what a server answered: its data if it sent any, its text if that is all, or its parts as they are."""
    parts = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in result.content]
    texts = [one["text"] for one in parts if one["type"] == "text"]
    content: Any = parts
    if len(texts) == len(parts):
        content = "\n".join(texts)
    if result.structured_content is not None and not result.is_error:
        content = result.structured_content
    return {"failed": result.is_error, "content": texts_mended(content)}


# ---------------------------------------------------------------------------------------------------- the connection


@final
class _Line:
    """A connection to a server, made when it is needed and made anew after it broke."""

    def __init__(self, server: Any, timeout_seconds: float, *, keeps: bool = True) -> None:
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be positive, it is {timeout_seconds!r}")
        self._server = server
        self._timeout_seconds = timeout_seconds
        self._keeps = keeps
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._holder: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    async def offered(self) -> list[Offered]:
        """Ask what tools there are."""
        found: list[Offered] = []

        async def pages(client: Client) -> None:
            cursor: str | None = None
            while len(found) < _TOOLS_MAX:
                page = await client.list_tools(cursor=cursor)
                found.extend(page.tools)
                cursor = page.next_cursor
                if cursor is None:
                    return

        await self._with_client("list its tools", pages)
        return found

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Json]:
        """
        Call a tool, once.

        Raises:
            McpUnavailable: there was no answer.
            McpRefused: the server doesn't take the call.
        """

        async def once(client: Client) -> dict[str, Json]:
            return _read(await client.call_tool(tool, arguments))

        return await self._with_client(f"call {tool!r}", once)

    async def _with_client(self, what: str, use: Callable[[Client], Awaitable[_T]]) -> _T:
        mcp = _sdk()
        from mcp.types import INVALID_PARAMS, METHOD_NOT_FOUND

        client: Client | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if not self._keeps:
                    async with self._made() as own:
                        return await use(own)
                client = await self._open()
                return await use(client)
        except mcp.MCPError as error:
            if error.code in (INVALID_PARAMS, METHOD_NOT_FOUND):
                raise McpRefused(f"the MCP server can't {what}: {error.message}") from error
            problem: BaseException = error
            said = error.message
        except Exception as error:  # noqa: BLE001  # told as what it means: the next attempt, or the model, is to know
            # Transports raise what they like, groups of it as well.
            problem, said = error, _said(error)
        if client is not None and self._client is client:
            await self.close()  # whatever it was, this connection isn't used again
        raise McpUnavailable(f"the MCP server didn't {what}: {said}") from problem

    def _made(self) -> Client:
        from mcp import Client

        # What is none of the three kinds of address is called for each connection: a transport serves one alone.
        server: Any = self._server() if callable(self._server) else self._server
        return Client(server, read_timeout_seconds=self._timeout_seconds)

    async def _open(self) -> Client:
        async with self._opening:
            if self._client is None:
                opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
                self._leave = asyncio.Event()
                self._holder = asyncio.create_task(self._hold(opened, self._leave))
                try:
                    self._client = await opened
                except BaseException:
                    self._holder.cancel()  # it took too long, and may take for ever
                    raise
            return self._client

    async def _hold(self, opened: asyncio.Future[Client], leave: asyncio.Event) -> None:
        """Hold the connection, in the one task that may open and close it."""
        try:
            async with self._made() as client:
                if not opened.done():  # nobody waits for it any more if that took too long
                    opened.set_result(client)
                    await leave.wait()
        except Exception as error:  # noqa: BLE001  # raised where somebody waits for the connection
            if opened.done():
                return  # whoever is calling is told by the call itself
            opened.set_exception(error)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._client = None
        holder, self._holder = self._holder, None
        self._leave.set()
        if holder is not None:
            await asyncio.wait([holder], timeout=self._timeout_seconds)
            holder.cancel()


def _sdk() -> Any:
    try:
        import mcp
    except ImportError as missing:
        raise PolosUsageError("tools of MCP servers need the MCP SDK: install polos-engine[mcp]") from missing
    return mcp


def _said(error: BaseException) -> str:
    """Give what an error says, and of a group of errors what the first of them says."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return f"{type(error).__name__}: {error}"
