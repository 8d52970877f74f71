"""A run as plain view data: its timeline, its tree, and the run that somebody means."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from polos import Polos, WorkflowContext, registry, workflow
from polos.engine import events as e
from polos.engine import system_events
from polos.engine.codec import decode, encode
from polos.errors import PolosUsageError, UnknownRun
from polos.runtime import reads
from polos.store.directory import open_store
from polos.views import TimelineEntry, engine_starts, find_run, run_view, timeline

from tests.store_children import Child
from tests.stories import Story, at, created

RUN = "run-1"
FAILURE = e.Failure(type="ConnectionError", message="no net")


@pytest.fixture
def begun() -> Story:
    """A story whose run has begun."""
    return Story().tell(RUN, (0, created(RUN, input={"n": 1})), (1, e.RunStarted(attempt=1)))


def entries(story: Story, run: str = RUN) -> list[TimelineEntry]:
    """Read a run's timeline."""
    with story.log.reader() as reader:
        return timeline(reader, run)


def last(story: Story) -> TimelineEntry:
    """Read the last entry of the timeline."""
    return entries(story)[-1]


# ---------------------------------------------------------------------------------- timeline


def test_step_with_retries(begun):
    """A step is one entry from its request to its result, with its failed attempts as notes."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="charge", function="pay", digest="d")),
        (3, e.StepAttemptFailed(name="charge", attempt=1, error=FAILURE, due_us=at(4))),
        (5, e.StepCompleted(name="charge", attempt=2, value={"ok": True})),
    )
    entry = last(begun)

    assert ("step", "charge", "pay", "completed", 2) == (
        entry.kind, entry.name, entry.text, entry.outcome, entry.attempts,
    )  # fmt: skip
    assert (reads.rfc3339(at(2)), reads.rfc3339(at(5)), 3.0) == (entry.at, entry.until, entry.seconds)
    assert {"ok": True} == entry.value
    assert ["attempt 1 failed: ConnectionError: no net; the next was due at 2027-01-15T08:00:04.000000+00:00"] == [
        note.text for note in entry.notes
    ]


def test_failed_and_abandoned_and_open_steps(begun):
    """A step that failed shows its error, one that nobody waits for is abandoned, one under way is open."""
    begun.tell(
        RUN,
        *((2, e.StepScheduled(cause=2, name=name, function=name, digest="d")) for name in "abc"),
        (3, e.StepFailed(name="a", attempt=1, error=FAILURE)),
        (4, e.StepAbandoned(cause=8, name="b")),
    )
    failed, abandoned, opened = entries(begun)[-3:]

    assert ("failed", "ConnectionError: no net", None) == (failed.outcome, failed.error, failed.value)
    assert ("abandoned", 2.0) == (abandoned.outcome, abandoned.seconds)
    assert ("open", None, None) == (opened.outcome, opened.until, opened.seconds)


def test_unknown_outcome_and_its_resolution(begun):
    """An `at_most_once` step shows that its outcome was unknown and who resolved it, and is called again or not."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="pay", function="pay", digest="d", effect="at_most_once")),
        (2, e.StepAttemptStarted(name="pay", attempt=1)),
        (3, e.StepOutcomeUnknown(name="pay", attempt=1, reason="the process died")),
    )
    unknown = last(begun)
    begun.tell(RUN, (4, e.StepResolved(name="pay", outcome="not_done", by="ada")))
    again = last(begun)
    begun.tell(
        RUN,
        (5, e.StepAttemptStarted(name="pay", attempt=2)),
        (6, e.StepOutcomeUnknown(name="pay", attempt=2, reason="it died again")),
        (7, e.StepResolved(name="pay", outcome="completed", by="ada", value=5)),
    )
    resolved = last(begun)

    assert ("pay [at_most_once]", "unknown", "open") == (unknown.text, unknown.outcome, again.outcome)
    assert ("completed", 5, 2) == (resolved.outcome, resolved.value, resolved.attempts)
    assert [
        "attempt 1: nobody knows its outcome: the process died",
        "resolved as not_done by ada",
        "attempt 2: nobody knows its outcome: it died again",
        "resolved as completed by ada",
    ] == [note.text for note in resolved.notes]


