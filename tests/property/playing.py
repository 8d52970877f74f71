"""
A program played through: disturbed as drawn, answered when it waits for somebody, and looked at from all sides.

`play` is the outside of the engine. It knows what waits by the rows' own fold and not by asking the engine, and it
does what a client does that got no answer: it sends the same command again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, final

from polos.engine.state import ENDED, OpKind
from polos.errors import EngineNotRunning, PolosStoreError
from polos.store.faults import Fault
from polos.testing.simulation import Call, Simulation

from tests.property.programs import Node, program

__all__ = ["Player", "play"]

_ROUNDS_MAX = 150


@final
@dataclass(slots=True)
class Player:
    """Plays one program."""

    sim: Simulation
    call: Call
    answered: set[tuple[str, str]] = field(default_factory=set)

    # ------------------------------------------------------------------------------------ disturbing

    def disturb(self, what: Node) -> None:
        """Let one disturbance happen."""
        kind, *rest = what
        self.revive()
        getattr(self, f"_{kind}")(*rest)

    def _run(self, milliseconds: int) -> None:
        self.sim.run_for(milliseconds / 1e3)

    def _ready(self) -> None:
        self.sim.run_ready()

    def _evict(self) -> None:
        self.sim.evict()

    def _crash(self) -> None:
        self.sim.crash()

    def _stop(self) -> None:
        self.sim.stop()

    def _die(self, ticks: int) -> None:
        self.sim.world.crash_at.add(self.sim.world.ticks + ticks)

    def _jump(self, seconds: int) -> None:
        self.sim.clock.jump(seconds * 1_000_000)

    def _fail(self, fault: str) -> None:
        self.sim.plan.next(Fault[fault])

    def _signal(self, name: str) -> None:
        self.sim.send("signal", run=self.call.run, name=f"signal-{name}", data=name)

    def _resume(self, name: str) -> None:
        self.sim.send("resume", run=self.call.run, key=f"suspend-{name}", data=name)

    def _update(self) -> None:
        resident = self.sim.engine.residents.get(self.call.run) if self.sim.alive else None
        open_steps = [] if resident is None else [
            name for name, op in resident.state.ops.items() if op.kind is OpKind.STEP and "#" not in name
        ]  # fmt: skip
        self.sim.send("update", run=self.call.run, name=(*open_steps, "bump")[0], data=None)

    def _cancel(self, index: int) -> None:
        living = self.sim.audit.living()
        if index < len(living):
            self.sim.send("cancel", run=living[index])

    # ------------------------------------------------------------------------------------- answering

    def revive(self) -> None:
        """Begin the next life if the last one is over, and repeat what got no answer."""
        sim = self.sim
        for _ in range(100):
            if sim.alive:
                return
            sim.start()
            for call in sim.calls:
                if not call.answered or isinstance(call.error, EngineNotRunning | PolosStoreError):
                    sim.send_again(call)
        raise AssertionError("the engine dies again and again")

    def answer(self) -> bool:
        """Answer what is waited for; tells whether anything was."""
        sim = self.sim
        topics: set[str] = set()
        found = False
        for run, state in sim.audit.states.items():
            for name, op in state.ops.items():
                if op.kind is not OpKind.WAIT or "never" in op.key or not op.claimed:
                    continue
                if op.wait_kind == "topic":
                    topics.add(op.key)
                elif (run, f"{name}@{op.version}") not in self.answered:
                    self.answered.add((run, f"{name}@{op.version}"))
                    kind = "resume" if op.wait_kind == "suspend" else "signal"
                    field_name = "key" if kind == "resume" else "name"
                    key = name if kind == "resume" else op.key
                    sim.send(kind, run=run, data=op.key.partition("-")[2], **{field_name: key})
                    found = True
        for topic in sorted(topics):
            sim.send("publish", topic=topic, events=[{"data": topic.partition("-")[2]}])
        return found or bool(topics)

    def finish(self) -> None:
        """Play until all runs have ended."""
        sim = self.sim
        for number in range(_ROUNDS_MAX):
            self.revive()
            sim.run_for(0.05 if number % 2 else 20.0)
            if not sim.alive:
                continue
            if self.call.run in sim.audit.states and not sim.audit.living():
                return
            if not self.answer():
                sim.run_for(1_000.0)
        waiting = {run: dict(sim.audit.states[run].ops) for run in sim.audit.living()}
        streams = {run: sim.stream(run) for run in waiting}
        raise AssertionError(f"these runs don't end: {waiting}\n{streams}")


def play(sim: Simulation, node: Node, disturbances: Iterable[Node], *, then: Node | None = None) -> Call:
    """
    Play a program to its end.

    Args:
        sim: the world; an engine is running.
        node: the program.
        disturbances: what happens to it, in order.
        then: the program of its successor.

    Returns:
        The call that started it; its `run` has ended.
    """
    payload: dict[str, Any] = {"do": node, "then": then}
    player = Player(sim, sim.create(program, payload))
    for what in disturbances:
        player.disturb(what)
    player.finish()
    assert all(state.phase in ENDED for state in sim.audit.states.values())
    return player.call
