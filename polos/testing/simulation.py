"""
One engine after another on one store, in one thread, on virtual time.

A `Simulation` is driven from plain code: each method lets the loop run as far as it says and returns. So a test, or
Hypothesis, sits outside of the loop and orders what happens next: a command, an eviction, a crash, a failing disk.

A crash drops the engine as a SIGKILL would: code, tasks, alarms and whatever was on its way are gone, the log keeps
what is durable. It can come from outside, between two moments, or at a tick of the world (`World.crash_at`), inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Protocol, final

from polos.clock import RunIds
from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.decide import created_to_json
from polos.engine.json import Json
from polos.engine.projections import run_stream
from polos.errors import EngineNotRunning, PolosError, PolosInternalError, PolosUsageError
from polos.runtime.bodies import Bodies
from polos.runtime.engine import Engine
from polos.runtime.performer import Performer
from polos.runtime.settings import Settings
from polos.runtime.starting import root_run
from polos.store.faults import FaultPlan, FaultyLog
from polos.testing.appender import SimulatedAppender
from polos.testing.audit import Audit
from polos.testing.clock import Alarm, VirtualClock
from polos.testing.loop import SimulatedLoop
from polos.testing.patience import Frames, Interrupted, Patience, over_this
from polos.testing.store import MemoryStore
from polos.testing.unanswered import REFUSALS_MAX, refused
from polos.testing.under_way import under_way
from polos.testing.waiting import WaitingThreads
from polos.testing.world import Crashed, World

__all__ = ["Call", "HeldBack", "Simulation"]

QUIET = Settings(inbox_poll_seconds=0)  # an inbox that is looked at again and again would keep time from standing still


@dataclass(slots=True, eq=False)
class Call:
    """
    A command on its way, and what became of it.

    Attributes:
        id: of the command.
        command: what is asked.
        reply: the outcome; None while there is none.
        error: the refusal.
    """

    id: str
    command: dict[str, Json]
    reply: dict[str, Json] | None = None
    error: BaseException | None = None
    run: str = ""

    @property
    def answered(self) -> bool:
        """Whether its outcome is known."""
        return self.reply is not None or self.error is not None

    @property
    def decided(self) -> bool:
        """Whether an engine has decided it; one that is stopping, or can't record anything, hasn't."""
        refused = isinstance(self.error, PolosUsageError) and not isinstance(self.error, EngineNotRunning)
        return self.reply is not None or refused


class HeldBack(Protocol):
    """Has what nobody can foresee the moment of happen when it likes."""

    def append(self, engine: int, what: str, go_on: Callable[[], None]) -> None:
        """Take an append of a group, or the handing back of its outcome; `engine` is which of all engines, from 1."""
        ...

    def due(self, alarms: list[Alarm]) -> None:
        """Take alarms whose moment has come."""
        ...

    def performer(self, engine: Engine, loop: asyncio.AbstractEventLoop, /) -> Performer:
        """Make what calls the functions of steps."""
        ...


@dataclass(slots=True)
class _Life:
    engine: Engine
    loop: SimulatedLoop
    former: list[Engine] = field(default_factory=list[Engine])  # that others have taken the store from
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@final
class Simulation:
    """
    An engine's world, held in one hand.

    ```python run
    from polos import WorkflowContext, workflow
    from polos.testing import Simulation

    @workflow(id="simulated_month")
    async def month(ctx: WorkflowContext, payload: dict) -> str:
        await ctx.step.wait_for("month", days=30)
        return "a month has passed"

    with Simulation([month]) as world:
        run = world.create(month, {}).run
        world.run_for(3600)
        world.recover()  # killed, and another engine goes on
        world.settle()
        print(world.audit.end_of(run).result)
    ```

    Attributes:
        clock: its time.
        world: what steps act upon.
        audit: what the log says.
        plan: when appends fail.
        store: what the engines run on.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[Any]],
        *,
        seed: int = 0,
        settings: Settings = QUIET,
        store: MemoryStore | None = None,
        latency_us_max: int = 0,
        queue_units_max: int = 10_000,
        held: HeldBack | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        """
        Make a world without an engine; `start` begins the first life.

        Args:
            workflows: what the engines know.
            seed: from which all chance is drawn.
            settings: of the engines.
            store: to go on with; a new one otherwise.
            latency_us_max: how long an append takes at most.
            queue_units_max: how many units may wait to be appended.
            held: says when appends, calls of functions and alarms happen; None for as soon as they can.
            patience_seconds: how long each letting run may take inside `with`, in real time, before it fails with a
                `TookTooLong` that says where it hangs; None for ever, which is a tenth of a millisecond faster.
        """
        self.clock = VirtualClock(seed=seed)
        self._run_ids = RunIds(self.clock)
        self.plan = FaultPlan()
        self.store = MemoryStore() if store is None else store
        if not isinstance(self.store.log, FaultyLog):
            self.store.log = FaultyLog(self.store.log, self.plan)
        self.audit = Audit(self.store.log)
        self.world = World(clock=self.clock, chance=Random(seed), audit=self.audit)
        known = list(workflows)
        self.workflows = {workflow.id: workflow for workflow in known}
        self._versions = {(workflow.id, workflow.version): workflow for workflow in known}
        self._settings = settings
        self._held = held
        self._appender = partial(
            SimulatedAppender,
            world=self.world,
            latency_us_max=latency_us_max,
            queue_units_max=queue_units_max,
        )
        self._patience = None if patience_seconds is None else Patience(patience_seconds, gives_up=False)
        self._watch = ExitStack()
        self._life: _Life | None = None
        self._threads: list[WaitingThreads] = []
        self._engines = 0
        self._numbers = 0
        self.calls: list[Call] = []

    def __enter__(self) -> Simulation:
        """Begin the first life."""
        if self._patience is not None:
            self._watch.enter_context(over_this(self._patience))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        with self._watch:
            self.crash()

    # --------------------------------------------------------------------------------------- lives

    @property
    def alive(self) -> bool:
        """Whether an engine is running."""
        return self._life is not None

    @property
    def loop(self) -> SimulatedLoop:
        """The loop that it runs on."""
        assert self._life is not None, "an engine is running"
        return self._life.loop

    @property
    def engine(self) -> Engine:
        """The engine that is running."""
        assert self._life is not None, "an engine is running"
        return self._life.engine

    def under_way(self) -> tuple[str, Frames]:
        """Say whose code the engine is running; for another thread, while that doesn't come back."""
        life = self._life
        return ("the test", ()) if life is None or not life.loop.is_running() else under_way(life.engine, life.loop)

    def start(self) -> None:
        """Begin a life: a new engine goes on with what is in the store."""
        assert self._life is None, "one engine at a time"
        self.world.life += 1
        loop = SimulatedLoop(self.clock, world=self.world)
        if self._held is not None:
            loop.on_due = self._held.due
        life = self._life = _Life(self._make(), loop)
        loop.set_exception_handler(lambda _loop, context: life.errors.append(context))
        self._start(life)

    def take_over(self) -> None:
        """Have another engine take the store while the present one lives on and knows nothing of it."""
        life = self._life
        assert life is not None, "an engine is running"
        life.former.append(life.engine)
        life.engine = self._make()
        self._start(life)

    def _make(self) -> Engine:
        self._engines += 1
        appender = self._appender
        if self._held is not None:
            appender = partial(appender, hold=partial(self._held.append, self._engines))
        return Engine(
            self.store,
            clock=self.clock,
            settings=self._settings,
            bodies=Bodies(
                self.workflows.get,
                find_version=lambda id_, version: self._versions.get((id_, version)),
                known=self.workflows.values,
            ),
            appender=appender,
            performer=self._make_performer if self._held is None else self._held.performer,
        )

    def _make_performer(self, engine: Engine, loop: asyncio.AbstractEventLoop, /) -> Performer:
        assert isinstance(loop, SimulatedLoop), "an engine of a simulation lives on a loop of it"
        threads = WaitingThreads(loop)
        self._threads.append(threads)
        return Performer(engine, loop, threads=threads)

    def _start(self, life: _Life) -> None:
        life.engine.intake.triggers.declare(self.workflows.values())
        started = life.loop.create_task(life.engine.start())
        self._run(SimulatedLoop.run_ready)
        if self._life is life and started.done():
            started.result()

    def crash(self) -> None:
        """End the life, as a SIGKILL does. Fine without one."""
        life, self._life = self._life, None
        if life is None:
            return
        loop = life.loop
        loop.set_exception_handler(lambda _loop, _context: None)
        tasks = asyncio.all_tasks(loop)
        loop._ready.clear()  # type: ignore[attr-defined]  # noqa: SLF001  # a dead process calls nothing back
        self.clock.drop_alarms()
        self.store.owner_engine = None
        for task in tasks:
            task.cancel()
        for engine in (*life.former, life.engine):
            engine.stopping = True
            engine.broken = RuntimeError("this process is dead")
            for resident in list(engine.residents.values()):
                engine.discard(resident)
        self.world.crash_at, ordered = set(), self.world.crash_at
        loop.run_ready()
        for task in tasks:
            coroutine: Any = task.get_coro()
            coroutine.close()  # one that never began would complain
        self.clock.drop_alarms()
        self.world.crash_at = ordered
        self.world.held.clear()
        loop.close()
        for threads in self._threads:
            threads.end()
        self._threads.clear()

    def recover(self) -> None:
        """Crash, and begin the next life."""
        self.crash()
        self.start()

    def stop(self) -> None:
        """End the life gracefully."""
        life = self._life
        assert life is not None, "an engine is running"
        stopping = life.loop.create_task(life.engine.stop())
        for _ in range(100):
            if self._life is not life or stopping.done():
                break
            self.run_for(1)
        if self._life is life:
            stopping.result()
            self.crash()

    # --------------------------------------------------------------------------------------- time

    def run_ready(self) -> None:
        """Let happen what can happen without time."""
        self._run(SimulatedLoop.run_ready)

    def run_for(self, seconds: float) -> None:
        """Let time pass, and everything happen that happens in it."""
        self._run(lambda loop: loop.run_for(round(seconds * 1e6)))

    def settle(self) -> None:
        """
        Let time pass until nothing happens by itself any more.

        Raises:
            NeverAnswered: the log refuses everything, so that the engine would try again for ever.
        """
        before, began_us, counted = self.plan.on_refused, self.clock.monotonic_us(), 0

        def refuse() -> None:
            nonlocal counted
            counted = min(counted + 1, self.plan.refused)
            if counted >= REFUSALS_MAX:
                self.loop.stop()

        self.plan.on_refused = refuse
        try:
            self._run(lambda loop: loop.run_for(None))
        finally:
            self.plan.on_refused = before
        if counted >= REFUSALS_MAX:
            raise refused(self.plan, counted, (self.clock.monotonic_us() - began_us) / 1e6)

    def run_turns(self, count: int) -> None:
        """Let the loop turn so many times; see `SimulatedLoop.run_turns`."""
        self._run(lambda loop: loop.run_turns(count))

    def run_to_moment(self) -> None:
        """Let time pass up to the next moment at which something is to happen."""
        self._run(SimulatedLoop.run_to_moment)

    def _run(self, run: Callable[[SimulatedLoop], None]) -> None:
        life = self._life
        if life is None:
            return
        try:
            if self._patience is not None:
                self._patience.begin(self.under_way)
            run(life.loop)
            if self._patience is not None:
                self._patience.pause()
        except Crashed:
            self.crash()
        except Interrupted:
            assert self._patience is not None, "nobody else interrupts"
            raise self._patience.over() from None
        assert not self.audit.violations, self.audit.violations
        broken = life.engine.broken if self._life is life else None
        if isinstance(broken, PolosInternalError) or (broken and not isinstance(broken, PolosError)):
            raise AssertionError(f"a bug in the engine: {broken!r}") from broken
        if life.errors:
            context = life.errors[0]
            error = context.get("exception")
            raise AssertionError(f"in the engine's loop: {context.get('message')}: {error!r}") from error

    # ------------------------------------------------------------------------------------- commands

    def send(self, kind: str, **fields: Json) -> Call:
        """Hand a command to the engine; its outcome comes as the loop runs."""
        call = self.draft(kind, **fields)
        self.send_again(call)
        return call

    def draft(self, kind: str, **fields: Json) -> Call:
        """Make a command that isn't sent yet."""
        self._numbers += 1
        call = Call(f"command-{self._numbers}", {"kind": kind, **fields}, run=str(fields.get("run") or ""))
        self.calls.append(call)
        return call

    def send_again(self, call: Call) -> None:
        """Send the very same command once more, as a client does that got no answer."""
        life = self._life
        if life is None:
            return
        task = life.loop.create_task(life.engine.execute(call.id, call.command))
        task.add_done_callback(lambda done: self._answered(life, call, done))

    def _answered(self, life: _Life, call: Call, task: asyncio.Task[dict[str, Json]]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._life is not life or task.cancelled():
            return
        if error is not None and call.decided:
            return  # one that was sent twice: the first answer counts, if it is one
        call.reply, call.error = None, error
        if call.error is not None:
            return
        call.reply = task.result()
        # The output rule: whoever is told has to find it in the log.
        if call.command["kind"] == "create":
            detail: Any = call.reply.get("detail")
            run = str(detail["runs"][0]) if detail else call.run  # it may be told of one that was there
            if run not in self.audit.states:
                self.audit.violations.append(f"run {run} was acknowledged before it is durable")
        elif call.command["kind"] in ("signal", "resume", "update"):
            state = self.audit.states.get(call.run)
            if not (state is None or state.ended_us or self.audit.heard(call.id)):
                self.audit.violations.append(f"{call.command} was acknowledged before it is durable")

    def create(self, workflow: Workflow[Any], payload: Any, **options: Any) -> Call:
        """Ask for a run; gives the call, whose `run` is the run's id."""
        call = self.draft_run(workflow, payload, **options)
        self.send_again(call)
        return call

    def draft_run(self, workflow: Workflow[Any], payload: Any, **options: Any) -> Call:
        """Make the command that asks for a run, not sent yet."""
        created = root_run(workflow.id, payload, clock=self.clock, ids=self._run_ids, deployment="test", **options)
        return self.draft("create", run=created.root, runs=[{"run": created.root, "created": created_to_json(created)}])

    def new_run_id(self) -> str:
        """Make a run's id."""
        return self._run_ids.new()

    def evict(self) -> int:
        """Take every idle run out of memory; tells how many went."""
        return sum(self.engine.evict(run) for run in list(self.engine.residents))

    # --------------------------------------------------------------------------------------- looking

    def result(self, run: str) -> Any:
        """Give what a run returned; it must have completed."""
        end = self.audit.end_of(run)
        assert isinstance(end, e.RunCompleted), f"run {run} ended with {end!r}"
        return end.result

    def stream(self, run: str) -> list[str]:
        """Give the types of a run's events, for messages."""
        with self.store.log.reader() as reader:
            return [record.type for record in reader.stream(run_stream(run))]
