"""
Retention: which trees of runs are archived when, and what is left of them.

Seen on simulated engines, crashes included; what is read back from the archive has a file of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
from polos import Queue, RateLimit, Retention, WorkflowContext, workflow
from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.codec import decode
from polos.engine.projections import ARCHIVE_STREAM, RUN_PREFIX, fold_rows, run_stream
from polos.errors import RunArchived
from polos.points import ARCHIVE_POINTS, arm
from polos.runtime import portions, reads
from polos.runtime.archived import open_archived
from polos.runtime.settings import Settings
from polos.store.faults import Fault
from polos.store.log import Record
from polos.testing.simulation import Simulation
from polos.testing.world import Crashed

HOUR = 3600.0


@workflow(id="retained", retention=Retention(max_age_seconds=HOUR), tags=["kept"])
async def retained(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Take some steps."""
    if payload.get("fails"):
        raise StopAsyncIteration
    return await ctx.step.run("double", lambda: 2 * int(payload["n"]))


@workflow(id="retained_slow")
async def slow(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Take the time that one is told."""
    await ctx.step.wait_for("long", seconds=payload["seconds"])
    return "slow"


@workflow(id="retained_tree", retention={"max_age_seconds": HOUR})
async def tree(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Have children: some are waited for, one is left behind."""
    for number in range(payload.get("children", 2)):
        await ctx.step.invoke_and_wait(f"child {number}", retained, {"n": number})
    if payload.get("left"):
        await ctx.step.invoke("left", slow, {"seconds": payload["left"]}, detached=True)
    return 1


@workflow(id="retained_chain", retention={"max_age_seconds": HOUR})
async def chain(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    """Go on as another run a few times."""
    if payload["n"]:
        ctx.continue_as_new({"n": payload["n"] - 1})
    return "end of the chain"


@workflow(id="retained_newest", retention=Retention(max_count=2, statuses=["completed"]))
async def newest(ctx: WorkflowContext, payload: dict[str, Any]) -> int:
    """Be counted."""
    return int(payload["n"])


@workflow(id="retained_for_ever", retention=False)
async def for_ever(ctx: WorkflowContext) -> str:
    """Stay."""
    return "here"


@workflow(id="retained_unsaid")
async def unsaid(ctx: WorkflowContext) -> str:
    """Say nothing."""
    return "as the engine has it"


@workflow(id="retained_rated", queue=Queue("retained", rate_limit=RateLimit(2, 4 * HOUR)), retention={"max_count": 0})
async def rated(ctx: WorkflowContext) -> str:
    """Begin seldom."""
    return "began"


ALL: list[Workflow[Any]] = [retained, slow, tree, chain, newest, for_ever, unsaid, rated]


def world(**settings: Any) -> Simulation:
    """Give a world with an engine."""
    return Simulation(ALL, settings=Settings(inbox_poll_seconds=0, **settings))


def archived(sim: Simulation) -> list[str]:
    """Give the runs that were archived."""
    with sim.store.log.reader() as reader:
        return [str(key[1]) for key, _ in reader.rows(("archived",))]


def records(sim: Simulation) -> list[Record]:
    """Give what is in the log."""
    with sim.store.log.reader() as reader:
        return list(reader.records())


def seals(sim: Simulation) -> list[e.RangeSealed]:
    """Give what was recorded of the archive."""
    found = [decode(one.type, one.schema_version, one.payload) for one in records(sim) if one.stream == ARCHIVE_STREAM]
    return [event for event in found if isinstance(event, e.RangeSealed)]


def check(sim: Simulation) -> None:
    """Look at what must hold in any world: rows are the fold's (L6), and what was sealed is in its segments, once."""
    sim.audit.check_rows()
    left = records(sim)
    with sim.store.log.reader() as reader:
        rows = dict(reader.rows())
    folded = fold_rows((one.stream, decode(one.type, one.schema_version, one.payload), one.time_us) for one in left)
    assert folded == rows
    for run in archived(sim):
        with sim.store.log.reader() as reader:
            found = open_archived(reader, sim.store.blobs, run)
            history = [(decode(one.type, one.schema_version, one.payload), one.time_us, one.position)
                       for one in found.stream(run_stream(run))]  # fmt: skip
        assert sim.audit.histories[run] == history
        assert not [key for key in rows if run in key and key[0] != "archived"]


def test_a_tree_leaves_the_log_when_its_time_has_come():
    """Not a moment before; its records are gone then, its rows too, and everything can be read as it was."""
    with world() as sim:
        run = sim.create(retained, {"n": 21}).run
        sim.run_for(HOUR - 1)
        assert archived(sim) == []

        sim.run_for(2)
        assert [run] == archived(sim)
        check(sim)
        assert not [one for one in records(sim) if one.stream.startswith(RUN_PREFIX)]
        (seal,) = seals(sim)
        assert ("age", 1) == (seal.reason, len(seal.segments))
        with sim.store.log.reader() as reader:
            assert reads.run_row(reader, run) is None
            found = reads.execution(open_archived(reader, sim.store.blobs, run), run)
        assert ("completed", 42, {"n": 21}, ["kept"]) == (
            found["status"], found["result"], found["payload"], found["tags"],
        )  # fmt: skip
        assert found["archived_at"] is not None


def test_a_tree_goes_as_a_whole():
    """By the policy of its root, with everything below it, and not before all of it has ended."""
    with world() as sim:
        run = sim.create(tree, {"left": 5 * HOUR}).run
        alone = sim.create(retained, {"n": 1}).run
        sim.run_for(4 * HOUR)
        assert [alone] == archived(sim)  # children have the same workflow, and stay with their root

        sim.run_for(HOUR + 5)
        assert [alone] == archived(sim)
        sim.run_for(HOUR)
        check(sim)
        assert 5 == len(archived(sim))
        with sim.store.log.reader() as reader:
            assert 4 == len(open_archived(reader, sim.store.blobs, run).runs)


def test_a_chain_goes_as_a_whole():
    """Runs that one run went on as are archived with it; the handle is that of the first, and so is the result."""
    with world() as sim:
        run = sim.create(chain, {"n": 3}).run
        sim.run_for(HOUR + 5)
        check(sim)
        assert 4 == len(archived(sim))
        with sim.store.log.reader() as reader:
            found = reads.execution(open_archived(reader, sim.store.blobs, run), run)
        assert ("completed", "end of the chain") == (found["status"], found["result"])


def test_the_newest_are_kept():
    """With a count the oldest leave as soon as there are more; runs that ended otherwise neither count nor leave."""
    with world() as sim:
        runs: list[str] = []
        for number in range(5):
            runs.append(sim.create(newest, {"n": number}).run)
            sim.run_for(1)
        failed = sim.create(newest, {}).run
        sim.run_for(60)

        assert sorted(runs[:3]) == sorted(archived(sim))
        assert {"count"} == {seal.reason for seal in seals(sim)}
        check(sim)
        assert sim.audit.states[failed].phase == "failed"


def test_a_status_that_is_not_named_stays():
    """A policy may be for runs that ended well alone."""
    said: Any = {"max_age_seconds": 1, "statuses": ["completed"]}
    with world(retention=said) as sim:
        sim.create(unsaid, None)
        sim.run_for(10)
        cancelled = sim.create(slow, {"seconds": HOUR})
        sim.run_for(1)
        sim.send("cancel", run=cancelled.run)
        sim.run_for(HOUR)

        assert 1 == len(archived(sim))
        check(sim)


def test_what_a_workflow_says_counts_before_the_engine():
    """A default is for those that say nothing; False keeps runs for ever, and so does no default."""
    for default, wanted in ((Retention(max_age_seconds=0), 1), (None, 0)):
        with world(retention=default) as sim:
            sim.create(for_ever, None)
            sim.create(unsaid, None)
            sim.run_for(100 * HOUR)

            assert wanted == len(archived(sim))


def test_an_idempotency_key_keeps_its_run():
    """As long as a key counts, its run is there to be found; the same request never becomes two runs."""
    with world(idempotency_seconds=5 * HOUR) as sim:
        run = sim.create(retained, {"n": 1}, idempotency_key="order 7").run
        sim.run_for(4 * HOUR)
        again = sim.create(retained, {"n": 1}, idempotency_key="order 7")
        sim.run_for(1)
        assert again.reply is not None
        assert ({"runs": [run]}, []) == (again.reply.get("detail"), archived(sim)), "the same request is the same run"

        sim.run_for(HOUR)
        assert [run] == archived(sim)
        check(sim)


def test_a_start_that_counts_keeps_its_run():
    """A rate isn't exceeded because runs were archived and the engine was started again."""
    with world() as sim:
        for _ in range(4):
            sim.create(rated, None)
        sim.run_for(10)
        sim.recover()
        sim.run_for(4 * HOUR - 20)
        starts = [one for one in records(sim) if one.type == "RunStarted"]
        assert (2, []) == (len(starts), archived(sim))

        sim.run_for(100 * HOUR)
        assert 4 == len(archived(sim))
        check(sim)


def test_an_engine_without_a_policy_leaves_everything():
    """Nobody who didn't ask for it loses anything, nor is woken for it."""
    with world() as sim:
        sim.create(unsaid, None)
        sim.settle()

        assert (None, []) == (sim.engine.archiving._alarm_us, archived(sim))


def test_a_new_engine_finds_what_was_due():
    """What came due while nobody was there, and what ended under code that said nothing."""
    with world() as sim:
        run = sim.create(retained, {"n": 1}).run
        sim.run_for(60)
        sim.crash()
        sim.clock.advance(round(10 * HOUR * 1e6))
        sim.start()
        sim.run_for(1)

        assert [run] == archived(sim)
        check(sim)


@pytest.mark.parametrize("point", ARCHIVE_POINTS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(point: str, times: int, monkeypatch: pytest.MonkeyPatch):
    """Killed there, again and again, the archive ends up as it would have, and never had a run twice."""
    monkeypatch.setattr(portions, "PORTION_RECORDS", 12)
    deaths: list[str] = []

    def die(reached: str) -> None:
        if reached == point and len(deaths) < times:
            deaths.append(reached)
            raise Crashed

    with world() as sim:
        runs = [sim.create(retained, {"n": number}).run for number in range(4)]
        runs += [sim.create(tree, {}).run, sim.create(chain, {"n": 2}).run]
        sim.run_for(HOUR / 2)
        arm(die)
        try:
            for _ in range(times + 1):
                sim.run_for(HOUR)
                if not sim.alive:
                    sim.start()
                sim.run_for(0)
                check(sim)
        finally:
            arm(None)
        sim.run_for(HOUR)

        assert times == len(deaths)
        check(sim)
        assert set(runs) <= set(archived(sim))
        assert 10 == len(archived(sim))
        assert not [one for one in records(sim) if one.stream.startswith(RUN_PREFIX)]
        sealed = [run["run"] for seal in seals(sim) for run in _runs(seal)]
        assert sorted(sealed) == sorted(archived(sim)), "each run in one seal"


def _runs(seal: e.RangeSealed) -> list[dict[str, Any]]:
    assert isinstance(seal.runs, list)
    return [run for run in seal.runs if isinstance(run, dict)]


@pytest.mark.parametrize("fault", list(Fault))
def test_a_log_that_refuses_the_seal(fault: Fault):
    """Whether it is refused or of unknown outcome, it is sealed once, and what was sealed leaves."""
    with world() as sim:
        run = sim.create(retained, {"n": 1}).run
        sim.run_for(HOUR - 10)
        sim.plan.next(fault)
        sim.run_for(60)

        assert [run] == archived(sim)
        assert 1 == len(seals(sim))
        assert not [one for one in records(sim) if one.stream.startswith(RUN_PREFIX)]
        check(sim)


def test_portions_are_small(monkeypatch: pytest.MonkeyPatch):
    """Many runs are archived by many commits, and one with a long history leaves the log in many."""
    monkeypatch.setattr(portions, "PORTION_RECORDS", 30)
    with world() as sim:
        for number in range(40):
            sim.create(retained, {"n": number})
        sim.run_for(2 * HOUR)

        assert 40 == len(archived(sim))
        assert 5 <= len(seals(sim))
        assert all(sum(seal.ranges[1::2]) < 40 for seal in seals(sim))
        check(sim)


def test_a_tree_larger_than_a_segment(monkeypatch: pytest.MonkeyPatch):
    """It is in several, which lie beside those of others, and comes back from all of them."""
    monkeypatch.setattr(portions, "SEGMENT_BYTES", 400)
    with world() as sim:
        sim.create(retained, {"n": 1})
        run = sim.create(tree, {"children": 6}).run
        sim.create(retained, {"n": 2})
        sim.run_for(2 * HOUR)

        check(sim)
        with sim.store.log.reader() as reader:
            row = reader.row(("archived", run))
        assert row is not None
        assert row.count(b'","') > 5
        assert 2 <= sum(len(seal.segments) for seal in seals(sim))


@pytest.mark.parametrize(
    "command",
    [
        {"kind": "signal", "name": "x"},
        {"kind": "resume", "key": "x"},
        {"kind": "cancel"},
        {"kind": "readmit"},
        {"kind": "retry"},
        {"kind": "query", "name": "x"},
        {"kind": "update", "name": "x"},
    ],
    ids=lambda command: command["kind"],
)
@pytest.mark.parametrize("taken_out", [True, False])
def test_nothing_happens_to_an_archived_run(command: dict[str, Any], *, taken_out: bool):
    """What is sent to it is refused with a word of the archive, also while its records are in the log still."""

    def die(reached: str) -> None:
        if reached == "archive_sealed_before_taken_out":
            raise Crashed

    with world() as sim:
        run = sim.create(retained, {"n": 1}).run
        sim.run_for(HOUR - 10)
        if not taken_out:
            arm(die)
        try:
            sim.run_for(60)
        finally:
            arm(None)
        if not taken_out:
            sim.start()
        before = len(records(sim))
        call = sim.send(**command, run=run)
        sim.run_for(1)

        assert isinstance(call.error, RunArchived)
        assert f"archive.read(client, '{run}')" in str(call.error)
        assert len(records(sim)) <= before
        check(sim)


def test_an_archived_run_is_not_made_again():
    """The command that created it, sent once more by a client that was asleep, finds that it exists."""
    with world() as sim:
        call = sim.create(retained, {"n": 1})
        sim.run_for(2 * HOUR)
        assert [call.run] == archived(sim)
        call.reply = None
        sim.send_again(call)
        sim.run_for(2 * HOUR)

        assert call.reply is not None
        assert call.reply["outcome"] == "existing"
        assert [call.run] == archived(sim)
        check(sim)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "max_age_seconds or max_count"),
        ({"max_age_seconds": -1}, "max_age_seconds"),
        ({"max_age_seconds": True}, "max_age_seconds"),
        ({"max_age_seconds": "1"}, "max_age_seconds"),
        ({"max_age_seconds": float("nan")}, "max_age_seconds"),
        ({"max_count": -1}, "max_count"),
        ({"max_count": 1.5}, "max_count"),
        ({"max_count": 1, "statuses": []}, "statuses"),
        ({"max_count": 1, "statuses": ["running"]}, "statuses"),
        ({"max_count": 1, "age": 1}, "age"),
        (3600, "3600"),
        (True, "True"),
        ("1h", "1h"),
    ],
)
def test_policies_that_make_no_sense_are_refused(given: Any, message: str):
    """Where they are said, with the name of what is wrong: on a workflow, and on the engine."""
    with pytest.raises(ValueError, match=message) as refused:

        @workflow(id="retained_wrong", retention=given)
        async def wrong(ctx: WorkflowContext) -> None:
            """Never be defined."""

    assert "retention" in str(refused.value).lower()
    with pytest.raises(ValueError, match=message):
        Settings(retention=given)


def test_statuses_are_no_text():
    """A text is a sequence of texts, and never what was meant."""
    with pytest.raises(TypeError, match="statuses"):
        Retention(max_count=1, statuses="completed")


def test_policies_say_what_they_are():
    """Equal ones are equal, and show as they are written."""
    one = Retention(max_age_seconds=1, statuses=["failed", "completed"])
    same = Retention(max_age_seconds=1, statuses=("completed", "failed"))

    assert (one, hash(one)) == (same, hash(same))
    assert one != Retention(max_age_seconds=2)
    assert repr(one) == "Retention(max_age_seconds=1, max_count=None, statuses=('completed', 'failed'))"
