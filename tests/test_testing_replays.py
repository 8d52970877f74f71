"""Replaying a history from the log alone: what lets no run stop is still told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.engine import events as e
from polos.testing.replays import check_replay
from polos.testing.simulation import Simulation


def _pack(payload: dict[str, str]) -> dict[str, str]:
    return payload


@workflow(id="replays-child")
async def child(ctx: WorkflowContext, payload: dict[str, str]) -> str:
    return payload["item"]


@workflow(id="replays-order")
async def order(ctx: WorkflowContext, payload: dict[str, str]) -> str:
    packed = await ctx.step.run("pack", _pack, payload)
    return await ctx.step.invoke_and_wait("send", child, packed)


def _changed(event: Any, kind: type[Any], what: str) -> Any:
    return replace(event, **{what: "another"}) if type(event) is kind else event


@pytest.mark.parametrize(
    ("kind", "what"),
    [(e.StepScheduled, "function"), (e.StepScheduled, "digest"), (e.ChildStarted, "workflow")],
)
def test_what_fits_and_differs_is_told(kind: type[Any], what: str):
    """A history whose requests fit, but by another function, arguments or workflow, isn't replayed as it was (E6)."""
    with Simulation([order, child]) as world:
        run = world.create(order, {"item": "book"}).run
        world.settle()
        history = world.audit.histories[run]
        check_replay(world, run)
        changed: list[Any] = [(_changed(event, kind, what), *at) for event, *at in history]

        with pytest.raises(AssertionError, match=rf"E6: .*{what}.*recorded='another'"):
            check_replay(world, run, changed)
