"""Crashes inside of tasks that a step's function starts: each time that one of them waits, and when it ends."""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any

import pytest
from polos import NotDone, workflow
from polos.testing import CrashOutcome, CrashPoint, CrashSweepFailed, Waiting
from polos.testing.sweep import sweep

from tests import sweep_workflows as w
from tests.sweep_workflows import bank
from tests.test_testing_sweep import failure, swept

AWAIT = "inside_effect/await"


async def _gathered() -> None:
    await asyncio.gather(w.lasts(), w.save())


async def _in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(w.save())


async def _with_a_limit() -> None:
    await asyncio.wait_for(w.save(), 60)


async def _awaited() -> None:
    await asyncio.create_task(w.save())


async def _in_a_task_of_a_task() -> None:
    await asyncio.create_task(_in_a_group())


async def _shielded() -> None:
    await asyncio.wait({asyncio.ensure_future(asyncio.shield(w.save()))})


async def _by_its_class() -> None:
    await asyncio.sleep(0)
    await asyncio.gather(asyncio.sleep(0), asyncio.Task(w.save(), loop=asyncio.get_running_loop()))


async def _left_behind() -> None:
    asyncio.get_running_loop().saving = asyncio.create_task(w.save())  # type: ignore[attr-defined]  # it is kept alive


WAYS: dict[str, Any] = {
    func.__name__.strip("_"): func
    for func in (
        _gathered, _in_a_group, _with_a_limit, _awaited, _in_a_task_of_a_task, _shielded, _by_its_class, _left_behind
    )
}  # fmt: skip


@workflow(id="swept-tasks")
async def saves_in_a_task(ctx, payload: dict) -> None:
    """Its step has tasks leave half a file, if it is killed in between."""
    await ctx.step.run("save", WAYS[payload["way"]])
    await ctx.step.wait_for("minute", minutes=1)


@pytest.mark.parametrize("way", list(WAYS))
def test_half_an_effect_of_a_task_is_found(way: str):
    """However a step has its function called: the process dies there while a task waits, and half a file is left."""
    failed = failure(saves_in_a_task, {"way": way}, setup=w.open_the_book, points=None, pairs=0)

    assert AWAIT == failed.points[0].name
    assert "setup raises JSONDecodeError: Expecting value" in failed.differences[0]


@pytest.mark.sweep
def test_a_lock_that_a_task_gives_back_in_a_finally_is_found():
    """It is foreseen as that of the function itself is, and child processes come to the same point."""

    def check(_outcome: CrashOutcome) -> None:
        assert not bank.count("locked out")

    with pytest.raises(CrashSweepFailed) as failed:
        sweep(w.leaves_a_lock_in_a_task, {}, points=4, pairs=0, check=check, setup=w.remember_place)

    assert (CrashPoint(AWAIT, 2), True) == (failed.value.points[0], failed.value.real)


# --------------------------------------------------------------------------------------------- threads


async def _before_a_thread() -> None:
    book = w.places[0] / "book.json"
    book.write_text('{"paid": ', encoding="utf-8")
    await asyncio.to_thread(book.write_text, '{"paid": 1}', encoding="utf-8")


async def _after_a_thread() -> None:
    book = w.places[0] / "book.json"
    await asyncio.to_thread(book.write_text, '{"paid": ', encoding="utf-8")
    book.write_text('{"paid": 1}', encoding="utf-8")


async def _around_a_thread() -> None:
    book = w.places[0] / "book.json"
    book.write_text('{"paid": ', encoding="utf-8")
    await asyncio.to_thread(int)
    book.write_text('{"paid": 1}', encoding="utf-8")


THREADS: dict[str, Any] = {
    "before": _before_a_thread, "after": _after_a_thread, "around": _around_a_thread,
}  # fmt: skip


@workflow(id="swept-threads")
async def saves_in_a_thread(ctx, payload: dict) -> None:
    """Its step writes a file in two parts, one of them perhaps in a thread."""
    await ctx.step.run("save", THREADS[payload["way"]])


@workflow(id="swept-threads-directly", deterministic=False)
async def saves_directly(ctx, payload: dict) -> None:
    """It does so itself."""
    await THREADS[payload["way"]]()


@pytest.mark.parametrize(
    ("flow", "way"),
    [*((saves_in_a_thread, way) for way in THREADS), (saves_directly, "after"), (saves_directly, "around")],
    ids=["step-before", "step-after", "step-around", "body-after", "body-around"],
)
def test_half_an_effect_beside_a_thread_is_found(flow: Any, way: str):
    """The process dies while a function waits for a thread that hasn't begun, and when the thread is done."""
    failed = failure(flow, {"way": way}, setup=w.open_the_book, points=None, pairs=0)

    assert "setup raises JSONDecodeError: Expecting value" in failed.differences[0]


class _OfItsOwn(Exception):
    pass


async def _gets(error: type[BaseException]) -> str:
    def fail() -> None:
        assert asyncio._get_running_loop() is None
        raise error

    try:
        await asyncio.to_thread(fail)
    except error as raised:
        return type(raised).__name__
    return "nothing"


