"""Many runs at once: counted by a filter, cancelled, retried, answered, and all of it safe to be done again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from polos import Polos, PolosClient, WorkflowContext, workflow
from polos.errors import ClientTimeout, EngineNotRunning, PolosUsageError
from polos.runtime import addressing, bulk
from polos.runtime.listing import STATUSES
from polos.types import BulkResult
from polos.types.bulk import REFUSED_KEPT

CALLS: Counter[str] = Counter()
DOWN: set[str] = set()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()
    DOWN.clear()


def ship(name: str) -> str:
    """Do something, unless nothing works."""
    CALLS[name] += 1
    if DOWN:
        raise OSError("down")
    return name


@workflow(id="bulk_shipping", queue="bulk lane")
async def shipping(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """One step that may fail."""
    return await ctx.step.run("ship", ship, payload["name"], max_retries=0)


@workflow(id="bulk_asking")
async def asking(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Wait for an answer, and clean up when cancelled."""
    try:
        return (await ctx.step.suspend(payload.get("key", "ok"), {})).data
    except asyncio.CancelledError:
        if payload.get("slow"):
            await ctx.step.wait_for("cleaning up", seconds=60)
        raise


@workflow(id="bulk_parent")
async def parent(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Have a child ship."""
    return await ctx.step.invoke_and_wait("child", shipping, payload)


async def until_waiting(polos: Polos, count: int) -> None:
    """Wait until so many runs wait for an answer."""
    moves = polos._connection().moves()
    while (await polos.count_executions(status="suspend"))["waiting"] < count:
        await moves.behind(moves.head())


def living(counts: dict[str, int]) -> int:
    """Count the runs that haven't ended."""
    return sum(counts[status] for status in ("queued", "running", "waiting", "pending_cancel"))


# ----------------------------------------------------------------------------------------- counting


@workflow(id="bulk_leafing")
async def leafing(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Go on as a new run twice."""
    page: int = payload["page"]
    if page < 2:
        ctx.continue_as_new({"page": page + 1})
    return page


@pytest.mark.anyio
async def test_runs_that_went_on_as_new_ones_are_counted_as_they_are_listed(tmp_path: Path) -> None:
    """A run that continued as a new one is listed as such, is counted, with a filter or none, and can be asked for."""
    async with Polos(data_dir=tmp_path) as polos:
        assert 2 == await leafing.run(polos, {"page": 0})
        listed = Counter(run["status"] for run in await polos.list_executions())

        assert Counter(continued=2, completed=1) == listed
        for wanted in ({}, {"workflow_id": "bulk_leafing"}, {"status": "continued"}):
            counted = await polos.count_executions(**wanted)
            assert {
                **dict.fromkeys(STATUSES, 0),
                **listed,
                **({"completed": 0} if "status" in wanted else {}),
            } == counted
        assert 2 == len(await polos.list_executions(status="continued"))


@pytest.mark.anyio
async def test_counts_are_those_of_the_list(tmp_path: Path) -> None:
    """For every filter `count_executions` gives what counting the list by hand gives."""
    async with Polos(data_dir=tmp_path) as polos:
        for number in range(3):
            await asking.invoke(polos, {}, session_id="s", user_id=f"u{number % 2}", tags=["vip"] if number else [])
        DOWN.add("ship")
        handle = await parent.invoke(polos, {"name": "a"}, session_id="s")
        await polos._wait_ended(handle.id)
        DOWN.clear()
        await shipping.run(polos, {"name": "b"}, queue="other lane")
        await until_waiting(polos, 3)
        everything = await polos.list_executions()
        middle = everything[2]["created_at"]
        filters: list[dict[str, Any]] = [
            {}, {"workflow_id": "bulk_asking"}, {"workflow_id": "none"}, {"tag": "vip"}, {"session_id": "s"},
            {"user_id": "u0"}, {"queue": "bulk lane"}, {"queue": "bulk_asking"}, {"queue": "other lane"},
            {"parent": handle.id}, {"since": middle}, {"until": middle}, {"since": middle, "tag": "vip"},
            {"until": middle, "session_id": "s"}, {"status": "suspend"}, {"status": "failed", "since": middle},
            {"status": "suspend", "user_id": "u1"}, {"until": datetime(2200, 1, 1, tzinfo=UTC)},
        ]  # fmt: skip
        for wanted in filters:
            page = await polos.list_executions(**wanted)
            by_hand = Counter(run["status"] for run in page)

            assert {**dict.fromkeys(STATUSES, 0), **by_hand} == await polos.count_executions(**wanted), wanted
        assert [2, 1] == [len(await polos.list_executions(user_id=f"u{number}")) for number in range(2)]
        assert 2 == len(await polos.list_executions(queue="bulk lane", status="failed")) + len(
            await polos.list_executions(queue="other lane")
        )


@pytest.mark.anyio
async def test_runs_that_no_engine_has_seen_are_counted(tmp_path: Path) -> None:
    """What is promised shows as queued, in time and by filter, and once only when the engine has taken it."""
    async with PolosClient(data_dir=tmp_path) as client:
        for number in range(2):
            await asking.invoke(client, {}, tags=["vip"] if number else [])
        counts = [
            (await client.count_executions(**wanted))["queued"]
            for wanted in ({}, {"tag": "vip"}, {"status": "queued"}, {"status": "failed"}, {"until": "2000-01-01"})
        ]
        async with Polos(data_dir=tmp_path) as polos:
            await until_waiting(polos, 2)
            after = await client.count_executions()

    assert [2, 1, 2, 0, 0] == counts
    assert 2 == sum(after.values())


@pytest.mark.anyio
async def test_a_filter_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """Each keyword is looked at and named, also by who acts upon many."""
    async with PolosClient(data_dir=tmp_path) as client:
        wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"state": "failed"}, TypeError, "state"),
            ({"status": "broken"}, PolosUsageError, "status is one of"),
            ({"status": 5}, TypeError, "status"),
            ({"workflow_id": ""}, ValueError, "workflow_id"),
            ({"queue": 7}, TypeError, "queue"),
            ({"session_id": ""}, ValueError, "session_id"),
            ({"user_id": "\ud800"}, ValueError, "user_id"),
            ({"tag": ["vip"]}, TypeError, "tag"),
            ({"since": "yesterday"}, ValueError, "since"),
            ({"until": "soon"}, ValueError, "until"),
        ]
        for wanted, error, named in wrong:
            for ask in (client.list_executions, client.count_executions, client.cancel_many, client.retry_many):
                with pytest.raises(error, match=named):
                    await ask(**wanted)
        for limit in (0, -1, True):
            with pytest.raises(PolosUsageError, match="limit"):
                await client.cancel_many(tag="t", limit=limit)
        for everyone in (client.cancel_many(), client.retry_many(), client.resume_many("ok", 1)):
            with pytest.raises(PolosUsageError, match="everything=True"):
                await everyone
        with pytest.raises(TypeError, match="answer"):
            await client.resume_many("ok", object(), tag="t")
        with pytest.raises(ValueError, match="suspend_step_key"):
            await client.resume_many("", 1, tag="t")


# ------------------------------------------------------------------------------------------ acting


@pytest.mark.anyio
@pytest.mark.parametrize("outside", [False, True])
async def test_many_are_cancelled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: bool) -> None:
    """Page by page all runs of the filter are asked, none of the others; asked again, none is forced."""
    monkeypatch.setattr(bulk, "PAGE", 4)
    async with Polos(data_dir=tmp_path) as polos, PolosClient(data_dir=tmp_path) as other:
        client = other if outside else polos
        for number in range(15):
            await asking.invoke(polos, {"slow": number < 5}, tags=["mine"] if number < 10 else [])
        await asking.invoke(polos, {}, tags=["mine"], start_after=3_600)
        await until_waiting(polos, 15)
        first = await client.cancel_many(tag="mine", by="ada", reason="enough")
        again = await client.cancel_many(tag="mine", by="ada")
        forced = await client.cancel_many(tag="mine", status="pending_cancel")
        counts = await client.count_executions()
        cancelled = await client.list_executions(status="cancelled")

    assert BulkResult(accepted=11) == first
    assert BulkResult() == again
    assert BulkResult(accepted=5) == forced
    assert {**dict.fromkeys(STATUSES, 0), "pending_cancel": 5, "cancelled": 6, "waiting": 5} == counts
    assert {"ada"} == {run["cancelled_by"] for run in cancelled}


@pytest.mark.anyio
async def test_as_many_as_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit so many runs are acted upon, the newest first, and a second call takes the next."""
    monkeypatch.setattr(bulk, "PAGE", 4)
    async with Polos(data_dir=tmp_path) as polos:
        handles = [await asking.invoke(polos, {}) for _ in range(12)]
        await until_waiting(polos, 12)
        first = await polos.cancel_many(everything=True, limit=6)
        left = {run["id"] for run in await polos.list_executions(status="waiting")}
        second = await polos.cancel_many(workflow_id="bulk_asking", limit=100)

    assert [BulkResult(accepted=6)] * 2 == [first, second]
    assert {handle.id for handle in handles[:6]} == left


@pytest.mark.anyio
async def test_many_are_retried_and_children_by_their_parents(tmp_path: Path) -> None:
    """Roots that failed are retried and take their children up; a child whose failure was handled isn't touched."""

    @workflow(id="bulk_tolerant")
    async def tolerant(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
        try:
            await ctx.step.invoke_and_wait("child", shipping, payload)
        except Exception:  # whatever it is
            return "never mind"
        return "fine"

    async with Polos(data_dir=tmp_path) as polos:
        DOWN.add("ship")
        handles = [await parent.invoke(polos, {"name": f"p{number}"}) for number in range(3)]
        handles += [await shipping.invoke(polos, {"name": f"s{number}"}) for number in range(3)]
        handles.append(await tolerant.invoke(polos, {"name": "t"}))
        for handle in handles:
            await polos._wait_ended(handle.id)
        DOWN.clear()
        failed = await polos.count_executions(status="failed")
        told = await polos.retry_many(status="failed")
        for handle in handles:
            await polos._wait_ended(handle.id)
        again = await polos.retry_many(everything=True)
        rest = await polos.count_executions()
        children = await polos.retry_many(everything=True, children=True)
        of_parent = await polos.retry_many(parent=handles[0].id, status="completed")

    assert 10 == failed["failed"]
    assert BulkResult(accepted=6) == told
    assert BulkResult() == again
    assert (1, 10) == (rest["failed"], rest["completed"])
    assert BulkResult(accepted=1) == children
    assert (0, 1) == (of_parent.accepted, of_parent.refused_count)
    assert "there is nothing to retry" in next(iter(of_parent.refused.values()))


@pytest.mark.anyio
async def test_many_are_answered_if_they_wait_for_it(tmp_path: Path) -> None:
    """Runs that wait under the key get the answer; others aren't kept one, and a second call finds nobody."""
    async with Polos(data_dir=tmp_path) as polos:
        handles = [await asking.invoke(polos, {"key": "ok" if number % 2 else "other"}) for number in range(6)]
        await until_waiting(polos, 6)
        first = await polos.resume_many("ok", {"yes": True}, workflow_id="bulk_asking")
        for handle in handles[1::2]:
            assert {"yes": True} == (await polos._wait_ended(handle.id))["result"]
        again = await polos.resume_many("ok", 1, everything=True)
        with pytest.raises(PolosUsageError, match="doesn't wait"):
            await polos.engine.execute(
                "c", {"kind": "resume", "run": handles[0].id, "key": "ok", "data": 1, "waiting": True}
            )

    assert BulkResult(accepted=3) == first
    assert BulkResult() == again


@pytest.mark.anyio
async def test_without_an_engine_it_is_kept(tmp_path: Path) -> None:
    """Commands that no engine can take yet are counted as kept, those to runs in the inbox, too."""
    async with Polos(data_dir=tmp_path) as polos:
        for _ in range(3):
            await asking.invoke(polos, {})
        await until_waiting(polos, 3)
    async with PolosClient(data_dir=tmp_path) as client:
        await asking.invoke(client, {})
        kept = await client.cancel_many(workflow_id="bulk_asking")
    async with Polos(data_dir=tmp_path) as polos:
        moves = polos._connection().moves()
        while (await polos.count_executions())["cancelled"] < 4:
            await moves.behind(moves.head())

    assert BulkResult(kept=4) == kept


@pytest.mark.anyio
async def test_refusals_are_kept_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs that refuse the first are named, and all are counted."""
    monkeypatch.setattr(bulk, "REFUSED_KEPT", 2)
    async with Polos(data_dir=tmp_path) as polos:
        for number in range(5):
            await shipping.run(polos, {"name": str(number)})
        told = await polos.retry_many(status="completed")
        gone = await polos.cancel_many(status="completed")

    assert 1_000 == REFUSED_KEPT
    assert (5, 2, 0) == (told.refused_count, len(told.refused), told.accepted)
    assert {"it has ended meanwhile"} == set(gone.refused.values())


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ClientTimeout("no answer", command_id="c"), EngineNotRunning("it is stopping")])
async def test_an_operation_that_is_cut_short_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """When the engine doesn't answer in the middle the caller hears it, and the second call does the rest."""
    async with Polos(data_dir=tmp_path) as polos:
        for _ in range(9):
            await asking.invoke(polos, {})
        await until_waiting(polos, 9)
        monkeypatch.setattr(bulk, "PAGE", 3)
        whole, calls = addressing.tell, 0

        async def tell(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise error
            return await whole(*args)

        monkeypatch.setattr(bulk, "tell", tell)
        with pytest.raises(type(error)):
            await polos.cancel_many(everything=True)
        left = living(await polos.count_executions())
        told = await polos.cancel_many(everything=True)

        assert 4 == left
        assert BulkResult(accepted=4) == told
        assert 9 == (await polos.count_executions())["cancelled"]
