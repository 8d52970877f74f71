"""What `decide` says no to."""

from __future__ import annotations

import pytest
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.decide import SIGNALS_KEPT_MAX, decide
from polos.engine.evolve import evolve, fold
from polos.engine.json import Json
from polos.engine.messages import Message
from polos.engine.state import RunState
from polos.errors import CommandRefused


def send(state: RunState, kind: str, key: str, number: int) -> None:
    """Have a run take a signal or a resume."""
    message = Message(id=f"{kind}-{key}-{number}", kind=kind, target=state.run, body={"key": key, "data": number})
    for event in decide(state, c.Deliver(message=message), now_us=2).events:
        evolve(state, event, time_us=2)


@pytest.mark.parametrize("kind", ["signal", "resume"])
def test_answers_that_nobody_waits_for_are_kept_up_to_a_limit(kind):
    """A run keeps a hundred answers of a key and refuses the next, but not one that it has, nor one of another key."""
    created = e.RunCreated(workflow="w", root="r", root_workflow="w")
    state = fold("r", [(created, 0), (e.RunStarted(attempt=1), 1)])
    for number in range(SIGNALS_KEPT_MAX):
        send(state, kind, "go", number)

    with pytest.raises(CommandRefused, match="already keeps 100 answers for 'go'"):
        send(state, kind, "go", SIGNALS_KEPT_MAX)
    send(state, kind, "go", 5)
    send(state, kind, "stop", 0)

    assert {"go": 100, "stop": 1} == {key: len(kept) for (_, key), kept in state.signals.items()}


def begun(*events: e.Event) -> RunState:
    """Give a run that is running, and has these behind it."""
    created = e.RunCreated(workflow="w", root="r", root_workflow="w")
    return fold("r", [(created, 0), (e.RunStarted(attempt=1), 1), *((event, 2) for event in events)])


def child(name: str, run: str, *, wanted: bool = True) -> e.ChildStarted:
    """Give what starts a child."""
    return e.ChildStarted(cause=2, name=name, child=run, workflow="c", wanted=wanted)


def test_a_parent_that_asks_a_cancelled_child_to_stop_takes_nothing_from_its_grace():
    """Only a person's second request forces: the child cleans up until its grace is over."""
    state = begun(e.CancelRequested(by="ann", grace_due_us=1_000))
    asked = Message(id="m", kind="cancel", target="r", body={"by": "parent"})

    decision = decide(state, c.Deliver(message=asked), now_us=3)

    assert ([], []) == (decision.events, decision.messages)
    assert [e.CancelForced(by="ann")] == decide(state, c.RequestCancel(by="ann", grace_us=1), now_us=3).events


def test_the_end_of_a_child_that_nobody_waits_for_any_more_is_nobody_elses():
    """A run that is called once more may wait for another child under the name of the one that it had."""
    state = begun(child("sum", "new"))
    ended: dict[str, Json] = {
        "name": "sum",
        "status": "completed",
        "result": 3,
        "result_type": None,
        "error": None,
        "by": None,
    }
    late, own = (
        Message(id=run, kind="finished", target="r", body={**ended, "child": run}) for run in ("old", "new")
    )  # fmt: skip

    assert [] == decide(state, c.Deliver(message=late), now_us=3).events
    assert ["new"] == [getattr(event, "child", "") for event in decide(state, c.Deliver(message=own), now_us=3).events]


def test_an_answer_that_was_kept_is_for_the_next_wait_if_the_first_is_given_up():
    """In one activation: the wait that had it taken asked for it, and nobody heard it."""
    state = begun()
    send(state, "signal", "go", 7)
    waits = [e.WaitStarted(cause=2, name=name, kind="signal", key="go") for name in ("first", "second")]
    requests: tuple[e.Event, ...] = (waits[0], e.WaitCancelled(cause=2, name="first"), waits[1])

    decision = decide(state, c.Activate(cause=2, requests=tuple(c.Request(event=one) for one in requests)), now_us=3)

    answered = [event for event in decision.events if isinstance(event, e.WaitSatisfied)]
    assert [("second", 7)] == [(event.name, event.data) for event in answered]


def test_the_failure_of_an_attempt_that_is_over_is_no_failure_of_the_next():
    """It comes late, and the step is at another attempt by then."""
    failure = e.Failure(type="E", message="no")
    step = e.StepScheduled(cause=2, name="s", function="f", digest="d")
    state = begun(step, e.StepAttemptFailed(name="s", attempt=1, error=failure, due_us=2))

    assert [] == decide(state, c.FailStep(name="s", attempt=1, error=failure), now_us=3).events
    (failed,) = decide(state, c.FailStep(name="s", attempt=2, error=failure), now_us=3).events
    assert e.StepFailed(name="s", attempt=2, error=failure) == failed


def test_of_a_cancelled_run_only_children_that_nobody_awaits_are_cancelled_at_once():
    """The others are when its code stops awaiting them, which it needn't."""
    state = begun(child("awaited", "one"), child("beside", "two", wanted=False))

    decision = decide(state, c.RequestCancel(by="ann", grace_us=1_000), now_us=3)

    assert [("cancel", "two")] == [(message.kind, message.target) for message in decision.messages]


def test_an_update_that_came_twice_is_taken_once():
    """Whoever sent it asks again when the answer to the first one got lost."""
    asked = c.ReceiveUpdate(update_id="u", name="set", data=1)
    (received,) = decide(begun(), asked, now_us=3).events
    taken = begun(received)

    assert [] == decide(taken, asked, now_us=3).events


def test_an_id_that_somebody_chose_is_no_name_of_a_request():
    """An update and a wait that the body has open are called the same; both are over with the run."""
    wait = e.WaitStarted(cause=2, name="approve", kind="suspend", key="approve")
    state = begun(wait, e.UpdateReceived(update_id="approve", name="set"))
    requests: tuple[e.Event, ...] = (
        e.UpdateAnswered(cause=3, update_id="approve", value=1), e.RunCompleted(cause=3, result=None),
    )  # fmt: skip

    decision = decide(state, c.Activate(cause=3, requests=tuple(c.Request(event=one) for one in requests)), now_us=3)

    assert ["UpdateAnswered", "WaitCancelled", "RunCompleted"] == [type(event).__name__ for event in decision.events]
