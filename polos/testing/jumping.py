"""
A virtual clock on a program's own event loop.

A simulation owns its loop, and knows when nothing can happen any more because it is asked what to do instead of
waiting. A test that uses `Polos` as programs do runs on the loop that pytest, or `asyncio.run`, has made. So this clock
looks: time may pass when the engine has nothing to decide, nothing on its way to the disk and no function running, and
when nothing is ready on the loop, twice in a row, because only the loop's next turn asks the operating system. Then it
jumps to the next thing that somebody waits for. Whatever is real (a function that asks a server, a commit) is waited
for in real time; a look is repeated every millisecond while it lasts.

What a test waits for by itself, a socket or a thread of its own, can't be seen. Such a test sets `auto` to False and
says when time passes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from polos.testing.clock import START_US, Alarm, VirtualClock

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["Hanging", "JumpingClock"]

LOOK_AGAIN_SECONDS = 0.001


@final
class JumpingClock:
    """
    Time that jumps to the next moment at which something is due, when nothing else can happen.

    ```python run
    import asyncio, tempfile
    from polos import Polos, WorkflowContext, workflow
    from polos.testing import JumpingClock

    @workflow(id="jumped_month")
    async def month(ctx: WorkflowContext) -> str:
        await ctx.step.wait_for("month", days=30)
        return "a month has passed"

    async def main() -> None:
        clock = JumpingClock()
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder, clock=clock, inbox_poll_seconds=0) as polos:
                clock.watch(polos.engine)
                print(await month.run(polos, timeout=None), clock.passed_seconds >= 30 * 86_400)

    asyncio.run(main())
    ```

    Attributes:
        hanging: how many functions of steps are known never to end by themselves; see `Hanging`.
        on_passing: called when time passes by itself, before it does.
    """

    def __init__(self, *, seed: int = 0, start_us: int = START_US) -> None:
        """
        Begin at a moment.

        Args:
            seed: from which ids and jitter are drawn.
            start_us: the first moment, in microseconds since the epoch; the beginning of 2026 if it isn't said.
        """
        self._time = VirtualClock(seed=seed, start_us=start_us)
        self._auto = True
        self._engines: list[Engine] = []
        self._looking: asyncio.AbstractEventLoop | None = None  # on which a look is ordered
        self._quiet = 0  # looks in a row that found nothing
        self._settled: list[asyncio.Future[None]] = []
        self.hanging = 0
        self.on_passing: Callable[[], None] | None = None

    # ---------------------------------------------------------------------------------- for the engine

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return self._time.now_us()

    def monotonic_us(self) -> int:
        """Microseconds that have passed; jumps of the wall clock don't count."""
        return self._time.monotonic_us()

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once the wall clock shows `due_us`."""
        alarm = self._time.call_at(due_us, callback)
        self._look_soon()
        return alarm

    def call_after(self, delay_us: int, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop once so much time has passed."""
        alarm = self._time.call_after(delay_us, callback)
        self._look_soon()
        return alarm

    def random(self) -> float:
        """A float in [0, 1), the same in every run of the test."""
        return self._time.random()

    def uuid4(self) -> str:
        """A random UUID as text, the same in every run of the test."""
        return self._time.uuid4()

    # ------------------------------------------------------------------------------------ for the test

    @property
    def now(self) -> dt.datetime:
        """What the wall clock shows, in UTC."""
        return dt.datetime.fromtimestamp(self._time.now_us() / 1e6, tz=dt.UTC)

    @property
    def passed_seconds(self) -> float:
        """How much time has passed since the clock was made."""
        return self._time.monotonic_us() / 1e6

    @property
    def auto(self) -> bool:
        """Whether time passes by itself; it does in any case for an engine that stops, which waits for nothing else."""
        return self._auto

    @auto.setter
    def auto(self, passes: bool) -> None:
        self._auto = passes
        if passes and self._time.next_us() is not None:
            self._look_soon()

    def watch(self, engine: Engine) -> None:
        """Let time wait for an engine; the fixtures do this. An engine that has stopped is forgotten."""
        self._engines = [known for known in self._engines if not known.stopping or _busy(known, 0, None)]
        self._engines.append(engine)

    async def settle(self) -> None:
        """Wait until nothing can happen any more unless time passes."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settled.append(done)
        self._look_soon()
        await done

    async def advance(self, seconds: float) -> None:
        """
        Let time pass, and everything that is due in it happen at its moment.

        Args:
            seconds: how much, 0 or more.

        Raises:
            ValueError: time would run backwards; `jump` sets the wall clock.
        """
        if seconds < 0:
            raise ValueError(f"time passes in one direction, not by {seconds} s; `jump` sets the wall clock back")
        until_us = self._time.monotonic_us() + round(seconds * 1e6)
        await self.settle()  # as long as somebody waits for this, time doesn't pass by itself
        while True:
            wait_us = self._time.next_us()
            if wait_us is None or self._time.monotonic_us() + wait_us > until_us:
                break
            self._pass(wait_us)
            await self.settle()
        self._pass(until_us - self._time.monotonic_us())
        await self.settle()

    def jump(self, seconds: float) -> None:
        """
        Set the wall clock, as an administrator or a laptop's lid does; no time passes.

        Args:
            seconds: by how much; back if it is negative.
        """
        self._time.jump(round(seconds * 1e6))
        self._ring()

    def fail(self, error: Exception) -> int:
        """Have everybody who waits for `settle` or `advance` get an error; gives how many that are."""
        settled, self._settled = self._settled, []
        waiting = [future for future in settled if not future.done()]
        for future in waiting:
            future.set_exception(error)
        return len(waiting)

    # ---------------------------------------------------------------------------------------- looking

    def _look_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._looking is not loop:  # one that was closed calls nothing back
            self._looking = loop
            loop.call_soon(self._look)

    def _look(self) -> None:
        """Let time pass if nothing else can happen; ordered anew as long as somebody waits for that."""
        loop, self._looking = self._looking, None
        if loop is None or not (self._settled or (self._may_pass() and self._time.next_us() is not None)):
            self._quiet = 0
            return
        self._looking = loop
        ready: Any = getattr(
            loop, "_ready", ()
        )  # asyncio tells nobody else; a loop without it looks at the engine alone
        wait_us = self._time.next_us()
        if not ready and any(_busy(engine, self.hanging, wait_us) for engine in self._engines):
            self._quiet = 0
            loop.call_later(LOOK_AGAIN_SECONDS, self._look)
            return
        self._quiet = 0 if ready else self._quiet + 1
        if self._quiet >= 2:
            self._quiet = 0
            self._nothing_else()
        loop.call_soon(self._look)

    def _nothing_else(self) -> None:
        settled, self._settled = self._settled, []
        for waiting in settled:
            if not waiting.done():
                waiting.set_result(None)
        if not settled:
            if self.on_passing is not None:
                self.on_passing()
            self._pass(self._time.next_us() or 0)

    def _may_pass(self) -> bool:
        stopping = any(engine.stopping for engine in self._engines)
        return self._auto or stopping

    def _pass(self, by_us: int) -> None:
        self._time.advance(by_us)
        self._ring()

    def _ring(self) -> None:
        """Call what is due, in its order, each in a turn of its own as a loop does."""
        due = self._time.take_due()
        if due:
            loop = asyncio.get_running_loop()
            for alarm in due:
                loop.call_soon(_call, alarm)


def _call(alarm: Alarm) -> None:
    if not alarm.cancelled:
        alarm.callback()


def _busy(engine: Engine, hanging: int, wait_us: int | None) -> bool:
    """Tell whether something happens in an engine that needs no time by this clock; `wait_us` to the next alarm."""
    if engine.broken is not None:
        # It pauses for so long before it tries the log again, which it does on a thread: no alarm, and no end yet.
        return wait_us is None or wait_us > engine.settings.retry_append_seconds * 1e6
    if engine.work or engine.in_flight or engine.backlog or engine.background:
        return True
    if len(engine.performer.in_flight) > hanging:
        return True
    # A body that does I/O itself and waits for nothing of the engine's is doing it.
    codes = [resident.code for resident in engine.residents.values()]
    return any(code is not None and code.direct and code.outcome is None and not code.pending for code in codes)


@final
class Hanging:
    """
    A function for steps that doesn't come back: neither an answer nor an error, until it is let go.

    An example stands at `JumpingClock`.

    Time passes while it hangs, so timeouts come. To be given to `ctx.step.run` itself, or put where the program has
    its own function: `monkeypatch.setattr(shop, "charge", polos_hanging)`.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, clock: JumpingClock) -> None:
        """Take the clock that is to pass over it."""
        self.calls = 0
        self._clock = clock
        self._waiting: list[asyncio.Future[Any]] = []
        self._called: list[asyncio.Future[None]] = []

    async def __call__(self, *_: Any, **__: Any) -> Any:
        """Hang, until it is let go or the step's time is up."""
        self.calls += 1
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        for called in self._called:
            if not called.done():
                called.set_result(None)
        self._clock.hanging += 1
        try:
            return await waiting
        finally:
            self._clock.hanging -= 1
            self._waiting.remove(waiting)

    async def wait_called(self) -> None:
        """Wait until it hangs."""
        if not self._waiting:
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._called.append(called)
            await called

    def let_go(self, value: Any = None) -> None:
        """Let the calls that hang come back, with a value."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(value)
