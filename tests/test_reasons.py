"""Why a run is where it is: each thing it can wait for, and what would move it on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from polos.engine import events as e
from polos.engine.json import Json
from polos.errors import UnknownRun
from polos.reasons import Reason, Why, why
from polos.runtime import reads

from tests.stories import Story, at, created

RUN = "run-1"
FAILURE = e.Failure(type="ConnectionError", message="no net")


@dataclass(frozen=True)
class Owner:
    """An engine that has been running since a moment."""

    started_us: int = at(0)


def ask(story: Story, run: str = RUN, *, seconds: float = 100, owner: Owner | None = Owner()) -> Why:
    """Ask why, at a moment."""
    with story.log.reader() as reader:
        return why(reader, run, owner=owner, now_us=at(seconds))


def only(story: Story, **asked) -> Reason:
    """Ask why, and give the one reason there is."""
    (reason,) = ask(story, **asked).reasons
    return reason


@pytest.fixture
def begun() -> Story:
    """A story whose run has begun."""
    return Story().tell(RUN, (0, created(RUN)), (1, e.RunStarted(attempt=1)))


def test_timer(begun):
    """A timer says since when, and when it fires."""
    begun.tell(RUN, (2, e.TimerStarted(cause=2, name="nap", due_us=at(3600))))
    reason = only(begun)

    assert ("timer", "nap") == (reason.kind, reason.name)
    assert (reads.rfc3339(at(2)), reads.rfc3339(at(3600))) == (reason.since, reason.due)
    assert "the moment comes" == reason.moves_on
    assert reason.command is None


def test_suspend(begun):
    """A suspend shows what it asks, until when, and the command that answers this very wait."""
    wait = e.WaitStarted(cause=2, name="ok#2", kind="suspend", key="ok", data={"sum": 2}, expires_us=at(900))
    reason = only(begun.tell(RUN, (2, wait)))

    assert ("suspend", {"sum": 2}, reads.rfc3339(at(900))) == (reason.kind, reason.detail, reason.due)
    assert f"polos resume {RUN} 'ok#2' DATA" == reason.command


def test_signal(begun):
    """A wait for a signal gives the command that sends it, quoted for a shell."""
    reason = only(begun.tell(RUN, (2, e.WaitStarted(cause=2, name="w", kind="signal", key="go on"))))

    assert ("signal", f"polos signal {RUN} 'go on' DATA") == (reason.kind, reason.command)


def test_topic(begun):
    """A wait for an event names the topic and who can publish it."""
    reason = only(begun.tell(RUN, (2, e.WaitStarted(cause=2, name="w", kind="topic", key="orders"))))

    assert ("topic", "an event of the topic orders") == (reason.kind, reason.text)
    assert "events.publish(client, 'orders', ...)" in reason.moves_on


def test_child_and_what_it_waits_for(begun):
    """Below a child stands what the child waits for."""
    child = e.ChildStarted(cause=2, name="ship", child="run-2", workflow="shipping", wanted=True)
    begun.tell(RUN, (2, child))
    begun.tell(
        "run-2",
        (2, created("run-2", "shipping", parent=RUN, step="ship")),
        (3, e.RunStarted(attempt=1)),
        (4, e.TimerStarted(cause=2, name="nap", due_us=at(60))),
    )
    reason = only(begun)

    assert ("child", "run-2", "polos why run-2") == (reason.kind, reason.run, reason.command)
    assert "its child run-2 (shipping), which is waiting" == reason.text
    assert ["timer"] == [below.kind for below in reason.because]


def test_child_that_ended_or_has_not_begun(begun):
    """A child whose end is on its way has no reasons, and one that isn't there is said to be so."""
    begun.tell(RUN, (2, e.ChildStarted(cause=2, name="a", child="run-2", workflow="w", wanted=True)))
    begun.tell(RUN, (2, e.ChildStarted(cause=2, name="b", child="run-3", workflow="w", wanted=True)))
    begun.tell("run-2", (2, created("run-2", "w")), (3, e.RunStarted(attempt=1)), (4, e.RunCompleted(cause=2)))
    first, second = ask(begun).reasons

    assert "its child run-2 (w), which is completed" == first.text
    assert "its child run-3 (w), which is not started yet" == second.text
    assert ((), ()) == (first.because, second.because)


