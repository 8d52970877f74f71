"""The command line in tests: typed in this process, on a directory of the test's own, beside an engine if need be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from polos import Polos, registry
from polos.cli import run
from polos.runtime.client import PolosClient

__all__ = ["Said", "Say", "play", "say", "typed", "until"]


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it printed as one JSON object a line."""
        return [orjson.loads(line) for line in self.out.splitlines()]


Say = Callable[..., Said]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Give a command on the test's own data directory, which it finds by the environment."""
    monkeypatch.setenv("POLOS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(registry, "_workflows", {})

    def command(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(arguments)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return command


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Polos], Awaitable[None]]], None]:
    """Run a program on an engine that knows what is defined by now."""

    def program(body: Callable[[Polos], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Polos(data_dir=tmp_path / "data") as polos:
                await body(polos)

        asyncio.run(main())

    return program


async def typed(say: Say, *arguments: str) -> Said:
    """Type a command beside the engine's loop, as another thread of its process would."""
    return await asyncio.to_thread(say, *arguments)


async def until(client: PolosClient, run_id: str, status: str) -> None:
    """Wait until a run has a status or a reason to wait."""
    moves = client._connection().moves()
    while True:
        head = moves.head()
        if any(found["id"] == run_id for found in await client.list_executions(status=status)):
            return
        await moves.behind(head)
