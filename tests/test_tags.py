"""
Sessions, users and tags: how runs get them, and the rows by which they are found.

Tags that code sets are requests like others: recorded with their cause, expected in replay, seen by whoever lists.
"""

from __future__ import annotations

from typing import Any

import pytest
from polos import WorkflowContext, workflow
from polos.definition import Workflow
from polos.engine import events as e
from polos.runtime import reads
from polos.testing.simulation import Simulation

from tests.fakeport import FakePort, context, play


@workflow(id="tagged_leaf")
async def leaf(ctx: WorkflowContext) -> list[str | None]:
    """Tell whose it is."""
    return [ctx.session_id, ctx.user_id]


@workflow(id="tagged", tags=["born", "both"])
async def tagged(ctx: WorkflowContext, payload: dict[str, Any]) -> Any:
    """Set tags before and after steps, and take some away."""
    await ctx.set_tag("begun", "both")
    await ctx.step.run("one", lambda: 1)
    await ctx.set_tag("half")
    found = await ctx.step.invoke_and_wait("leaf", leaf)
    await ctx.remove_tag("begun", "born", "unknown")
    if payload.get("fails") and ctx.retry_count == 0:
        raise ValueError("once more")
    return found


@workflow(id="tagged_direct", deterministic=False)
async def direct(ctx: WorkflowContext) -> str:
    """Set tags in a body that does I/O itself."""
    await ctx.set_tag("direct")
    await ctx.step.run("one", lambda: 1)
    return "done"


ALL: list[Workflow[Any]] = [leaf, tagged, direct]


def found(sim: Simulation, kind: str, value: str) -> list[str]:
    """Give the runs that are listed under something."""
    with sim.store.log.reader() as reader:
        return [str(key[-1]) for key, _ in reader.rows((kind, value))]


def row(sim: Simulation, run: str) -> reads.RunRow:
    """Give the row of a run."""
    with sim.store.log.reader() as reader:
        kept = reads.run_row(reader, run)
    assert kept is not None
    return kept


@pytest.mark.parametrize("crash", range(25))
def test_tags_follow_the_code_wherever_it_crashes(crash: int):
    """Tags are those that the code has set by now, the rows say the same, and replay asks for what is recorded."""
    with Simulation(ALL) as sim:
        sim.world.crash_at = {crash}
        run = sim.create(tagged, {"fails": crash % 2 == 1}).run
        sim.settle()
        if not sim.alive:
            sim.start()
            if run not in sim.audit.states:
                return  # it died before anybody was told of the run
            sim.settle()

        assert ("both", "half") == row(sim, run).tags
        assert ([run], [run], [], []) == tuple(found(sim, "tag", tag) for tag in ("both", "half", "begun", "born"))
        assert [] == sim.audit.diverged
        sim.audit.check_rows()


def test_tags_of_a_direct_body_are_set_once_more():
    """A body that begins anew sets its tags again, and nothing is doubled."""
    with Simulation(ALL) as sim:
        run = sim.create(direct, None).run
        sim.world.crash_at = {sim.world.ticks + 4}
        sim.settle()
        if not sim.alive:
            sim.start()
            sim.settle()

        assert ("direct",) == row(sim, run).tags
        sim.audit.check_rows()


def test_code_that_sets_no_tag_any_more_diverges():
    """A tag that is recorded is expected of the code, as a step is."""

    @workflow(id="tagged_changed")
    async def before(ctx: WorkflowContext) -> None:
        await ctx.set_tag("vip")
        await ctx.step.wait_for("long", seconds=60)

    with Simulation([before]) as sim:
        run = sim.create(before, None).run
        sim.run_for(1)
        sim.crash()

        @workflow(id="tagged_changed")
        async def after(ctx: WorkflowContext) -> None:
            await ctx.step.wait_for("long", seconds=60)

        sim.workflows[after.id] = after
        sim.start()
        sim.run_for(120)

        assert ("diverged", ["vip"]) == (row(sim, run).waiting_reason, list(row(sim, run).tags))


def test_sessions_are_given_made_and_inherited():
    """A named session holds for the whole tree and lists it; one that nobody named is the tree's own."""
    with Simulation(ALL) as sim:
        named = sim.create(tagged, {}, session="a talk", user="ada").run
        plain = sim.create(tagged, {}).run
        sim.settle()
        (child,) = found(sim, "root", named)
        (other,) = found(sim, "root", plain)

        assert ["a talk", "ada"] == sim.result(named) == [row(sim, child).session, row(sim, child).user]
        assert [plain, None] == sim.result(plain) == [row(sim, other).session, row(sim, other).user]
        assert sorted([named, child]) == sorted(found(sim, "session", "a talk")) == sorted(found(sim, "user", "ada"))
        assert [] == found(sim, "session", plain), "found by their root"


@pytest.mark.parametrize("of", ["a talk", "ada", "plain", "mixed", "nobody"])
def test_runs_are_listed_by_session_and_user(of: str):
    """Exactly those that have it, each once, the newest first, page by page; and only their rows are read."""
    with Simulation(ALL) as sim:
        runs = {"plain": sim.create(tagged, {}).run, "mixed": sim.create(tagged, {}, user="bob").run}
        sim.run_for(1)
        for _ in range(3):
            sim.create(tagged, {}, session="a talk", user="ada")
            sim.run_for(1)
        sim.create(leaf, None, session=runs["plain"])  # as a client does within that run
        sim.settle()
        wanted = reads.RunFilter(user="ada") if of == "ada" else reads.RunFilter(session=runs.get(of, of))
        with sim.store.log.reader() as reader:
            everything = reads.list_runs(reader).rows
            looked_at = list(reads._newest(reader, wanted.index(), None))
            pages: list[reads.RunRow] = []
            cursor: str | None = None
            while True:
                page = reads.list_runs(reader, wanted, limit=2, cursor=cursor)
                pages += page.rows
                cursor = page.cursor
                if cursor is None:
                    break

    expected = [row for row in everything if wanted.fits(row)]
    assert expected == pages == looked_at
    assert {"a talk": 6, "ada": 6, "plain": 3, "mixed": 2, "nobody": 0}[of] == len(expected)


def test_what_is_no_tag_is_refused():
    """Where it is said, with nothing recorded; and saying nothing records nothing."""
    port = FakePort()
    for wrong, error in ((7, TypeError), ("", ValueError), ("\ud800", ValueError)):
        with pytest.raises(error, match="tag"):
            play(context(port), lambda ctx, wrong=wrong: ctx.set_tag("good", wrong))  # type: ignore[misc]
        with pytest.raises(error, match="tag"):
            play(context(port), lambda ctx, wrong=wrong: ctx.remove_tag(wrong))  # type: ignore[misc]
    play(context(port), lambda ctx: ctx.set_tag())

    assert [] == port.asked
    play(context(port), lambda ctx: ctx.set_tag("a", "b"))
    assert [e.TagsChanged(cause=port.cause, added=("a", "b"))] == port.asked
