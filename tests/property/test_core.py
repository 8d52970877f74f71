"""
`decide` and `evolve` are functions, under everything that generated programs make of them.

The engine is lent a `decide` that asks twice, on copies, and shows the answer to `evolve` first. So each decision of
each program is looked at with the state in which it really came up, and not one that a strategy would think of.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from polos.engine import commands as c
from polos.engine.decide import Decision, decide
from polos.engine.evolve import evolve
from polos.engine.state import RunState
from polos.errors import PolosUsageError
from polos.testing.simulation import Simulation

from tests.campaign import scaled
from tests.property.generated import racing, ungentle
from tests.property.playing import play
from tests.property.programs import Node, program


@contextmanager
def suspicious() -> Iterator[list[c.Command]]:
    """Let the engine decide with a `decide` that is checked; gives the commands it was asked."""
    asked: list[c.Command] = []

    def checked(state: RunState, command: c.Command, *, now_us: int) -> Decision:
        asked.append(command)
        kept, kept_command = copy.deepcopy(state), copy.deepcopy(command)
        try:
            decision = decide(state, command, now_us=now_us)
        except PolosUsageError:
            assert kept == state, "a refusal changed the state"
            raise
        assert kept == state, "decide changed the state"
        assert kept_command == command, "decide changed the command"
        assert decision == decide(kept, kept_command, now_us=now_us), "decide is no function"
        for event in decision.events:
            evolve(kept, event, time_us=now_us)  # E1, E2: raises if it can't be
        return decision

    with mock.patch("polos.runtime.engine.decide", checked):
        yield asked


@settings(max_examples=scaled(40, 5_000))
@given(racing, ungentle, st.integers(0, 1_000))
def test_e2_decide_emits_what_evolve_takes(node: Node, what: list[Node], seed: int) -> None:
    """E1, E2: `decide` changes nothing, answers the same again, and `evolve` takes all it emits."""
    with suspicious() as asked, Simulation([program], seed=seed) as sim:
        play(sim, node, what)

        assert asked
