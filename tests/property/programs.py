"""
Workflow programs as data, and the one workflow body that runs them.

A program is a tree of JSON lists, ``[kind, ...]``, so it can be generated, shrunk, printed, recorded as a run's input
and handed to a child. `program` interprets it with plain asyncio and `ctx.step`, nothing else. `expected` says what a
program gives without any engine: as far as a program doesn't race with itself, that is what every run of it must
give, whatever happens to the engine meanwhile.

What a step does follows from its key alone. A program that is tried again may reach its steps in another order, and
answers are looked up by name: two nodes of one key must not differ in what they do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from polos import BatchWorkflowInput, StepExecutionError, WorkflowState, workflow
from polos.context import WorkflowContext
from polos.testing.waiting import perform_in_thread
from polos.testing.world import world
from polos.types import Completed, NotDone
from pydantic import Field

__all__ = ["FOREVER", "Node", "ProgramState", "act", "key_of", "program"]

Node = list[Any]

FOREVER = 10_000_000.0  # seconds: a time-out that no simulation reaches


class Broken(Exception):
    """What a step that is to fail raises."""


class ProgramState(WorkflowState):
    """What programs change of their state."""

    count: int = 0
    seen: dict[str, int] = Field(default_factory=dict)


def key_of(node: Node) -> str:
    """Give a key that is the same for nodes that do the same, and for no others."""
    return hashlib.sha256(json.dumps(node).encode()).hexdigest()[:8]


# ------------------------------------------------------------------------------------------------- what steps do


async def act(key: str, fails: int, takes_us: int) -> str:
    """Have an effect; the first `fails` calls break."""
    effect = await world().perform(takes_us=takes_us, pure=key.endswith("-pure"))
    if effect.number <= fails:
        raise Broken(key)
    return f"ok {key}"


def act_in_thread(key: str, fails: int, takes_us: int) -> str:
    """Do what `act` does, and hold a thread meanwhile."""
    effect = perform_in_thread(takes_us=takes_us, pure=key.endswith("-pure"))
    if effect.number <= fails:
        raise Broken(key)
    return f"ok {key}"


async def wait_held() -> str:
    """Have an effect that ends when the test says so."""
    await world().perform(held=True)
    return "let go"


async def what_became(key: str, fails: int, takes_us: int) -> Completed | NotDone:
    """Find out whether `act` had its effect."""
    from polos.context import current_step

    run, _, name = str(current_step.get()).partition("/")
    done = any(effect.ended for effect in world().effects if (effect.run, effect.name) == (run, name))
    return Completed(f"ok {key}") if done else NotDone()


# ------------------------------------------------------------------------------------------------- the interpreter


@workflow(id="program", state_schema=ProgramState)
async def program(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Run a program: `do` is its tree, `then` the tree of a successor."""
    ctx.on_update("bump", partial(bump, ctx))
    ctx.on_query("count", lambda: ctx.state.count)
    result = await do(ctx, payload["do"])
    if payload.get("then"):
        ctx.continue_as_new({"do": payload["then"]})
    return result


async def bump(ctx: WorkflowContext, data: Any) -> str:
    """Handle an update: change the state, and take a step."""
    ctx.state.count += 1
    return str(await ctx.step.run("update", act, "update", 0, 100))


async def do(ctx: WorkflowContext, node: Node) -> Any:
    """Do what a node says."""
    kind, *rest = node
    return await _KINDS[kind](ctx, *rest)


async def caught(ctx: WorkflowContext, node: Node) -> Any:
    """Do what a node says, and give what it raises as a value."""
    try:
        return await do(ctx, node)
    except Exception as error:
        return f"caught {type(error).__name__}"


async def _step(
    ctx: WorkflowContext, base: str, fails: int, retries: int, takes_us: int, effect: str, *, func: Any = act
) -> str:
    key = f"{base}-{fails}-{retries}-{takes_us}-{effect}"
    options: dict[str, Any] = {"effect": effect}
    if effect == "at_most_once":
        options["reconcile"] = what_became
    ctx.on_update(key, partial(bump, ctx))  # an update may have the name of a step
    return cast(
        "str",
        await ctx.step.run(key, func, key, fails, takes_us, max_retries=retries, base_delay=0.5, jitter=0.5, **options),
    )