def test_waits(begun):
    """Waits and timers are entries from their request to their answer, with what was asked and what was said."""
    begun.tell(
        RUN,
        (2, e.TimerStarted(cause=2, name="nap", due_us=at(3))),
        (3, e.TimerFired(name="nap")),
        (3, e.WaitStarted(cause=4, name="ok", kind="suspend", key="ok", data={"sum": 2}, expires_us=at(9))),
        (4, e.WaitSatisfied(name="ok", kind="suspend", key="ok", data={"yes": 1})),
        (5, e.WaitStarted(cause=6, name="s", kind="signal", key="go")),
        (6, e.WaitExpired(name="s", kind="signal", due_us=at(6))),
        (7, e.WaitStarted(cause=8, name="t", kind="topic", key="orders")),
        (8, e.WaitCancelled(cause=8, name="t")),
        (8, e.TimerStarted(cause=8, name="nap2", due_us=at(30))),
        (9, e.TimerCancelled(cause=8, name="nap2")),
    )
    nap, ok, expired, cancelled, nap2 = entries(begun)[-5:]

    assert ("timer", "completed", 1.0) == (nap.kind, nap.outcome, nap.seconds)
    assert ("wait", "completed", {"sum": 2}, {"yes": 1}) == (ok.kind, ok.outcome, ok.asked, ok.value)
    assert "for an answer to ok, at most until 2027-01-15T08:00:09.000000+00:00" == ok.text
    assert ("for the signal go", "expired") == (expired.text, expired.outcome)
    assert ("for an event of orders", "abandoned") == (cancelled.text, cancelled.outcome)
    assert "abandoned" == nap2.outcome


def test_children(begun):
    """A child that is waited for is an entry until its end; one that isn't is a moment."""
    begun.tell(
        RUN,
        (2, e.ChildStarted(cause=2, name="a", child="run-2", workflow="w", wanted=True)),
        (2, e.ChildStarted(cause=2, name="b", child="run-3", workflow="w", wanted=False)),
        (2, e.ChildStarted(cause=2, name="c", child="run-4", workflow="w", wanted=True)),
        (3, e.ChildFinished(name="a", child="run-2", status="failed", error=FAILURE)),
        (4, e.ChildDetached(cause=5, name="c", cancelled=True)),
    )
    waited, started, detached = entries(begun)[-3:]

    assert ("w run-2", "failed", "ConnectionError: no net") == (waited.text, waited.outcome, waited.error)
    assert ("started w run-3", "noted", None) == (started.text, started.outcome, started.seconds)
    assert "cancelled" == detached.outcome


def test_attempts_of_the_run(begun):
    """Each attempt of the run is an entry; what the first finished is reused, what it left open is taken over."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="a", function="a", digest="d")),
        (3, e.StepCompleted(name="a", attempt=1, value=7)),
        (3, e.StepScheduled(cause=4, name="b", function="b", digest="d")),
        (4, e.RunRetried(cause=4, attempt=1, error=FAILURE, due_us=at(5))),
        (5, e.RunStarted(attempt=2)),
        (5, e.ResultReused(cause=7, name="a", version=4)),
        (6, e.StepScheduled(cause=7, name="b", function="b", digest="d")),
        (7, e.StepCompleted(name="b", attempt=1)),
        (7, e.RunCompleted(cause=10, result="done")),
    )
    found = entries(begun)
    reused = next(entry for entry in found if entry.outcome == "reused")
    taken = next(entry for entry in found if entry.name == "b")

    assert [("attempt 1 of the run", "retried"), ("attempt 2 of the run", "completed")] == [
        (entry.text, entry.outcome) for entry in found if entry.kind == "attempt"
    ]
    assert ("a", 7) == (reused.name, reused.value)
    assert (reads.rfc3339(at(3)), 4.0, 1) == (taken.at, taken.seconds, taken.attempts)
    assert ["asked for again by the next attempt of the run"] == [note.text for note in taken.notes]
    assert ("completed", "done") == (found[-1].outcome, found[-1].value)


def test_what_is_reused_shows_its_answer(begun):
    """Whatever an earlier attempt finished shows what it was and what came of it when the next one reuses it."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="pay", function="pay", digest="d", effect="at_most_once")),
        (2, e.StepAttemptStarted(name="pay", attempt=1)),
        (2, e.StepOutcomeUnknown(name="pay", attempt=1, reason="the process died")),
        (2, e.StepResolved(name="pay", outcome="completed", by="ada", value="paid")),  # version 6
        (2, e.StepScheduled(cause=6, name="bad", function="bad", digest="d")),
        (2, e.StepFailed(name="bad", attempt=1, error=FAILURE)),  # 8
        (2, e.ChildStarted(cause=8, name="ship", child="run-2", workflow="w", wanted=True)),
        (2, e.ChildFinished(name="ship", child="run-2", status="completed", result="shipped")),  # 10
        (2, e.WaitStarted(cause=10, name="ok", kind="suspend", key="ok")),
        (2, e.WaitSatisfied(name="ok", kind="suspend", key="ok", data="yes")),  # 12
        (2, e.ValueRecorded(cause=12, name="u", kind="uuid", value="6b1f")),  # 13
        (3, e.RunRetried(cause=12, attempt=1, error=FAILURE, due_us=at(5))),
        (5, e.RunStarted(attempt=2)),
        *((5, e.ResultReused(cause=15, name=name, version=version))
          for name, version in (("pay", 6), ("bad", 8), ("ship", 10), ("ok", 12), ("u", 13))),
    )  # fmt: skip

    assert [
        ("step", "pay", "paid", None),
        ("step", "bad", None, "ConnectionError: no net"),
        ("child", "ship", "shipped", None),
        ("wait", "ok", "yes", None),
        ("value", "u", "6b1f", None),
    ] == [(entry.kind, entry.name, entry.value, entry.error) for entry in entries(begun) if entry.outcome == "reused"]


