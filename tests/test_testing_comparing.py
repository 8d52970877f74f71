"""How requests of each kind are compared with recorded ones, and the place for more kinds of comparison."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, RetryPolicy, WorkflowContext, workflow
from polos.engine import events as e
from polos.testing import CapturedEvents, Compared, RecordedRun, assert_replays, record_run
from polos.testing import differences as d
from polos.testing.comparing import same_record
from polos.testing.recorded_replay import differences
from pydantic import BaseModel

from tests.test_testing_recorded import charge, defined, note, parcel
from tests.tidy import ROOT


class Unshowable:
    """An argument whose text can't be made."""

    def __repr__(self) -> str:
        """Fail."""
        raise ValueError("no text")


class Gone(BaseModel):
    """A result whose class goes away."""

    sum: int


@workflow
async def letter(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    return 1


def gone() -> Any:
    """Give what only its recorded type can bring back."""
    return Gone(sum=1)


def of_kinds(version: int, child: Any, argument: object) -> Any:
    """Make a body with one request of each kind, each a bit different in each version."""

    async def body(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        updated = asyncio.Event()

        def handle(data: Any) -> int:
            updated.set()
            return version

        ctx.on_update("set", handle)
        await ctx.step.publish_event("tell", "orders", {"version": version})
        await ctx.step.run("opaque", note, argument)
        await ctx.step.run("gone", gone)
        await ctx.step.invoke_and_wait("send", child, {"weight": version})
        await asyncio.sleep(version)  # durable
        await updated.wait()
        raise ValueError(f"version {version}")

    return defined(body, retries=RetryPolicy(max_retries=0))


def test_each_kind_of_request_is_compared(polos: Polos, polos_events: CapturedEvents, monkeypatch: pytest.MonkeyPatch):
    """Messages, child runs, timers, answers to updates, types that are gone and failures are told apart."""

    async def main() -> RecordedRun:
        async with polos:
            handle = await of_kinds(1, parcel, "x").invoke(polos, {})
            await polos_events.wait_for(e.TimerFired, run=handle)
            await polos.update(handle.id, "set", 1)
            await polos_events.wait_for(e.RunFailed, run=handle)
            with polos.engine.store.log.reader() as reader:
                return record_run(reader, handle.id)

    found = asyncio.run(main())
    assert_replays(found, of_kinds(1, parcel, "x"))
    monkeypatch.delattr("tests.test_testing_comparing.Gone")

    told = differences(found, of_kinds(2, letter, Unshowable()))

    (update,) = [record.fields["update_id"] for record in found.records if record.type == "UpdateAnswered"]
    assert [
        ("RequestChanged", "tell"), ("ArgumentsChanged", "opaque"), ("SchemaChanged", "gone"),
        ("WorkflowChanged", "send"), ("ArgumentsChanged", "send"), ("RequestChanged", "main/timer##1"),
        ("RequestChanged", update), ("ResultChanged", ""),
    ] == [(type(item).__name__, item.step) for item in told]  # fmt: skip
    assert "which can't be shown: ValueError" in told[1].note
    assert "isn't there any more" in told[2].note
    assert {"failed": {"type": "ValueError", "message": "version 2"}} == told[-1].asked


def test_other_comparers_are_asked(polos: Polos):
    """The seam for other kinds of steps: a comparer sees call and answer, and gives differences of its own type."""

    async def charged(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.run("charge", charge, payload["cents"])

    class TooExpensive(d.Difference):
        means = "costs more than a cent"

    def cost(pair: Compared) -> list[d.Difference]:
        assert isinstance(pair.answer, e.StepCompleted)
        assert pair.call is not None
        assert pair.call.func is charge
        cents: Any = pair.call.args[0]
        return [pair.difference(TooExpensive, 1, cents, accepted=None)] if cents > 1 else []

    async def main() -> RecordedRun:
        async with polos:
            handle = await defined(charged).invoke(polos, {"cents": 1200})
            await polos.engine.watchers.watch(handle.id, polos.engine.loop)
            with polos.engine.store.log.reader() as reader:
                return record_run(reader, handle.id)

    found = differences(asyncio.run(main()), defined(charged), comparers={e.StepScheduled: cost})

    assert [(TooExpensive, "charge", 1200)] == [(type(item), item.step, item.asked) for item in found]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"a": [1, 2]}, {"a": [2, 1]}, True),
        ({"a": 1, "b": [{"x": 1}, {"x": 2}]}, {"b": [{"x": 2}, {"x": 1}], "a": 1}, True),
        ({"a": [1, 2]}, {"a": [1, 1]}, False),
        ({"a": 1}, {"b": 1}, False),
        ([1], [1, None], False),
    ],
    ids=range(5),
)
def test_a_set_is_the_same_in_any_order(first: Any, second: Any, same: bool):
    """A set is written in the order of hashes, so lists are compared without theirs."""
    assert same == same_record(first, second)


TESTS_OF_A_USER = """
from polos import workflow
from polos.testing import assert_replays

@workflow(id="order")
async def order(ctx, payload: dict):
    return await ctx.step.run("double", lambda: 1, payload["n"] + 1)

def test_order():
    assert_replays("order.json", order)
"""


def test_the_option_accepts(polos: Polos, tmp_path: Path):
    """A user's test fails by what has changed, is blessed by `--polos-accept`, and passes from then on."""

    async def order(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
        return await ctx.step.run("double", lambda _n: 1, payload["n"])

    async def main() -> None:
        async with polos:
            handle = await defined(order).invoke(polos, {"n": 4})
            await polos.engine.watchers.watch(handle.id, polos.engine.loop)
            with polos.engine.store.log.reader() as reader:
                record_run(reader, handle.id).save(tmp_path / "order.json")

    def tested(*options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_order.py"]
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    asyncio.run(main())
    (tmp_path / "test_order.py").write_text(TESTS_OF_A_USER, encoding="utf-8")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["polos.testing"]\n', encoding="utf-8")

    code, said = tested()
    assert 1 == code
    assert "ArgumentsChanged: step 'double'" in said
    assert (0, 0) == (tested("--polos-accept")[0], tested()[0])


PROGRAM = """
import asyncio
from pathlib import Path
from polos import Polos, WorkflowContext, workflow
from polos.testing import record_run

async def add(number: int) -> int:
    return number + 1

async def other(number: int) -> int:
    return number + 1

USED = add

@workflow(id="compared-program")
async def flow(ctx: WorkflowContext, payload: dict) -> int:
    return await ctx.step.run("add", USED, payload["number"])

async def main() -> None:
    async with Polos("./data") as polos:
        handle = await flow.invoke(polos, {"number": 1})
        await polos.engine.watchers.watch(handle.id, polos.engine.loop)
        with polos.engine.store.log.reader() as reader:
            record_run(reader, handle.id).save(Path("recorded.json"))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_what_a_program_ran_is_what_a_test_imports_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program's own functions are in `__main__` when it is run; another function of it is another all the same."""
    (tmp_path / "compared_program.py").write_text(PROGRAM)
    command = [sys.executable, "compared_program.py"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    monkeypatch.syspath_prepend(str(tmp_path))
    import compared_program as program  # type: ignore[import-not-found]  # it was just written

    assert_replays(tmp_path / "recorded.json", program.flow)
    monkeypatch.setattr(program, "USED", program.other)

    with pytest.raises(d.RunDiffers) as raised:
        assert_replays(tmp_path / "recorded.json", program.flow)

    (changed,) = raised.value.differences
    assert isinstance(changed, d.FunctionChanged)
    assert ("__main__.add", "compared_program.other") == (changed.recorded, changed.asked)
