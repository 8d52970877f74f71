"""
Workflows for the tests of the crash sweep, at the top level of a module, so that child processes can import them.

The first ones are sound, the others have one bug each. `bank` is what their steps act upon.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from polos import WorkflowState, workflow
from polos.testing import Outside, Waiting
from polos.testing.sweep import sweep
from pydantic import Field

bank = Outside("bank")
memory: list[str] = []  # a fake that is gone with its process
STAGE = "test"


class Progress(WorkflowState):
    """What a mixed run keeps."""

    done: int = 0


# ---------------------------------------------------------------------------------------------- sound ones


async def note(name: str) -> str:
    """Have an effect, in parts."""
    bank.note("begun", name=name)
    await asyncio.sleep(0.5)
    bank.note("done", name=name)
    return name


def plain(number: int) -> int:
    """Have an effect, in a thread, and with a loop of its own."""
    return asyncio.run(asyncio.sleep(0, number + 1))


async def flaky() -> str:
    """Fail at the first call of a scenario."""
    bank.note("flaky")
    if bank.count("flaky") == 1:
        raise ConnectionError("not the first time")
    return "in the end"


@workflow(id="swept-child")
async def child(ctx, payload: dict) -> Any:
    """A child of one step."""
    return await ctx.step.run("plus", plain, payload["number"])


@workflow(id="swept-direct", deterministic=False)
async def direct(ctx, payload: dict) -> Any:
    """A child whose body isn't replayed."""
    return await ctx.step.run("note", note, "direct")


@workflow(id="swept-mixed", state_schema=Progress)
async def mixed(ctx, payload: dict) -> dict[str, Any]:
    """A little of everything."""
    found: dict[str, Any] = {"id": await ctx.step.uuid("id"), "at": await ctx.step.now("at")}
    found["first"] = await ctx.step.run("first", note, "first")
    ctx.state.done += 1
    both = ctx.step.run("plus", plain, payload["number"]), ctx.step.invoke_and_wait("child", child, {"number": 7})
    found["both"] = await asyncio.gather(*both)
    found["flaky"] = await ctx.step.run("flaky", flaky)
    await ctx.step.wait_for("month", days=30)
    found["answer"] = (await ctx.step.suspend("approve", {"sum": 3})).data
    found["signal"] = await ctx.step.wait_for_signal("paid")
    found["event"] = (await ctx.step.wait_for_event("news", "topic")).data
    found["once"] = await ctx.step.run("once", note, "once", effect="at_most_once")
    found["direct"] = await ctx.step.invoke_and_wait("direct", direct, {})
    found["pure"] = await ctx.step.run("pure", plain, 1, effect="pure")
    ctx.state.done += 1
    return found


def approve(waiting: Waiting) -> dict[str, Any]:
    """Answer a suspend by what it shows."""
    return {"approved": waiting.data["sum"]}


ANSWERS: dict[str, Any] = {"approve": approve, "paid": 100, "topic": {"headline": "x"}, "once": "once"}


@workflow(id="swept-small")
async def small(ctx, payload: dict) -> list[int]:
    """Two steps."""
    return [await ctx.step.run("a", plain, 1), await ctx.step.run("b", plain, 2)]


@workflow(id="swept-once")
async def once(ctx, payload: dict) -> Any:
    """A step that may be called once."""
    return await ctx.step.run("once", note, "once", effect="at_most_once")


# ----------------------------------------------------------------------------- what one process hides


@workflow(id="swept-set")
async def iterates_a_set(ctx, payload: dict) -> None:
    """The order of steps is that of a set of strings."""
    for name in {"anna", "bert", "carl", "dora", "emil", "fritz", "gerd", "hans"}:  # noqa: PLC0208
        await ctx.step.run(name, plain, 1)


@functools.cache
def region() -> str:
    """Give what a process found out when it was first asked."""
    return os.environ.get("TZ", "nowhere")


@workflow(id="swept-cache")
async def asks_a_cache(ctx, payload: dict) -> None:
    """A step is named by what a cache holds."""
    await ctx.step.run(f"ship-{region()}", plain, 1)


numbers: dict[str, int] = {}


