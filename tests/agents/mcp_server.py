"""
A small MCP server that is a program, for tests over its standard input and output.

Run as `python -m tests.agents.mcp_server FOLDER`: it notes there each time that it begins, with its process, and each
call.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp.server import MCPServer

__all__ = ["said"]


def said(folder: Path) -> list[str]:
    """Give what the server noted, in its order."""
    notes = folder / "notes"
    return notes.read_text().splitlines() if notes.exists() else []


def main(folder: Path) -> None:
    """Serve until the input ends."""

    def note(what: str) -> None:
        with (folder / "notes").open("a") as notes:
            notes.write(f"{what}\n")

    app = MCPServer("shop")

    @app.tool()
    def price(of: str) -> dict[str, int]:
        """Say what something costs."""
        note(f"price {of}")
        return {"cents": 100 * len(of)}

    @app.tool()
    def buy(what: str) -> str:
        """Buy something; the first time the server dies of it."""
        note(f"buy {what}")
        if said(folder).count(f"buy {what}") == 1:
            os._exit(1)
        return f"bought {what}"

    note(f"begun {os.getpid()}")
    app.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