def test_many_children_are_explained_up_to_a_limit(begun):
    """A thousand children are all named, and the first ten explained."""
    for number in range(12):
        child = f"child-{number}"
        begun.tell(RUN, (2, e.ChildStarted(cause=2, name=child, child=child, workflow="w", wanted=True)))
        begun.tell(child, (2, created(child, "w")))
    reasons = ask(begun).reasons

    assert [True] * 10 + [False] * 2 == [bool(reason.because) for reason in reasons]


def test_step_under_way(begun):
    """A step says which function, which attempt, and since when it was called."""
    begun.tell(RUN, (2, e.StepScheduled(cause=2, name="charge", function="pay", digest="d")))
    reason = only(begun)

    assert ("step", "attempt 1 of the step charge (pay) is under way") == (reason.kind, reason.text)
    assert reads.rfc3339(at(2)) == reason.since


def test_step_under_way_since_the_engine_took_over(begun):
    """A step that was cut off is under way since the engine that calls it again."""
    begun.tell(RUN, (2, e.StepScheduled(cause=2, name="charge", function="pay", digest="d")))

    assert reads.rfc3339(at(50)) == only(begun, owner=Owner(at(50))).since


def test_step_that_no_engine_calls(begun):
    """Without an engine a step isn't under way, and that there is none comes first."""
    begun.tell(RUN, (2, e.StepScheduled(cause=2, name="charge", function="pay", digest="d")))
    engine, step = ask(begun, owner=None).reasons

    assert ("no_engine", "step") == (engine.kind, step.kind)
    assert "the next one calls it again" in step.text


def test_at_most_once_step_that_no_engine_calls(begun):
    """Without an engine nobody knows of an `at_most_once` attempt that had begun."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="charge", function="pay", digest="d", effect="at_most_once")),
        (2, e.StepAttemptStarted(name="charge", attempt=1)),
    )
    _, step = ask(begun, owner=None).reasons

    assert "its outcome is unknown" in step.text


def test_retry_of_a_step(begun):
    """Between two attempts a step says what went wrong and when it is tried again; then it is under way."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="charge", function="charge", digest="d")),
        (3, e.StepAttemptFailed(name="charge", attempt=1, error=FAILURE, due_us=at(60))),
    )
    before, after = only(begun, seconds=10), only(begun, seconds=61)

    assert ("retry", reads.rfc3339(at(60))) == (before.kind, before.due)
    assert "attempt 1 of the step charge failed (ConnectionError: no net)" == before.text
    assert ("step", reads.rfc3339(at(60))) == (after.kind, after.since)
    assert "attempt 2 of the step charge is under way" == after.text