def test_everything_else_is_a_moment(begun):
    """Values, messages, signals, state, cancelling, setting aside: each is an entry without a length."""
    begun.tell(
        RUN,
        (2, e.ValueRecorded(cause=2, name="uuid#1", kind="uuid", value="u")),
        (2, e.MessageSent(cause=2, name="m", kind="publish", target="topic", body={"x": 1})),
        (2, e.StateChanged(cause=2, changed={"n": 2})),
        (3, e.SignalReceived(kind="signal", key="go", signal_id="s", data=1)),
        (3, e.SignalDropped(kind="signal", key="go", signal_id="s", reason="too many")),
        (3, e.RunDiverged(report={"line": "a.py:1"}, message="no fit")),
        (3, e.RunReadmitted(by="ada")),
        (3, e.RunSetAside(reason="poisoned", message="three deaths")),
        (4, e.CancelRequested(by="ada", grace_due_us=at(9), reason="enough")),
        (5, e.CancelForced(by="ada")),
        (6, e.RunCancelled(cause=12, by="ada")),
    )
    found = [entry for entry in entries(begun)[2:] if entry.seconds is None]

    assert [
        ("value", "uuid"),
        ("message", "publish to topic"),
        ("state", "ctx.state changed"),
        ("signal", "signal go came before anybody waited for it"),
        ("signal", "signal go found nobody: too many"),
        ("aside", "diverged: no fit"),
        ("aside", "goes on, let in by ada"),
        ("aside", "set aside, poisoned: three deaths"),
        ("cancel", "cancelling was asked for by ada: enough"),
        ("cancel", "cancelling was forced by ada"),
        ("run", "cancelled by ada"),
    ] == [(entry.kind, entry.text) for entry in found]


def test_updates(begun):
    """An update is an entry from its arrival to its answer, or its handler's failure."""
    begun.tell(
        RUN,
        (2, e.UpdateReceived(update_id="u1", name="add", data=1)),
        (2, e.UpdateReceived(update_id="u2", name="add", data=13)),
        (3, e.UpdateAnswered(cause=3, update_id="u1", value=2)),
        (3, e.UpdateAnswered(cause=4, update_id="u2", error=FAILURE)),
    )
    good, bad = entries(begun)[-2:]

    assert ("add", 1, 2, "completed") == (good.text, good.asked, good.value, good.outcome)
    assert ("failed", "ConnectionError: no net") == (bad.outcome, bad.error)


def test_successors_are_part_of_the_story(begun):
    """The timeline of a handle goes on with its successors."""
    begun.tell(RUN, (2, e.RunContinued(cause=2, successor="run-2", workflow="order", input={"n": 2})))
    begun.tell(
        "run-2",
        (2, created("run-2", continues=RUN)),
        (3, e.RunStarted(attempt=1)),
        (4, e.RunFailed(cause=2, error=FAILURE)),
    )
    found = entries(begun)

    assert [RUN] * 3 + ["run-2"] * 3 == [entry.run for entry in found]
    assert "went on as run-2" == found[2].text
    assert f"order continues {RUN}" == found[3].text
    assert ("failed", "ConnectionError: no net") == (found[-1].outcome, found[-1].error)


