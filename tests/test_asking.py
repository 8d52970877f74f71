"""
Queries and validators are a program's code that runs while the engine decides: whoever asks gets an answer.

They may raise anything. What they raise is told to the caller as theirs, and the run and the engine go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, WorkflowContext, registry, workflow
from polos.errors import CommandRefused, UpdateRejected


class Unusual(BaseException):
    """An exception that `except Exception` lets through."""


class Mute(Exception):
    """An exception that can't say what it says."""

    def __str__(self) -> str:
        raise LookupError("lost for words")


def raising(error: BaseException) -> Callable[..., Any]:
    """Give a function that raises."""

    def act(*_: object) -> None:
        raise error

    return act


ODD = {
    "key": KeyError("missing"),
    "cancelled": asyncio.CancelledError("odd"),
    "unusual": Unusual("odd"),
    "exit": SystemExit("odd"),
    "mute": Mute(),
}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_workflows", {})


@pytest.mark.parametrize("deterministic", [True, False])
def test_whatever_a_query_or_a_validator_raises_is_an_answer(tmp_path: Path, deterministic: bool):
    """The caller is told what was raised, not that there is no such name, and the run goes on."""
    ready = asyncio.Event()

    async def tell() -> None:
        ready.set()

    @workflow(deterministic=deterministic)
    async def asked(ctx: WorkflowContext) -> str:
        for name, error in ODD.items():
            ctx.on_query(name, raising(error))
            ctx.on_update(name, raising(AssertionError("it was let through")), validator=raising(error))
        ctx.on_query("continue", ctx.continue_as_new)
        await ctx.step.run("ready", tell)
        await ctx.step.wait_for_signal("end")
        return "went on"

    async def main() -> Any:
        said: list[str] = []
        async with Polos(data_dir=tmp_path / "data") as polos, asyncio.timeout(20):
            run = await asked.invoke(polos)
            await ready.wait()
            for name in [*ODD, "continue", "nobody"]:
                with pytest.raises(CommandRefused) as refused:
                    await run.query(polos, name)
                said.append(str(refused.value).replace(run.id, "R"))
            for name in ODD:
                with pytest.raises(UpdateRejected) as rejected:
                    await run.update(polos, name, 1)
                said.append(str(rejected.value))
            await run.signal(polos, "end")
            return said, (await polos._wait_ended(run.id))["result"]

    assert asyncio.run(main()) == (
        [
            "the query 'key' of run R failed: KeyError: 'missing'",
            "the query 'cancelled' of run R failed: CancelledError: odd",
            "the query 'unusual' of run R failed: Unusual: odd",
            "the query 'exit' of run R failed: SystemExit: odd",
            "the query 'mute' of run R failed: Mute: its message can't be told: Mute.__str__ raised LookupError",
            "the query 'continue' of run R failed: ContinueAsNew: the run continues as a new one",
            "run R has no query 'nobody' (ctx.on_query registers one)",
            "'missing'", "odd", "odd", "odd", "its message can't be told: Mute.__str__ raised LookupError",
        ],
        "went on",
    )  # fmt: skip
