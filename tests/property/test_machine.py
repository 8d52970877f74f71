"""
The whole engine as a machine that is kicked at random, on a virtual clock.

Where `test_programs` plays one program to its end, here many runs live at once, steps end when a rule says so, the
log fails for a while, engines die and are started again, clients repeat what they asked. After each rule the log is
compared with the engine's memory; at the end everything has to come to rest.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from polos.errors import CommandRefused, EngineNotRunning, StoreFailed, UnknownRun
from polos.runtime.settings import Settings
from polos.store.faults import Fault
from polos.testing.audit import comparable
from polos.testing.simulation import Call, Simulation

from tests.campaign import scaled
from tests.property.generated import racing_with_held
from tests.property.playing import Player
from tests.property.programs import Node, program
from tests.property.replaying import check_replay

NAMES = st.sampled_from(["x", "y"])
PICK = st.integers(0, 7)
ROUNDS_MAX = 200


class EngineMachine(RuleBasedStateMachine):
    """Many runs, one engine after another."""

    sim: Simulation

    @initialize(seed=st.integers(0, 1_000), latency_us=st.sampled_from([0, 300]), slots=st.sampled_from([1, 2, 100]))
    def begin(self, seed: int, latency_us: int, slots: int) -> None:
        """Begin with an empty store."""
        self.sim = Simulation(
            [program],
            seed=seed,
            latency_us_max=latency_us,
            queue_units_max=4,
            settings=Settings(
                inbox_poll_seconds=0, retry_append_seconds=5, max_concurrent_workflows=slots, resident_runs_max=4
            ),
        )
        self.sim.start()

    # ------------------------------------------------------------------------------------ commands

    @rule(node=racing_with_held)
    def start_run(self, node: Node) -> None:
        """Ask for a run."""
        self.sim.create(program, {"do": node})

    @rule(pick=PICK, name=NAMES)
    def signal(self, pick: int, name: str) -> None:
        """Send a signal that some run may wait for."""
        self._send(pick, "signal", name=f"signal-{name}", data=name)

    @rule(pick=PICK, name=NAMES)
    def resume(self, pick: int, name: str) -> None:
        """Answer a suspend that may be open."""
        self._send(pick, "resume", key=f"suspend-{name}", data=name)

    @rule(name=NAMES)
    def publish(self, name: str) -> None:
        """Publish an event."""
        self.sim.send("publish", topic=f"topic-{name}", events=[{"data": name}, {"data": "second"}])

    @rule(pick=PICK)
    def update(self, pick: int) -> None:
        """Send an update."""
        self._send(pick, "update", name="bump", data=None)

    @rule(pick=PICK)
    def query(self, pick: int) -> None:
        """Ask a run for its count."""
        self._send(pick, "query", name="count", args=[])

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        """Cancel a run; perhaps one that is being cancelled."""
        self._send(pick, "cancel")

    @precondition(lambda self: any(not call.answered for call in self.sim.calls))
    @rule(pick=PICK)
    def repeat(self, pick: int) -> None:
        """Send a command again that got no answer, under its id."""
        waiting = [call for call in self.sim.calls if not call.answered]
        self.sim.send_again(waiting[pick % len(waiting)])

    def _send(self, pick: int, kind: str, **fields: Any) -> Call | None:
        runs = list(self.sim.audit.states)
        return self.sim.send(kind, run=runs[pick % len(runs)], **fields) if runs else None

    # --------------------------------------------------------------------------------------- steps

    @precondition(lambda self: self.sim.world.held)
    @rule(pick=PICK)
    def let_go(self, pick: int) -> None:
        """Let a step end."""
        held = list(self.sim.world.held)
        self.sim.world.let_go(*held[pick % len(held)])

    # ---------------------------------------------------------------------------------------- time

    @rule()
    def run_ready(self) -> None:
        """Let happen what needs no time."""
        self.sim.run_ready()

    @rule(seconds=st.sampled_from([0.0002, 0.01, 1.0, 30.0, 4_000.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.sim.run_for(seconds)

    @rule(seconds=st.sampled_from([-3_600, -1, 60, 90_000]))
    def jump(self, seconds: int) -> None:
        """Set the wall clock."""
        self.sim.clock.jump(seconds * 1_000_000)

    # ------------------------------------------------------------------------------------- trouble

    @precondition(lambda self: self.sim.alive)
    @rule()
    def evict(self) -> None:
        """Take idle runs out of memory."""
        self.sim.evict()

    @rule()
    def crash(self) -> None:
        """Kill the engine."""
        self.sim.crash()

    @rule(ticks=st.integers(1, 20))
    def crash_soon(self, ticks: int) -> None:
        """Kill the engine in the middle of something."""
        self.sim.world.crash_at.add(self.sim.world.ticks + ticks)

    @precondition(lambda self: not self.sim.alive)
    @rule()
    def start(self) -> None:
        """Start the next engine."""
        self.sim.start()

    @precondition(lambda self: self.sim.alive)
    @rule()
    def stop(self) -> None:
        """Stop the engine gracefully."""
        self.sim.stop()

    @rule(fault=st.sampled_from(list(Fault)))
    def fail_once(self, fault: Fault) -> None:
        """Let the next append fail."""
        self.sim.plan.next(fault)

    @rule()
    def fill_the_disk(self) -> None:
        """Let every append fail for now."""
        self.sim.plan.always(Fault.FULL)

    @rule()
    def make_room(self) -> None:
        """Let appends succeed again."""
        self.sim.plan.never()

    # ----------------------------------------------------------------------------------- invariants

    @invariant()
    def look(self) -> None:
        """Look at what must hold after each rule."""
        self.nothing_was_violated()
        self.memory_is_the_log()
        self.slots_are_kept_to()
        self.sim.audit.check_rows()

    def nothing_was_violated(self) -> None:
        """Nothing happened that must not."""
        assert not self.sim.audit.violations, self.sim.audit.violations
        assert [] == [event.message for event in self.sim.audit.diverged]

    def memory_is_the_log(self) -> None:
        """A run that has nothing on its way to the disk is in memory what it is in the log."""
        if not self.sim.alive or self.sim.engine.broken is not None:
            return
        for run, resident in self.sim.engine.residents.items():
            if not resident.in_flight and resident.state.version:
                assert comparable(self.sim.audit.states[run]) == comparable(resident.state)

    def slots_are_kept_to(self) -> None:
        """No more runs hold a slot than there are, and whoever holds one is in memory."""
        if self.sim.alive:
            engine = self.sim.engine
            held = {run for run, resident in engine.residents.items() if resident.has_slot}
            assert len(held) <= engine.lines.held <= engine.settings.max_concurrent_workflows

    def teardown(self) -> None:
        """Everything comes to rest: every run ends, nothing is owed, every command has an answer."""
        sim = getattr(self, "sim", None)
        if sim is None:
            return
        try:
            self._come_to_rest(sim)
            self._look_back(sim)
        finally:
            sim.crash()

    def _come_to_rest(self, sim: Simulation) -> None:
        sim.plan.never()
        sim.world.crash_at.clear()
        player = Player(sim, Call("", {}))
        for call in sim.calls:
            if not call.answered:
                sim.send_again(call)
        for number in range(ROUNDS_MAX):
            player.revive()
            for run, name in list(sim.world.held):
                sim.world.let_go(run, name)
            sim.run_for(0.05 if number % 2 else 1_000.0)
            if not (player.answer() or sim.audit.living()):
                break
        waiting = {run: (sim.stream(run), sim.audit.states[run].ops) for run in sim.audit.living()}
        assert {} == waiting, waiting

    def _look_back(self, sim: Simulation) -> None:
        self.look()
        unanswered = [call for call in sim.calls if not call.answered and call.command["kind"] != "query"]
        assert not unanswered, unanswered
        unexpected = [
            repr(call.error)
            for call in sim.calls
            if call.error and not isinstance(call.error, CommandRefused | EngineNotRunning | UnknownRun | StoreFailed)
        ]
        assert [] == unexpected, unexpected
        for run in sim.audit.states:
            sim.audit.check_folding(run)
            check_replay(sim, run)


TestEngineMachine = pytest.mark.filterwarnings("error")(EngineMachine.TestCase)
TestEngineMachine.settings = settings(max_examples=scaled(40, 5_000), stateful_step_count=scaled(40, 80))
