"""What `decide` says no to."""

from __future__ import annotations

import pytest
from polos.engine import commands as c
from polos.engine import events as e
from polos.engine.decide import SIGNALS_KEPT_MAX, decide
from polos.engine.evolve import evolve, fold
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