@workflow(id="swept-part")
async def part(ctx, payload: dict) -> None:
    """Its step is numbered by a counter of the module, one number a run."""
    number = numbers.setdefault(ctx.execution_id, len(numbers))
    await ctx.step.run(f"part-{number}", plain, 1)


@workflow(id="swept-counter")
async def counts_in_a_module(ctx, payload: dict) -> None:
    """Starts one part after another."""
    for number in range(3):
        await ctx.step.invoke_and_wait(f"part{number}", part, {})


# -------------------------------------------------------------------------------------- other troubles


async def remember() -> None:
    """Act upon a fake in memory."""
    memory.append("called")


@workflow(id="swept-memory")
async def acts_upon_memory(ctx, payload: dict) -> None:
    """Its effect is gone with the process."""
    await ctx.step.run("remember", remember)


def forget(_directory: Path) -> None:
    """Make the fake anew."""
    if not bank.count("set up"):
        memory.clear()
    bank.note("set up")


async def hold() -> None:
    """Take something, and give it back in a `finally`, with a word in a file of the program's own."""
    place = Path(bank.notes("place")[0]["path"])
    try:
        await asyncio.sleep(1)
    finally:
        place.write_text(f"{place.read_text('utf-8')}released ", encoding="utf-8")


@workflow(id="swept-finally")
async def acts_when_closed(ctx, payload: dict) -> None:
    """Its step's `finally` has an effect."""
    await ctx.step.run("hold", hold)


def begin_file(directory: Path) -> None:
    """Make the file that `hold` writes to."""
    if not bank.count("place"):
        (directory / "held").write_text("", encoding="utf-8")
        bank.note("place", path=str(directory / "held"))


async def save() -> None:
    """Write a file in two parts."""
    with (places[0] / "book.json").open("w", encoding="utf-8") as book:
        book.write('{"paid": ')
        book.flush()
        await lasts()
        book.write("1}")


@workflow(id="swept-book")
async def saves_a_book(ctx, payload: dict) -> None:
    """Its step leaves half a file, if it is killed in between."""
    await ctx.step.run("save", save)


places: list[Path] = []


def open_the_book(directory: Path) -> None:
    """Read what the lives before have written."""
    places[:] = [directory]
    book = directory / "book.json"
    if book.exists():
        json.loads(book.read_text("utf-8"))


async def lock_and_last() -> None:
    """Take a lock as a file, and give it back in a `finally`, which a killed process doesn't."""
    lock = places[0] / "lock"
    bank.note("locked out" if lock.exists() else "locked")
    lock.touch()
    try:
        await lasts()
    finally:
        lock.unlink()


@workflow(id="swept-lock")
async def leaves_a_lock(ctx, payload: dict) -> None:
    """A step between others that whoever comes after a kill finds locked."""
    for number in range(4):
        await ctx.step.run(f"before-{number}", plain, 1)
    await ctx.step.run("lock", lock_and_last)
    await ctx.step.run("after", plain, 1)


@workflow(id="swept-lock-in-task")
async def leaves_a_lock_in_a_task(ctx, payload: dict) -> None:
    """The step that takes the lock does so in a task."""
    await ctx.step.run("before", plain, 1)
    await ctx.step.run("lock", in_a_task)
    await ctx.step.run("after", plain, 1)


async def in_a_task() -> None:
    """Have the lock taken, and given back, by a task."""
    await asyncio.create_task(lock_and_last())


def remember_place(directory: Path) -> None:
    """Say where the lock is."""
    places[:] = [directory]


def sweep_inside() -> None:
    """Sweep in a step, in a child."""
    if "POLOS_CRASH_LIVES" in os.environ:
        sweep(small, {})


@workflow(id="swept-sweeps")
async def sweeps_inside(ctx, payload: dict) -> None:
    """Its step sweeps, in a child."""
    await ctx.step.run("sweep", sweep_inside)


def refuse_one_child(_directory: Path) -> None:
    """Raise in one of the two kinds of child."""
    if os.environ.get("POLOS_CRASH_LIVES") == "even":
        raise OSError("not here")


def leave() -> None:
    """End the process, if it is a child."""
    if "POLOS_CRASH_LIVES" in os.environ:
        os._exit(3)


