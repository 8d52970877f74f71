"""
Tools of an MCP server: a call whose connection breaks, one that fails, one that gives data.

What was recorded, the tools of a server recorded, which has to be there for that. These stand in for them, so that the
history is read where there is none.
"""

from typing import Any

from polos import Agent, Tool, WorkflowContext
from polos.llm import Reply, script


async def ask(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if arguments.get("book") == "Emma":
        return {"failed": True, "content": f"Error executing tool {tool}"}
    if tool == "count":
        return {"failed": False, "content": {"books": sum(arguments["shelves"])}}
    return {"failed": False, "content": {"result": f"{arguments['book']} stands on shelf 7"}}


async def call_shelf(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    answer = await ctx.step.run("mcp", ask, "shelf", input)
    if answer["failed"]:
        raise RuntimeError(answer["content"])
    return answer["content"]


async def call_count(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    return (await ctx.step.run("mcp", ask, "count", input))["content"]


ANY = {"type": "object"}
shelf = Tool("golden_shelf", description="Say where a book stands.", parameters=ANY, func=call_shelf)
count = Tool("golden_count", description="Count books.", parameters=ANY, func=call_count)

script("golden-librarian", [
    Reply(tool_calls=[
        ("golden_shelf", {"book": "Dune"}), ("golden_shelf", {"book": "Emma"}), ("golden_count", {"shelves": [1, 2]}),
    ]),
    "Dune is there, Emma isn't.",
])  # fmt: skip
librarian = Agent("golden_librarian", "scripted", "golden-librarian", tools=[shelf, count], max_parallel_tools=1)