def test_every_event_of_a_run_is_shown_or_is_bookkeeping():
    """An event that a run's stream can hold is shown, but for deltas of streams, patches and messages' ways."""
    unseen = {"StreamChunk", "PatchMarked", "MessageOwed", "MessageDelivered", "Snapshot"}
    elsewhere = set(system_events.__all__) - {"Snapshot"}
    source = Path(timeline.__code__.co_filename).read_text(encoding="utf-8")

    assert unseen | elsewhere == {name for name in e.EVENTS if f"e.{name}(" not in source} | {"EngineStarted"}


# ------------------------------------------------------------------------------ crash and restart


def test_crash_between_two_records(begun):
    """Where a killed engine was replaced stands how long nothing happened, and that the open step was cut off."""
    started = e.EngineStarted(epoch=2, pid=77, host="box", clean=False)
    begun.tell(RUN, (2, e.StepScheduled(cause=2, name="charge", function="pay", digest="d")))
    begun.tell("", (12, started))
    begun.tell(RUN, (13, e.StepCompleted(name="charge", attempt=1)), (13, e.RunCompleted(cause=4)))
    step, crash = entries(begun)[2:4]

    assert ("engine", "crash", 10.0) == (crash.kind, crash.outcome, crash.seconds)
    assert "the engine was killed; process 77 on box took over" == crash.text
    assert ["cut off: the engine was killed"] == [note.text for note in step.notes]


def test_engines_that_came_and_went_share_a_line(begun):
    """Engines with nothing of the run between them are one entry, whose length is that of the silence."""

    def took_over(second: int, pid: int, *, clean: bool) -> None:
        begun.tell("", (second, e.EngineStarted(epoch=pid, pid=pid, host="box", clean=clean)))

    begun.tell(RUN, (2, e.TimerStarted(cause=2, name="nap", due_us=at(50))))
    took_over(5, 2, clean=True)
    took_over(20, 3, clean=False)
    took_over(30, 4, clean=True)
    begun.tell(RUN, (50, e.TimerFired(name="nap")), (51, e.TimerStarted(cause=4, name="more", due_us=at(90))))
    took_over(60, 5, clean=True)
    took_over(70, 6, clean=True)

    assert [
        (
            reads.rfc3339(at(30)),
            28.0,
            "crash",
            "the engine ended 3 times, 1 of them killed; process 4 on box took over",
        ),
        (reads.rfc3339(at(70)), 19.0, "stopped", "the engine ended 2 times; process 6 on box took over"),
    ] == [(entry.at, entry.seconds, entry.outcome, entry.text) for entry in entries(begun) if entry.kind == "engine"]


def test_a_body_that_begins_anew_after_a_crash():
    """A body that may do I/O itself isn't replayed: the attempt that was cut off shows, and the one that follows."""
    story = Story().tell(RUN, (0, created(RUN)), (1, e.RunStarted(attempt=1, direct=True)))
    story.tell("", (5, e.EngineStarted(epoch=2, pid=77, host="box", clean=False)))
    story.tell(RUN, (6, e.RunStarted(attempt=2, direct=True)))

    assert [("attempt", "cut off", 5.0), ("engine", "crash", 4.0), ("attempt", "open", None)] == [
        (entry.kind, entry.outcome, entry.seconds) for entry in entries(story)[1:]
    ]


def test_engines_before_and_after_a_run_are_not_its_business(begun):
    """An engine that started before the run was there, or after it ended, is no part of its story."""
    story = Story().tell("", (0, e.EngineStarted(epoch=1, pid=1, host="box")))
    story.tell(RUN, (1, created(RUN)), (2, e.RunStarted(attempt=1)), (3, e.RunCompleted(cause=2)))
    story.tell("", (9, e.EngineStarted(epoch=2, pid=2, host="box", clean=False)))
    begun.tell("", (9, e.EngineStarted(epoch=2, pid=2, host="box", clean=True)))

    assert [] == [entry for entry in entries(story) if entry.kind == "engine"]
    assert ["stopped"] == [entry.outcome for entry in entries(begun) if entry.kind == "engine"]