@workflow(id="swept-thread-fails")
async def gets_what_a_thread_raises(ctx, payload: dict) -> Any:
    """Its steps catch what their threads raise."""
    errors = [_OfItsOwn, SystemExit, asyncio.CancelledError]
    return [await ctx.step.run(error.__name__, _gets, error) for error in errors]


def test_who_waits_for_a_thread_gets_what_it_raises():
    """Whatever it is, it is raised where the thread is waited for, and ends nothing else."""
    found: list[Any] = []

    swept(gets_what_a_thread_raises, points=2, pairs=0, check=lambda outcome: found.append(outcome.result))

    assert ["_OfItsOwn", "SystemExit", "CancelledError"] == found[0]


async def _gives_up() -> None:
    waits = asyncio.create_task(asyncio.to_thread(bank.note, "written"))
    await asyncio.sleep(0)  # it has begun
    assert not bank.count("written")
    waits.cancel()
    await asyncio.wait([waits])
    assert waits.cancelled()


@workflow(id="swept-thread-given-up")
async def gives_a_thread_up(ctx, payload: dict) -> None:
    """Its step doesn't wait until a thread is done."""
    await ctx.step.run("give up", _gives_up)


def test_a_thread_that_nobody_waits_for_is_done():
    """It can't be taken back: what it does is done, and nobody gets what comes of it."""
    found: set[Any] = set()

    with pytest.raises(CrashSweepFailed, match="after_effect_before_outcome"):  # it is done twice after a crash
        swept(gives_a_thread_up, points=1, pairs=0, check=lambda run: found.add((run.status, bank.count("written"))))

    assert {("completed", 1)} == found


async def _connects() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asyncio.get_running_loop().add_reader(ours, print)
        await asyncio.to_thread(w.memory.append, "written")  # the bank takes nothing from the dead
        asyncio.get_running_loop().remove_reader(ours)


@workflow(id="swept-thread-connected")
async def asks_a_thread_and_is_connected(ctx, payload: dict) -> None:
    """Its step has a connection open while it waits for a thread."""
    await ctx.step.run("connect", _connects)


def test_a_thread_of_a_dead_process_does_nothing():
    """What a thread was to do isn't done any more, although connections of the dead are closed by turns of the loop."""
    found: dict[tuple[str, ...], int] = {}

    def check(outcome: CrashOutcome) -> None:
        found[outcome.crashes] = len(w.memory)
        w.memory.clear()

    w.memory.clear()
    swept(asks_a_thread_and_is_connected, points=None, pairs=0, check=check)

    assert (1, 2) == (found[f"{AWAIT}:1",], found[f"{AWAIT}:2",])


# ----------------------------------------------------------------------------------------- which points


async def _waits(times: int) -> None:
    for _ in range(times):
        await w.lasts()


async def _waits_in_a_task(times: int) -> None:
    await asyncio.create_task(_waits(times))


async def _is_cancelled() -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(_waits(3))
    loop.call_later(0.1, functools.partial(task.set_name, "late"))
    loop.call_later(0.2, task.cancel)
    await asyncio.wait([task])


async def _looks_at_itself() -> None:
    async def look() -> str:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert "look" == getattr(task.get_coro(), "__name__", "")
        assert "<Task pending name='mine' coro=<_looks_at_itself.<locals>.look() running at" in repr(task)
        return task.get_name()

    assert "mine" == await asyncio.create_task(look(), name="mine")


@workflow(id="swept-waits")
async def waits(ctx, payload: dict) -> None:
    """Its step waits for something."""
    await ctx.step.run("wait", {func.__name__: func for func in COUNTED}[payload["way"]], *payload["args"])


COUNTED: dict[Any, tuple[tuple[Any, ...], int]] = {
    _waits: ((3,), 3),
    _waits_in_a_task: ((3,), 1 + 3 + 1),  # of the step itself, and the end of the task
    _is_cancelled: ((), 1 + 1 + 1),  # to be cancelled is no turn
    _looks_at_itself: ((), 1 + 1 + 1),
}


@pytest.mark.parametrize("way", COUNTED, ids=lambda func: func.__name__)
def test_a_point_is_where_something_waits_or_a_task_ends(way: Any):
    """Each suspension is one, and so is the end of a task, which others outlive; a task looks as it ever does."""
    args, count = COUNTED[way]

    report = swept(waits, {"way": way.__name__, "args": args}, points=None, pairs=0)

    assert count == sum(point.name == AWAIT for point in report.points)
    assert report.singles == len(report.points)
    assert not report.missed


async def _enters() -> None:
    bank.note("entered")


async def _saves() -> None:
    bank.note("saved")


async def _enters_and_saves() -> None:
    await asyncio.gather(_enters(), _saves())


@workflow(id="swept-order")
async def enters_before_it_saves(ctx, payload: dict) -> None:
    """Two tasks of its step have an effect each."""
    await ctx.step.run("both", _enters_and_saves, effect="at_most_once")


def test_the_end_of_a_task_is_a_point():
    """One task has ended and the next one hasn't begun: neither ever waits, and yet half of it can be done."""
    found: set[tuple[int, int]] = set()

    def look(_waiting: Waiting) -> Any:
        found.add((bank.count("entered"), bank.count("saved")))
        return NotDone()

    swept(enters_before_it_saves, answers={"both": look}, points=None, pairs=0)

    assert (1, 0) in found