async def _thread(ctx: WorkflowContext, base: str, fails: int, retries: int, takes_us: int, effect: str) -> str:
    """A step whose function is a plain one."""
    return await _step(ctx, f"thread{base}", fails, retries, takes_us, effect, func=act_in_thread)


async def _late(ctx: WorkflowContext, base: str) -> str:
    """A step whose plain function comes back when its time is long up, each time."""
    key = f"late{base}-99-1"  # it times out each time that it is called, twice
    return cast("str", await ctx.step.run(
        key, act_in_thread, key, 0, 60_000_000, timeout_seconds=5, max_retries=1, base_delay=0.5
    ))  # fmt: skip


async def _held(ctx: WorkflowContext, key: str) -> str:
    """A step that ends when the test says so."""
    return cast("str", await ctx.step.run(f"held-{key}", wait_held, max_retries=1, base_delay=0.5))


async def _seq(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    return [await do(ctx, node) for node in nodes]


async def _gather(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    return list(await asyncio.gather(*(caught(ctx, node) for node in nodes)))


async def _group(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caught(ctx, node)) for node in nodes]
    return [task.result() for task in tasks]


async def _failing_group(ctx: WorkflowContext, nodes: list[Node], failing: Node, cleanup: Node) -> str:
    """A task group in which one member fails for sure, and all clean up behind themselves."""

    async def member(node: Node) -> None:
        try:
            await do(ctx, node)
        finally:
            await do(ctx, cleanup)

    try:
        async with asyncio.TaskGroup() as group:
            for node in [*nodes, failing]:
                group.create_task(member(node))
    except ExceptionGroup:
        return "the group failed"
    return "the group didn't fail"


async def _try(ctx: WorkflowContext, node: Node) -> Any:
    return await caught(ctx, node)


async def _finally(ctx: WorkflowContext, node: Node, cleanup: Node) -> Any:
    try:
        return await do(ctx, node)
    finally:
        await do(ctx, cleanup)


async def _sleep(ctx: WorkflowContext, seconds: float) -> str:
    await asyncio.sleep(seconds)  # durable
    return "slept"


async def _wait(ctx: WorkflowContext, seconds: float) -> str:
    await ctx.step.wait_for("wait", seconds=seconds)
    return "waited"


async def _wait_for(ctx: WorkflowContext, node: Node, seconds: float) -> Any:
    return await asyncio.wait_for(do(ctx, node), seconds)


async def _timeout(ctx: WorkflowContext, node: Node, seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await do(ctx, node)


async def _signal(ctx: WorkflowContext, name: str, timeout: float | None) -> Any:
    return await ctx.step.wait_for_signal(f"signal-{name}", timeout=timeout)


async def _suspend(ctx: WorkflowContext, name: str, timeout: float | None) -> Any:
    answer = await ctx.step.suspend(f"suspend-{name}", {"question": name}, timeout=timeout)
    return answer.data


async def _event(ctx: WorkflowContext, topic: str, timeout: float | None) -> Any:
    event = await ctx.step.wait_for_event(f"event-{topic}", f"topic-{topic}", timeout=timeout)
    return event.data


async def _publish(ctx: WorkflowContext, topic: str) -> str:
    await ctx.step.publish_event(f"publish-{topic}", f"topic-{topic}", topic)
    return "published"


async def _child(ctx: WorkflowContext, node: Node, then: Node | None) -> Any:
    payload = {"do": node, "then": then}
    return await ctx.step.invoke_and_wait(f"child-{key_of([node, then])}", program, payload)


async def _orphan(ctx: WorkflowContext, node: Node) -> str:
    await ctx.step.invoke(f"orphan-{key_of(node)}", program, {"do": node})
    return "started"


async def _batch(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    inputs = [BatchWorkflowInput(id="program", payload={"do": node}) for node in nodes]
    found = await ctx.step.batch_invoke_and_wait(f"batch-{key_of(nodes)}", inputs)
    return [one.result if one.success else "failed" for one in found]


async def _state(ctx: WorkflowContext, key: str) -> str:
    ctx.state.count += 1
    ctx.state.seen = {**ctx.state.seen, key: ctx.state.seen.get(key, 0) + 1}
    return "changed"


async def _value(ctx: WorkflowContext, kind: str) -> str:
    found: object = await {"uuid": ctx.step.uuid, "now": ctx.step.now, "random": ctx.step.random}[kind]()
    return type(found).__name__


async def _generator(ctx: WorkflowContext, nodes: list[Node], taken: int, cleanup: Node) -> list[Any]:
    """An async generator, left early and without closing it by hand."""

    async def each() -> AsyncIterator[Any]:
        try:
            for node in nodes:
                yield await caught(ctx, node)
        finally:
            await do(ctx, cleanup)

    found: list[Any] = []
    async for one in each():
        found.append(one)
        if len(found) >= taken:
            break
    return found


async def _closed_generator(ctx: WorkflowContext, nodes: list[Node], taken: int, cleanup: Node) -> list[Any]:
    async def each() -> AsyncIterator[Any]:
        try:
            for node in nodes:
                yield await caught(ctx, node)
        finally:
            await do(ctx, cleanup)

    found: list[Any] = []
    async with aclosing(cast("Any", each())) as source:
        async for one in source:
            found.append(one)
            if len(found) >= taken:
                break
    return found


async def _shield(ctx: WorkflowContext, node: Node) -> Any:
    return await asyncio.shield(do(ctx, node))


async def _as_completed(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    found = [await one for one in asyncio.as_completed([caught(ctx, node) for node in nodes])]
    return sorted(found, key=json.dumps)


async def _one_by_one(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    waiting = {asyncio.ensure_future(caught(ctx, node)) for node in nodes}
    found: list[Any] = []
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        found += [task.result() for task in done]
    return sorted(found, key=json.dumps)


async def _first(ctx: WorkflowContext, nodes: list[Node]) -> Any:
    """Take the first result, and cancel the rest: a race."""
    tasks = [asyncio.create_task(caught(ctx, node)) for node in nodes]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return [task.result() for task in done]


async def _cancelled(ctx: WorkflowContext, node: Node, meanwhile: Node) -> str:
    """Cancel a task while it is somewhere in its program."""
    task = asyncio.create_task(do(ctx, node))
    try:
        await do(ctx, meanwhile)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return "cancelled or not"


async def _left_behind(ctx: WorkflowContext, node: Node, meanwhile: Node) -> Any:
    """Leave a task running that nobody waits for."""
    task = asyncio.create_task(caught(ctx, node))
    result = await do(ctx, meanwhile)
    assert task is not None
    return result


async def _semaphore(ctx: WorkflowContext, limit: int, nodes: list[Node]) -> list[Any]:
    places = asyncio.Semaphore(limit)

    async def one(node: Node) -> Any:
        async with places:
            return await caught(ctx, node)

    return list(await asyncio.gather(*(one(node) for node in nodes)))


async def _queue(ctx: WorkflowContext, nodes: list[Node]) -> list[Any]:
    """One task puts into a queue what it does, another one takes it out."""
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def put() -> None:
        for node in nodes:
            await queue.put(await caught(ctx, node))

    task = asyncio.create_task(put())
    found = [await queue.get() for _ in nodes]
    await task
    return found


async def _flaky(ctx: WorkflowContext, times: int) -> str:
    """Fail the attempt of the run, so that it is tried again."""
    if ctx.retry_count < times:
        raise ValueError(f"attempt {ctx.retry_count} fails")
    return "lasted"


async def _raise(ctx: WorkflowContext, text: str) -> str:
    raise StepExecutionError(text)


async def _patched(ctx: WorkflowContext, name: str) -> bool:
    return ctx.patched(name)


_KINDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "step": _step,
    "thread": _thread,
    "late": _late,
    "held": _held,
    "seq": _seq,
    "gather": _gather,
    "group": _group,
    "failing_group": _failing_group,
    "try": _try,
    "finally": _finally,
    "sleep": _sleep,
    "wait": _wait,
    "wait_for": _wait_for,
    "timeout": _timeout,
    "signal": _signal,
    "suspend": _suspend,
    "event": _event,
    "publish": _publish,
    "child": _child,
    "orphan": _orphan,
    "batch": _batch,
    "state": _state,
    "value": _value,
    "generator": _generator,
    "closed_generator": _closed_generator,
    "shield": _shield,
    "as_completed": _as_completed,
    "one_by_one": _one_by_one,
    "first": _first,
    "cancelled": _cancelled,
    "left_behind": _left_behind,
    "semaphore": _semaphore,
    "queue": _queue,
    "flaky": _flaky,
    "raise": _raise,
    "patched": _patched,
}