VICTIM = """
import asyncio, sys
from polos import Polos, workflow

@workflow(id="order")
async def order(ctx, payload: dict):
    await ctx.step.run("charge", forever)

async def forever():
    print("called", flush=True)
    await asyncio.Event().wait()

async def main():
    async with Polos(data_dir=sys.argv[1]) as polos:
        await polos.invoke("order", {})
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_engine_shows_in_the_timeline(tmp_path, monkeypatch):
    """Every engine records that it took over and how the one before it ended, and the run shows it."""
    monkeypatch.setattr(registry, "_workflows", {})
    directory = tmp_path / "data"
    with Child(VICTIM, directory) as victim:
        assert "called" == victim.hear()
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        killed = victim.pid

    @workflow(id="order")
    async def order(ctx: WorkflowContext, _payload: dict[str, Any]) -> Any:
        return await ctx.step.run("charge", lambda: 5)

    async def go_on() -> str:
        async with Polos(data_dir=directory) as polos:
            (found,) = await polos.list_executions()
            await polos._wait_ended(found["id"])
            return str(found["id"])

    run = asyncio.run(go_on())
    with open_store(directory, read_only=True) as store, store.log.reader() as reader:
        starts = [event for _, _, event in engine_starts(reader)]
        found = timeline(reader, run)
    step = next(entry for entry in found if entry.kind == "step")

    assert [(killed, True), (os.getpid(), False)] == [(start.pid, start.clean) for start in starts]
    assert starts[0].epoch < starts[1].epoch
    assert ["crash"] == [entry.outcome for entry in found if entry.kind == "engine"]
    assert (["cut off: the engine was killed"], 5) == ([note.text for note in step.notes], step.value)


def test_engine_started_survives_its_bytes():
    """What an engine records of its start is read back as it was."""
    event = e.EngineStarted(epoch=3, pid=7, host="box", clean=False, python="3.11.1", polos="0.1.0")

    assert event == decode(*encode(event))


# ------------------------------------------------------------------------------ tree and names


def test_tree_depth_first(begun):
    """A tree stands depth first, children in order of creation, a successor below the run it continues."""
    fields = {"root": RUN, "root_workflow": "order"}
    begun.tell("run-2", (2, created("run-2", "a", parent=RUN, step="x", **fields)))
    begun.tell("run-3", (3, created("run-3", "b", parent=RUN, step="y", **fields)))
    begun.tell("run-4", (4, created("run-4", "c", parent="run-2", **fields)))
    begun.tell("run-5", (5, created("run-5", "b", parent=RUN, continues="run-3", **fields)))
    begun.tell("run-6", (6, created("run-6", "d", parent="elsewhere", **fields)))
    with begun.log.reader() as reader:
        view = run_view(reader, "run-4")

    assert [(RUN, 0), ("run-2", 1), ("run-4", 2), ("run-3", 1), ("run-5", 2), ("run-6", 1)] == [
        (node.id, node.depth) for node in view.tree
    ]
    assert "x" == view.tree[1].step


def test_view_is_json(begun):
    """A view is one JSON object: what a client gets of a run, its tree and its timeline."""
    begun.tell(RUN, (2, e.StateChanged(cause=2, changed={"n": 2})))
    with begun.log.reader() as reader:
        view = run_view(reader, RUN)
        execution = reads.execution(reader, RUN)
    found = orjson.loads(orjson.dumps(view.to_json()))

    assert execution == {name: found[name] for name in execution}
    assert [RUN] == [node["id"] for node in found["tree"]]
    assert ["run", "attempt", "state"] == [entry["kind"] for entry in found["timeline"]]
    assert {"n": 2} == found["state"]


def test_a_run_by_its_beginning_or_end():
    """People name a run by its id, or by a part of it that no other has."""
    story = Story()
    for run in ("0190-aaaa-1111", "0190-bbbb-2222", "0191-cccc-1111"):
        story.tell(run, (0, created(run)))
    row = reads.RunRow(run="0199-dddd-3333", workflow="order")
    pending = [reads.PendingRun(command_id="c", created=created(row.run), row=row)]
    with story.log.reader() as reader:
        assert "0190-aaaa-1111" == find_run(reader, "0190-aaaa-1111")
        assert "0190-bbbb-2222" == find_run(reader, "0190-b")
        assert "0190-bbbb-2222" == find_run(reader, "2222")
        assert row.run == find_run(reader, "0199", pending) == find_run(reader, "3333", pending)
        with pytest.raises(PolosUsageError, match="could be any of 0190-aaaa-1111, 0190-bbbb-2222"):
            find_run(reader, "0190")
        with pytest.raises(PolosUsageError, match="could be any of"):
            find_run(reader, "1111")
        for unknown in ("", "zzz"):
            with pytest.raises(UnknownRun):
                find_run(reader, unknown)


def test_no_such_run():
    """A view of a run that isn't there is refused."""
    with Story().log.reader() as reader:
        for look in (run_view, timeline):
            with pytest.raises(UnknownRun):
                look(reader, "run-9")