def test_unknown_outcome(begun):
    """A step of unknown outcome gives the reason, and the command that resolves it."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="pay it", function="pay", digest="d", effect="at_most_once")),
        (2, e.StepAttemptStarted(name="pay it", attempt=1)),
        (9, e.StepOutcomeUnknown(name="pay it", attempt=1, reason="the process died")),
    )
    reason = only(begun)

    assert ("step_outcome_unknown", reads.rfc3339(at(9))) == (reason.kind, reason.since)
    assert "the process died" in reason.text
    assert f"polos resolve {RUN} 'pay it' completed --value RESULT" == reason.command


def test_diverged(begun):
    """A run that diverged shows the report, with the line of the code, and what is open."""
    report: Json = {"recorded": "step a", "asked": "step b", "line": "app.py:7"}
    begun.tell(RUN, (2, e.StepScheduled(cause=2, name="a", function="a", digest="d")))
    begun.tell(RUN, (3, e.RunDiverged(report=report, message="after event 2 the log has step a")))
    found = ask(begun)

    assert ["diverged", "step"] == [reason.kind for reason in found.reasons]
    assert (report, reads.rfc3339(at(3))) == (found.reasons[0].detail, found.reasons[0].since)
    assert f"polos readmit {RUN}" == found.reasons[0].command


@pytest.mark.parametrize(("aside", "command"), [("no_code", None), ("poisoned", f"polos readmit {RUN}")])
def test_set_aside(aside, command):
    """A run that is set aside says why, and who can let it in again."""
    story = Story().tell(RUN, (0, created(RUN)), (1, e.RunSetAside(reason=aside, message="three deaths")))
    reason = only(story)

    assert (aside, command) == (reason.kind, command)
    assert "three deaths" in reason.text


def test_queued_behind_others():
    """A queued run says how many are under way."""
    story = Story().tell(RUN, (0, created(RUN)))
    story.tell("run-2", (0, created("run-2")), (1, e.RunStarted(attempt=1)))
    reason = only(story)

    assert ("slot", "it is queued; 1 other run is under way") == (reason.kind, reason.text)
    assert "max_concurrent_workflows" in reason.moves_on


def test_start_later():
    """A run that is to start later says when."""
    reason = only(Story().tell(RUN, (0, created(RUN, start_after_us=at(60)))))

    assert ("start", reads.rfc3339(at(60))) == (reason.kind, reason.due)


def test_retry_of_the_run(begun):
    """Between two attempts of a run stands what ended the last one, and when the next one begins."""
    begun.tell(RUN, (2, e.RunRetried(cause=2, attempt=1, error=FAILURE, due_us=at(60))))
    reason = only(begun)

    assert ("run_retry", reads.rfc3339(at(60)), "ConnectionError: no net") == (reason.kind, reason.due, reason.detail)


def test_cancelling(begun):
    """A run that cleans up says for how long it may, and the command that forces it; forced, it has none."""
    begun.tell(RUN, (2, e.CancelRequested(by="ada", grace_due_us=at(120))))
    asked = only(begun)
    begun.tell(RUN, (3, e.CancelForced(by="ada")))
    forced = only(begun)

    assert ("cancel", f"polos cancel {RUN}", reads.rfc3339(at(120))) == (asked.kind, asked.command, asked.due)
    assert ("cancel", None, None) == (forced.kind, forced.command, forced.due)


def test_code_that_has_asked_for_nothing(begun):
    """A run with nothing open waits for its own code; one that may do I/O itself says so."""
    direct = Story().tell(RUN, (0, created(RUN)), (1, e.RunStarted(attempt=1, direct=True)))

    assert "code" == only(begun).kind == only(direct).kind
    assert "its code is about to be run" in only(begun).text
    assert "I/O" in only(direct).text


def test_ended(begun):
    """A run that ended says how, and its error."""
    begun.tell(RUN, (2, e.RunFailed(cause=2, error=FAILURE)))
    found = ask(begun, owner=None)
    (reason,) = found.reasons

    assert ("failed", "ended", "it is over: failed, no net") == (found.status, reason.kind, reason.text)
    assert f"polos show {RUN}" == reason.command


def test_successor_is_told_about(begun):
    """Who asks for a run that went on is told about its successor."""
    begun.tell(RUN, (2, e.RunContinued(cause=2, successor="run-2", workflow="order")))
    begun.tell("run-2", (2, created("run-2", continues=RUN)), (3, e.RunStarted(attempt=1)))

    assert "run-2" == ask(begun).run


def test_what_was_answered_is_no_reason(begun):
    """A request that was answered is gone, and one that the next attempt takes over is open since the first asked."""
    begun.tell(
        RUN,
        (2, e.StepScheduled(cause=2, name="a", function="a", digest="d")),
        (2, e.WaitStarted(cause=2, name="ok", kind="suspend", key="ok")),
        (3, e.StepCompleted(name="a", attempt=1)),
        (4, e.RunRetried(cause=5, attempt=1, error=FAILURE, due_us=at(5))),
        (5, e.RunStarted(attempt=2)),
        (6, e.WaitStarted(cause=7, name="ok", kind="suspend", key="ok")),
    )
    reason = only(begun)

    assert ("suspend", reads.rfc3339(at(2))) == (reason.kind, reason.since)


def test_deadline(begun):
    """The moment at which the run timeout cancels it stands beside the reasons."""
    story = Story().tell(RUN, (0, created(RUN, run_timeout_us=30_000_000)), (1, e.RunStarted(attempt=1)))

    assert (reads.rfc3339(at(31)), None) == (ask(story).deadline, ask(begun).deadline)


def test_in_the_inbox():
    """A run that no engine has seen yet waits in the inbox; with no engine that comes first."""
    row = reads.RunRow(run=RUN, workflow="order", created_us=at(0))
    pending = [reads.PendingRun(command_id="c", created=created(RUN), row=row)]
    kinds = []
    for owner in (Owner(), None):
        with Story().log.reader() as reader:
            found = why(reader, RUN, owner=owner, now_us=at(1), pending=pending)
            kinds.append([reason.kind for reason in found.reasons])

    assert [["inbox"], ["no_engine", "inbox"]] == kinds


def test_unknown_run():
    """A run that neither the log nor the inbox has is refused."""
    with pytest.raises(UnknownRun, match="run-9"):
        ask(Story(), "run-9")
