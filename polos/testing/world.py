"""
What stands outside the engine and doesn't crash with it: the world that steps act upon.

A promise like "a completed step is never called again" can't be checked from inside. So the functions of steps write
into a ledger that no crash touches, and each entry is compared, at the moment it is made, with what the log holds then.

The world counts what can't be taken back, one *tick* each: an append begins, an append is durable, a function begins,
a function ends. A crash is ordered for a tick, and since nothing else is visible from outside, crashes at every tick
are crashes at every moment that can make a difference.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, cast, final

from polos.context import current_step
from polos.testing.clock import VirtualClock

if TYPE_CHECKING:
    from polos.testing.audit import Audit

__all__ = ["Crashed", "Effect", "World", "world"]

Key = tuple[str, str]  # run and step


class Crashed(KeyboardInterrupt):
    """
    The process is gone.

    A KeyboardInterrupt, because that is what asyncio lets pass at once, and code that catches everything doesn't.
    """


@dataclass(slots=True, kw_only=True)
class Effect:
    """One call of a step's function."""

    run: str
    name: str
    life: int
    number: int  # of the calls of this step, from 1
    ended: bool = False


@final
@dataclass(slots=True, kw_only=True)
class World:
    """
    The outside.

    Attributes:
        clock: its time.
        chance: draws what a simulation leaves open: how long an append takes.
        audit: what the log holds.
        effects: the ledger.
        ticks: how many have passed.
        crash_at: the ticks at which the process will die; one at which it died is taken out.
        life: which process is living, from 1.
        held: keys of functions that wait for `let_go`, with what they wait for.
    """

    clock: VirtualClock
    chance: Random
    audit: Audit
    effects: list[Effect] = field(default_factory=list[Effect])
    calls: dict[Key, int] = field(default_factory=dict[Key, int])
    ticks: int = 0
    crash_at: set[int] = field(default_factory=set[int])
    life: int = 0
    held: dict[tuple[str, str], asyncio.Future[None]] = field(
        default_factory=dict[tuple[str, str], asyncio.Future[None]]
    )

    def tick(self) -> None:
        """Count something that can't be taken back; the process may die of it."""
        self.ticks += 1
        if self.ticks in self.crash_at:
            self.crash_at.remove(self.ticks)
            raise Crashed

    async def perform(self, *, takes_us: int = 0, held: bool = False, pure: bool = False) -> Effect:
        """
        Do what a step does, and enter it into the ledger. To be called by the function of a step.

        Args:
            takes_us: how long it takes.
            held: whether it waits for `let_go` instead.
            pure: whether the step was asked for with `effect="pure"`.
        """
        effect = self.begin(pure=pure)
        if held or takes_us:
            loop = asyncio.get_running_loop()
            waits: asyncio.Future[None] = loop.create_future()
            if held:
                self.held[effect.run, effect.name] = waits
            else:
                loop.call_later(takes_us / 1e6, _done, waits)
            try:
                await waits
            finally:
                self.held.pop((effect.run, effect.name), None)
        self.end(effect)
        return effect

    def begin(self, *, pure: bool = False) -> Effect:
        """Enter into the ledger that the function of a step has begun; on any thread, as `end`."""
        key = current_step.get()
        assert key is not None, "only the function of a step has an effect"
        run, _, name = key.partition("/")
        number = self.calls[run, name] = self.calls.get((run, name), 0) + 1
        effect = Effect(run=run, name=name, life=self.life, number=number)
        self.effects.append(effect)
        self.audit.may_call(run, name, number, pure=pure)
        self.tick()
        return effect

    def end(self, effect: Effect) -> None:
        """Enter into the ledger that the function is over."""
        effect.ended = True
        self.tick()

    def let_go(self, run: str, name: str) -> None:
        """Let a function that is held go on."""
        _done(self.held[run, name])


def world() -> World:
    """Give the world of the step's function that asks."""
    return cast("World", getattr(asyncio.get_running_loop(), "world"))  # noqa: B009  # only a SimulatedLoop has one


def _done(waits: asyncio.Future[None]) -> None:
    if not waits.done():
        waits.set_result(None)