@workflow(id="swept-leaves")
async def ends_the_process(ctx, payload: dict) -> None:
    """Its step ends the process."""
    await ctx.step.run("leave", leave)


def terminate() -> None:
    """End a child by a signal, as an extension module that crashes does."""
    if "POLOS_CRASH_LIVES" in os.environ:
        os.kill(os.getpid(), signal.SIGTERM)


@workflow(id="swept-terminates")
async def is_ended_by_a_signal(ctx, payload: dict) -> None:
    """Its step ends the process by a signal."""
    await ctx.step.run("terminate", terminate)


def stand_still() -> None:
    """Never come back, in a child."""
    if "POLOS_CRASH_LIVES" in os.environ:
        threading.Event().wait()


@workflow(id="swept-stands")
async def stands_still(ctx, payload: dict) -> None:
    """Its step never comes back."""
    await ctx.step.run("stand", stand_still)


def raise_in_child(_directory: Path) -> None:
    """Raise, in a child."""
    if "POLOS_CRASH_LIVES" in os.environ:
        raise OSError("no such bank")


@workflow(id="swept-starts")
async def starts_by_id(ctx, payload: dict) -> Any:
    """Starts a workflow that its module doesn't know."""
    return await ctx.step.invoke_and_wait("far", "swept-far", {})


async def where() -> str:
    """Say in what kind of process this is."""
    return "child" if "POLOS_CRASH_LIVES" in os.environ else "parent"


@workflow(id="swept-where")
async def says_where(ctx, payload: dict) -> Any:
    """Its result depends on the process."""
    return await ctx.step.run("where", where)


async def itself() -> dict[str, Any]:
    """Say which process this is."""
    return {"pid": os.getpid(), "cwd": str(Path.cwd()), "zone": os.environ.get("TZ", ""), "steady": 1}


@workflow(id="swept-itself")
async def says_itself(ctx, payload: dict) -> Any:
    """Its result is of the process that called its step."""
    return await ctx.step.run("itself", itself)


async def lasts() -> None:
    """Take a while."""
    await asyncio.sleep(2)


@workflow(id="swept-deadline")
async def has_a_deadline(ctx, payload: dict) -> str:
    """Wait for a step as long as it takes, but not twice as long."""
    try:
        async with asyncio.timeout(3):
            await ctx.step.run("lasts", lasts)
    except TimeoutError:
        return "late"
    return "in time"


_moments = itertools.count(1)  # as a clock gives another time, and chance another number, each time


class Marked(WorkflowState):
    """What a run may say of itself."""

    at: int = 0
    names: set[str] = Field(default_factory=set)


@workflow(id="swept-state-of-time", state_schema=Marked)
async def keeps_the_time(ctx, payload: dict) -> None:
    """Its state is of the moment at which its code is run."""
    ctx.state.at = next(_moments)
    await ctx.step.run("lasts", lasts)


@workflow(id="swept-timer-of-chance")
async def waits_by_chance(ctx, payload: dict) -> None:
    """How long it waits is drawn each time that its code is run."""
    await ctx.step.wait_for("pause", seconds=next(_moments))


@workflow(id="swept-suspend-of-chance")
async def asks_by_chance(ctx, payload: dict) -> None:
    """What it shows is drawn each time that its code is run."""
    await ctx.step.suspend("approve", {"token": next(_moments)})


@workflow(id="swept-set-in-state", state_schema=Marked)
async def keeps_a_set(ctx, payload: dict) -> None:
    """A set is written down in the order of a process's hashes, and is the same set."""
    ctx.state.names = {"anna", "bert", "carl", "dora", "emil"}
    await ctx.step.run("lasts", lasts)


@workflow(id="swept-acts-in-body")
async def acts_in_its_body(ctx, payload: dict) -> None:
    """Act where it may be done again."""
    bank.note("acted")
    await ctx.step.run("lasts", lasts)


@workflow(id="swept-forgets-await")
async def forgets_to_await(ctx, payload: dict) -> Any:
    """Ask for a step and go on without it."""
    ctx.step.run("lost", lasts)
    return await ctx.step.run("kept", once_more)


async def once_more() -> str:
    """Have no effect."""
    return "kept"
