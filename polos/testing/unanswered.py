"""
Telling a test that what it awaits can't be answered: because of a fault it has ordered, or because it is never sent.

What an engine is asked while its log refuses writes, it keeps, and tries again every few milliseconds. On a clock that
jumps, a test that awaits it lets that happen for ever: time passes from one attempt to the next, nothing else does, and
who could order the end of the fault is the one that waits. The same goes for a log that is held. Neither is wrong by
itself: a disk may be full for an hour. So it is an error only when it has gone on for long with nobody but the clock at
work, and then everything that waits for the log fails with it: commands, ends of runs, streams, events. What was asked
stays asked, and may still happen.

A run that waits for a signal which nobody sends is another matter: there is nothing to try again, and only if nothing
at all can happen any more is it certain that it never comes (`polos.testing.stuck`). Then the same happens.

How long is counted in attempts, which is virtual time, and for a log that is held in looks at the real loop. An engine
that stops waits for the append under way, which no error of a test ends: what is held then is let go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from polos.errors import PolosUsageError
from polos.testing.stuck import cannot_go_on, what_waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from polos.runtime.connection import StoreConnection
    from polos.runtime.engine import Engine
    from polos.store.faults import FaultPlan
    from polos.testing.capture import CapturedEvents
    from polos.testing.jumping import JumpingClock

__all__ = ["REFUSALS_MAX", "NeverAnswered", "Unanswered", "refused"]

REFUSALS_MAX: Final = 2_000  # with the default settings this is 100 s of virtual time, and takes about 3 s
LOOK_SECONDS = 1.0
HELD_LOOKS_MAX = 30
STUCK_LOOKS_MAX = 3  # one is proof; what another thread has just taken up can be missed by one


@final
class NeverAnswered(PolosUsageError):
    """
    A test awaits what can't be answered: as long as the fault lasts that it has ordered, or ever.

    ```python run
    from polos import WorkflowContext, workflow
    from polos.testing import Fault, NeverAnswered, Simulation

    @workflow(id="never_recorded")
    async def order(ctx: WorkflowContext, payload: dict) -> str:
        return "done"

    with Simulation([order]) as world:
        world.plan.always(Fault.FULL)
        world.create(order, {})
        try:
            world.settle()
        except NeverAnswered as error:
            print("2000 appends" in str(error))
    ```
    """


def refused(plan: FaultPlan, count: int, seconds: float) -> NeverAnswered:
    """
    Make the error of who waits for a log that refuses.

    Args:
        plan: of the log.
        count: how many appends were refused in a row.
        seconds: how much virtual time passed meanwhile.
    """
    found = f"the log has refused {count} appends one after another, in {seconds:g} s of virtual time"
    return _never(plan, found, "never()")


def _never(plan: FaultPlan, found: str, way_out: str) -> NeverAnswered:
    return NeverAnswered(
        f"{found}; the test has ordered {plan}. Nothing that waits for the log comes to an end before `{way_out}`, and "
        f"whoever waits can't order that: begin it as a task, order `{way_out}`, and await it then. What was asked for "
        "is kept, and may still happen."
    )


@final
class Unanswered:
    """
    Looks whether the log of a `Polos` comes to anything, and has what waits for it fail if it doesn't.

    Attributes:
        let_go: why a held append was let go, for an engine that stops and can't before; None if none was.
    """

    def __init__(
        self, engine: Engine, connection: StoreConnection, *, clock: JumpingClock, plan: FaultPlan,
        events: CapturedEvents, cancel: Callable[[NeverAnswered], None],
    ) -> None:  # fmt: skip
        """
        Take everything that may wait.

        Args:
            engine: that has the log.
            connection: by which it is followed.
            clock: its clock.
            plan: of the log.
            events: what is captured of it.
            cancel: cancels the test, if it waits for something else that waits for the log.
        """
        self._engine = engine
        self._connection = connection
        self._cancel = cancel
        self._clock = clock
        self._plan = plan
        self._events = events
        self._passes = 0
        self._seen = 0
        self._since_seconds = 0.0
        self._held: int | None = None
        self._looks = 0
        self._stuck = 0
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._told: list[Callable[[BaseException], None]] = []
        self.let_go: NeverAnswered | None = None

    def start(self) -> None:
        """Begin to look, on the running loop."""
        self._clock.on_passing = self._passes_by_itself
        self._look_later()

    def stopping(self) -> None:
        """The engine is about to stop: a log that refuses ends that by itself, one that is held is looked at still."""
        self._clock.on_passing = None
        self._stopping = True

    def stop(self) -> None:
        """Look no more."""
        self._clock.on_passing = None
        if self._timer is not None:
            self._timer.cancel()

    # -------------------------------------------------------------------------------------- looking

    def _passes_by_itself(self) -> None:
        """Time is about to pass, because nobody does anything."""
        count = self._plan.refused
        if count <= self._seen:
            self._passes, self._since_seconds = 0, self._clock.passed_seconds
        self._passes += count > self._seen
        self._seen = count
        if self._passes >= REFUSALS_MAX:
            self._fail(refused(self._plan, self._passes, self._clock.passed_seconds - self._since_seconds))
            self._seen = count + 1  # counted anew for whatever is awaited next

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        held = self._plan.held
        self._looks = self._looks + 1 if held is not None and held == self._held else 0
        self._held = held
        if self._looks >= HELD_LOOKS_MAX:
            self._looks = 0
            found = f"append {held} is held, for {HELD_LOOKS_MAX * LOOK_SECONDS:g} s of real time by now"
            error = _never(self._plan, found, "let_go()")
            if self._stopping:
                self.let_go = error
                self._plan.let_go()  # the engine waits for its writer, so that nothing else could end this
            else:
                self._fail(error)
        self._look_whether_stuck()
        self._look_later()

    def _look_whether_stuck(self) -> None:
        certain = not self._stopping and cannot_go_on(self._engine, self.only_looks)
        self._stuck = self._stuck + 1 if certain else 0
        if self._stuck >= STUCK_LOOKS_MAX:
            self._stuck = 0
            still = "" if self._clock.auto else ", time stands still because `polos_clock.auto` is False"
            runs = what_waits(self._engine, self._clock.now_us())
            told = "".join(f"\n  * {run}" for run in runs) or "\n  * no run: every one has ended"
            self._fail(
                NeverAnswered(
                    "nothing can happen any more, and the test awaits something: no step, timer or append is under "
                    f"way{still}, and no task, thread or connection is left that could go on. What runs wait for:{told}"
                    "\nWhoever waits can't send that: send it before, or from a task, or give the wait a timeout."
                )
            )

    # -------------------------------------------------------------------------------------- telling

    def _fail(self, error: NeverAnswered) -> None:
        """Have everything fail that waits for the log, or if that is nothing we know, the block of the test."""
        engine, connection = self._engine, self._connection
        asked = [work for unit in engine.in_flight.values() for work in unit.waiting()]
        fails = [work.fail for work in (*asked, *engine.work) if work.outside and work.fail is not None]
        told = [fail for fail in fails if fail not in self._told]  # who was told is still asked for, and waits no more
        self._told += told
        for fail in told:
            fail(error)
        count = len(told) + engine.watchers.fail(error) + connection.moves().fail(error)
        count += self._events.fail(error) + self._clock.fail(error)
        if not count:
            self._cancel(error)

    def only_looks(self, callback: object) -> bool:
        """Tell whether a timer's callback only looks: for this, or whether our own log has moved."""
        whose = getattr(callback, "__self__", None)
        return isinstance(whose, Unanswered) or whose is self._connection.moves()
