"""
A life of an engine that may end at any point, and what the next one finds.

A `Life` starts an engine on a store, does what a client does (asks for the run, answers what is waited for, again and
again until it is recorded) and lets virtual time pass until every run has ended, nothing happens any more, or the
process dies at the point that was ordered. It remembers nothing: whatever the next life needs is in the log, or in the
files of the world that steps act upon. So it makes no difference to it whether that life is in the same process.

What events of a topic start is part of a scenario like what a run starts itself, for the triggers that a sweep was
given: a life isn't over before all that was published has been handed on.

How a life is ended within one process says what can't be found out there. Coroutines of a killed process are never
heard of again; here they are closed, because only so are the files and connections given back that the system takes
from a dead process. They see a GeneratorExit: ``with`` and ``finally`` run, and so do ``except BaseException``, a bare
``except`` and one of GeneratorExit itself. Handlers of cancellations and of other errors don't.

A step's function is awaited by the kit, which so gets to know each time that it waits. The tasks that it starts are the
loop's, and are left as they are: the loop says when a task has had a turn, and the context of that turn, which has the
attempt in it, says whose it is. Turns are asked for only from a life's first such task on: a sweep lives thousands of
lives, and most steps make none.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext, suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, final

from polos import registry
from polos.context import current_attempt, is_async
from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.state import ENDED, OpKind, OpStatus, RunState
from polos.errors import PolosError
from polos.llm.jsonish import an_object
from polos.points import arm, disarm, reach
from polos.replay.facts import StepCall
from polos.runtime.bodies import Described
from polos.runtime.engine import Engine
from polos.runtime.performer import Attempt, Performer
from polos.runtime.ports import OwnedStore
from polos.runtime.reconciling import Question, Reconciling
from polos.runtime.settings import Settings
from polos.testing.appender import SimulatedAppender
from polos.testing.audit import Audit
from polos.testing.cleaning import cleans_up
from polos.testing.clock import VirtualClock
from polos.testing.failing import Raised, said_by
from polos.testing.leaving import Leaving
from polos.testing.loop import PATIENCE_SECONDS, RealWaitTooLong, SimulatedLoop
from polos.testing.outside import Place
from polos.testing.program_code import ProgramCode
from polos.testing.run_chance import NamingDriver, RunChance
from polos.testing.sweep_calls import CallLedger, NotingBodies
from polos.testing.sweep_effects import effect_of
from polos.testing.sweep_points import AWAIT, Points
from polos.testing.threads import SimulatedThreads
from polos.testing.world import Crashed, World
from polos.types import Completed, NotDone
from polos.values import encode

__all__ = ["Answers", "Life", "Task", "Waiting"]

MOMENTS_MAX = 20_000
SETTINGS = Settings(
    inbox_poll_seconds=0, record_sources=False
)  # a poll of the inbox would keep time from standing still

_NO_CHANCE = Random(0)  # how long an append takes is drawn from it, and here it takes no time

Answers = Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """
    What a run waits for, as a function in `answers` gets it. An example stands at `CrashReport`.

    Attributes:
        key: key of the suspend, name of the signal or step, or topic.
        kind: "suspend", "signal", "topic" or "step_outcome_unknown".
        run: id of the run.
        workflow: its workflow.
        data: what the suspend shows; None for anything else.
    """

    key: str
    kind: str
    run: str
    workflow: str
    data: Any = None


@final
@dataclass(slots=True, kw_only=True)
class Task:
    """
    What all lives of a sweep have in common.

    Attributes:
        run: id of the root run.
        command: the command that creates it.
        workflows: definitions by id; others are looked up in the registry.
        answers: what is answered, by key, or by the beginning of one with a star behind it.
        seed: from which everything is drawn.
        listening: ids of the workflows whose triggers fire.
        asked: names, keys and topics that were asked for, answered or not, in lives in this process.
        answered: keys of `answers` that answered one.
        described: the workflows' sources, read once.
        replayed: histories that the code was run on once more and fits, by run, each as often as it was.
    """

    run: str
    command: dict[str, Json]
    workflows: Mapping[str, Workflow[Any]]
    answers: Answers = field(default_factory=dict[str, Any])
    seed: int = 0
    listening: Sequence[str] = ()
    asked: dict[str, None] = field(default_factory=dict[str, None])
    answered: set[str] = field(default_factory=set[str])
    described: dict[int, Described] = field(default_factory=dict[int, Described])
    replayed: dict[str, list[list[tuple[e.Event, int]]]] = field(
        default_factory=dict[str, list[list[tuple[e.Event, int]]]]
    )

    @property
    def batched(self) -> list[str]:
        """Those whose runs get batches of events."""
        said = ((one, self.workflows[one].trigger) for one in self.listening)
        return [one for one, trigger in said if trigger is not None and trigger.batched]

    def find(self, workflow: str) -> Workflow[Any] | None:
        """Give a workflow by its id."""
        return self.workflows.get(workflow) or registry.get_workflow(workflow)


@final
class _Suspends:
    """Awaits what a function of the program gave; that of a step comes past a point each time that it waits."""

    def __init__(self, code: Any, life: Life, come_back: Callable[[], None] | None) -> None:
        self._code = code
        self._life = life
        self._come_back = come_back  # of a step

    def __await__(self) -> Generator[Any, Any, Any]:
        code: Any = self._code if inspect.iscoroutine(self._code) else self._code.__await__()
        error: BaseException | None = None
        life = self._life
        while True:
            try:
                with life.code:
                    awaited = code.send(None) if error is None else code.throw(error)
            except StopIteration as stop:
                if self._come_back is not None:
                    self._come_back()
                return stop.value
            if self._come_back is not None:
                self._come_past(code)
            try:
                yield awaited
                error = None
            except BaseException as thrown:  # noqa: BLE001  # GeneratorExit, too: it is passed on like all others
                error = thrown

    def _come_past(self, code: Any) -> None:
        points = self._life.points
        try:
            reach(AWAIT)
        except Crashed:
            self._life.orphans.append(code)  # it knows nothing of the crash, and is closed with everything else
            raise
        if points.leaves is not None:
            points.cleans_up(AWAIT, cleans_up(code))


def _seen(life: Life, func: Callable[..., Any], step: tuple[str, str, int, str] | None = None) -> Callable[..., Any]:
    """Give what is to be called instead of a function of the program: its turns count, and a step's calls are noted."""
    come_back = None if step is None else partial(life.ledger.come_back, *step[:3])

    def call(*args: Any, **kwargs: Any) -> Any:
        if step is not None:
            life.ledger.call(life.audit, *step)
        with life.code:
            return func(*args, **kwargs)

    async def seen(*args: Any, **kwargs: Any) -> Any:
        return await _Suspends(call(*args, **kwargs), life, come_back)

    def seen_in_thread(*args: Any, **kwargs: Any) -> Any:
        outcome = call(*args, **kwargs)
        if inspect.isawaitable(outcome):
            return _Suspends(outcome, life, come_back)
        if come_back is not None:
            come_back()
        return outcome

    return seen if is_async(func) else seen_in_thread


@final
class _Performer(Performer):
    """Has each call noted before it is made, and makes those that belong in threads on the loop's own."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, /, *, life: Life) -> None:
        threads = SimulatedThreads(life.loop, after=life.points.check)
        super().__init__(engine, loop, threads=threads)
        self.reconciling = _Reconciling(engine, loop, threads, life=life)
        self._life = life
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {}  # as the program gave them

    def start(self, run: str, name: str, number: int, call: StepCall) -> None:
        """Call a step's function, seen."""
        life = self._life
        self._functions[run, name] = call.func
        super().start(run, name, number, replace(call, func=_seen(life, call.func, (run, name, number, call.effect))))

    def _outcome(self, attempt: Attempt, value: Any, error: BaseException | None) -> None:
        points = self._life.points
        if points.leaves is not None:
            func = self._functions[attempt.run, attempt.name]
            points.whose = effect_of(func, attempt.name, failed=error is not None)
        super()._outcome(attempt, value, error)


@final
class _Reconciling(Reconciling):
    """Has the functions seen that it asks: they may have an effect of their own, like a step's."""

    def __init__(
        self, engine: Engine, loop: asyncio.AbstractEventLoop, threads: SimulatedThreads, *, life: Life
    ) -> None:
        super().__init__(engine, loop, threads)
        self._life = life

    def ask(self, run: str, name: str, number: int, call: StepCall) -> None:
        """Ask about an attempt, seen."""
        assert call.reconcile is not None, "there is something to ask"
        super().ask(run, name, number, replace(call, reconcile=_seen(self._life, call.reconcile)))

    def _answered(self, question: Question, call: StepCall, answer: Any, error: BaseException | None) -> None:
        if error is not None:
            self._life.unreconciled.append(str(Raised(f"reconcile of step {question[1]!r}", error)))
        super()._answered(question, call, answer, error)


@final
class Life:
    """
    One life.

    Attributes:
        task: what it is about.
        audit: what the log says.
        ledger: the calls of effects.
        points: what it has reached.
        waits: what is waited for and nobody answers, in words; known when the life has ended by itself.
        unsaid: the same of questions what became of a tool's call, which a crash may leave.
        problems: what went wrong besides: answers that were refused, errors on the loop.
        unreconciled: what functions given as `reconcile` raised, in words.
        endless: whether it was given up on.
        cut: how many events of runs there were before it.
        orphans: coroutines of functions that nothing waits for any more.
        code: the program's: functions of steps, and of their `reconcile`, each time that they go on, answers, and what
            it leaves on the loop.
        loop: what it runs on.
        engine: the engine.
    """

    def __init__(
        self, task: Task, *, store: OwnedStore, clock: VirtualClock, audit: Audit, ledger: CallLedger, points: Points,
        chance: RunChance, changes: Callable[[], int] | None = None, outside: Place | None = None,
    ) -> None:  # fmt: skip
        """
        Prepare it; `live` lives it.

        Args:
            task: what it is about.
            store: what there is of the lives before it.
            clock: its time.
            audit: what the log says.
            ledger: the calls of effects.
            points: counts what is reached.
            chance: draws.
            changes: counts what was made durable in the store; if it is given, `points` gets to know which points
                can't be told apart afterwards.
            outside: where the program writes to, if files there tell them apart as well.
        """
        self.task = task
        self.audit = audit
        self.ledger = ledger
        self.points = ledger.points = points
        self.waits: list[str] = []
        self.unsaid: list[str] = []
        self.problems: list[str] = []
        self.unreconciled: list[str] = []
        self.endless = False
        self.cut = audit.count()
        self.orphans: list[Any] = []
        self._sent: set[str] = set()
        self.code = ProgramCode()
        self._clock = clock
        self._chance = chance
        self.loop = SimulatedLoop(clock)
        self.loop.set_exception_handler(self._complain)
        self.loop.is_busy = self._is_busy
        world = World(clock=clock, chance=_NO_CHANCE, audit=audit)
        self.engine = Engine(
            store, clock=clock, settings=SETTINGS,
            bodies=NotingBodies(
                task.find, partial(ledger.call_tool, audit), described=task.described, known=task.workflows.values,
                driver=partial(NamingDriver, chance=chance),
            ),
            appender=partial(SimulatedAppender, world=world), performer=partial(_Performer, life=self),
        )  # fmt: skip
        self.engine.clock.run_ids.go_on(max(audit.states, default=""))  # what was drawn before may be drawn once more
        chance.find = self._state_of
        self.engine.marks.append(chance)
        if changes is not None:
            points.leaves = Leaving(
                lambda: (changes(), clock.now_us()), self._turns, calls=lambda: len(ledger.notes), outside=outside
            )
            self.loop.on_call = self.code.seen
        self.loop.on_task = self._task_made
        self.loop.on_job = self._job_done

    def live(self) -> None:
        """Live until every run has ended, nothing happens any more, or the process dies; then `close` it."""
        arm(self.points)
        try:
            if self.task.listening:
                self.engine.intake.triggers.declare(map(self.task.workflows.__getitem__, self.task.listening))
            started = self.loop.create_task(self.engine.start())
            self.loop.run_ready()
            if started.done():
                started.result()
            self._until_quiet()
        except Crashed:
            pass
        except RealWaitTooLong as error:
            names = sorted({name for _, name, _ in self.engine.performer.in_flight})
            raise RealWaitTooLong(
                f"step {', '.join(names)} waits for a connection or a process, and nothing came of it within "
                f"{PATIENCE_SECONDS:.0f} s of real time; while it has one open, virtual time can't pass"
            ) from error
        finally:
            disarm(self.points)

    def _state_of(self, run: str) -> RunState | None:
        resident = self.engine.residents.get(run)
        return None if resident is None else resident.state

    def _turns(self) -> object:
        """Count those of the program's code; while it runs, or others than the loop may call it, each moment is one."""
        if self.code.running or self.loop.is_connected:
            return object()
        return self._chance.visits, self.code.turns

    def _task_made(self, context: Context | None) -> None:
        """Look at the turns of tasks, as soon as a step's function makes the first; most make none."""
        if (current_attempt.get() if context is None else context.get(current_attempt)) is not None:
            self.loop.on_task = None
            self.loop.on_call = self.code.seen
            self.code.on_turn = self._task_turned

    def _task_turned(self, task: asyncio.Task[Any]) -> None:
        """Come past a point if a task that waits or has ended, and whose context this is, belongs to a step."""
        if current_attempt.get() is None:
            return
        reach(AWAIT)
        if self.points.leaves is not None and not task.done():
            self.points.cleans_up(AWAIT, cleans_up(task.get_coro()))

    def _job_done(self) -> None:
        """Come past a point if a job that a step gave to a thread is done, before whoever waits for it gets on."""
        if current_attempt.get() is not None:
            reach(AWAIT)

    def _until_quiet(self) -> None:
        for _ in range(MOMENTS_MAX):
            self.loop.run_ready()
            if self.problems:
                return
            if self._attend():
                continue
            if self._over() or not self.loop.has_moment():
                return
            self.loop.run_to_moment()
        self.endless = True

    def _is_busy(self) -> bool:
        return any(attempt.task is not None for attempt in self.engine.performer.in_flight.values())

    def _over(self) -> bool:
        states = self.audit.states
        ended = self.task.run in states and all(state.phase in ENDED for state in states.values())
        return ended and self.engine.intake.triggers.are_level

    # -------------------------------------------------------------------------------- being a client

    def _attend(self) -> bool:
        """Ask and answer what is to be asked and answered; tells whether anything was."""
        self.waits.clear()
        self.unsaid.clear()
        if self.task.run not in self.audit.states:
            return self._send("create", self.task.command)
        sent = [self._answer(state) for state in self.audit.states.values() if state.phase not in ENDED]
        return True in sent

    def _answer(self, state: RunState) -> bool:
        sent = False
        for name, op in state.ops.items():
            if op.kind is OpKind.WAIT and op.claimed and op.status is OpStatus.OPEN:
                key = name if op.wait_kind == "suspend" else op.key
                waiting, keys = self._waiting(state, name, op.wait_kind, key), (name, op.key)
            elif op.kind is OpKind.STEP and op.status is OpStatus.UNKNOWN:
                waiting, keys = self._waiting(state, name, "step_outcome_unknown", name), (name, name)
            else:
                continue
            found = _answering(keys, self.task.answers)
            self.task.asked[waiting.key] = None
            if found is None:
                unanswered = self.unsaid if _asks_of_a_tool(waiting) else self.waits
                unanswered.append(f"{waiting.kind} {waiting.key!r} of run {state.run} ({state.workflow})")
            else:
                answer = self.task.answers[found]
                self.task.answered.add(found)
                asked = callable(answer) and answer is not NotDone
                with self.code, said_by(f"the function in answers for {found!r}") if asked else nullcontext():
                    command = self._command(waiting, answer)
                sent |= self._send(f"answer-{state.run}-{name}-{op.version}-{op.attempt}", command)
        return sent

    def _waiting(self, state: RunState, name: str, kind: str, key: str) -> Waiting:
        data: Any = None
        if kind == "suspend":
            for event, _, _ in self.audit.histories[state.run]:
                if isinstance(event, e.WaitStarted) and event.name == name:
                    data = copy.deepcopy(event.data)  # events are decoded once, for all lives
        return Waiting(key=key, kind=kind, run=state.run, workflow=state.workflow, data=data)

    @staticmethod
    def _command(waiting: Waiting, answer: Any) -> dict[str, Json]:
        value = answer(waiting) if callable(answer) and answer is not NotDone else answer
        run, key = waiting.run, waiting.key
        if waiting.kind == "step_outcome_unknown":
            if isinstance(value, NotDone) or value is NotDone:
                return {"kind": "resolve", "run": run, "step": key, "outcome": "not_done"}
            value = value.value if isinstance(value, Completed) else value
            data = encode(value, what=f"answer for {key!r}")[0].value
            return {"kind": "resolve", "run": run, "step": key, "outcome": "completed", "value": data}
        data = encode(value, what=f"answer for {key!r}")[0].value
        match waiting.kind:
            case "suspend":
                return {"kind": "resume", "run": run, "key": key, "data": data}
            case "signal":
                return {"kind": "signal", "run": run, "name": key, "data": data}
            case _:
                return {"kind": "publish", "topic": key, "events": [{"data": data}]}

    def _send(self, command_id: str, command: dict[str, Json]) -> bool:
        """Give a command, once a life: the same id again and again, which is how an engine knows it."""
        if command_id in self._sent:
            return False
        self._sent.add(command_id)
        sent = self.loop.create_task(self.engine.execute(command_id, command))

        def done(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, PolosError):
                self.problems.append(f"the command {command} was refused: {error}")

        sent.add_done_callback(done)
        return True

    def _complain(self, _loop: object, context: dict[str, Any]) -> None:
        self.problems.append(f"on the loop: {context.get('message')}: {context.get('exception')!r}")

    # -------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Leave nothing behind: what is under way is gone, as if the process were."""
        loop, engine = self.loop, self.engine
        loop.set_exception_handler(lambda _loop, _context: None)
        loop.on_task = loop.on_job = self.code.on_turn = None
        tasks = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
        loop.drop_ready()  # a dead process calls nothing back
        processes = loop.processes()
        engine.stopping = True
        engine.broken = RuntimeError("this process is dead")
        self.points.dead = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nobody closes anything in a process that is killed
            for coroutine in [*self.orphans, *(task.get_coro() for task in tasks)]:
                # Whatever a `finally` raises, or awaits in vain, happens in a process that isn't there any more.
                with suppress(BaseException):
                    coroutine.close()
            tasks.clear()
            self.orphans.clear()
            self._disconnect(processes)
        for resident in list(engine.residents.values()):
            engine.discard(resident)
        self._clock.drop_alarms()
        engine.store.owner_engine = None
        loop.drop_ready()
        loop.close()

    def forget(self) -> None:
        """Let go of the engine, once nobody looks at it: what goes by itself no collector has to look for."""
        vars(self.engine).clear()  # its parts know it, as it knows them
        self.points.leaves = None

    def _disconnect(self, processes: Sequence[asyncio.SubprocessTransport]) -> None:
        """Close connections and end processes, as the system does for a process that is gone."""
        loop = self.loop
        loop.is_busy = None
        loop.end(processes)
        if not (processes or loop.has_opened):
            return
        for transport in (*processes, *loop.transports()):
            transport.close()
        loop.run_ready()
        for process in processes:
            begun = process.get_extra_info("subprocess")
            for pipe in (begun.stdin, begun.stdout, begun.stderr):
                if pipe is not None:
                    pipe.close()  # it died before the loop had it


def _asks_of_a_tool(waiting: Waiting) -> bool:
    """Tell whether it is asked what became of a call of a tool that is made at most once."""
    return (an_object(waiting.data) or {}).get("_source") == "tool_outcome_unknown"


def _answering(keys: tuple[str, ...], answers: Answers) -> str | None:
    """Find whose answer it is: that of one of the names itself, else that of the longest beginning with a star."""
    exact = next((key for key in keys if key in answers), None)
    if exact is not None:
        return exact
    begin = (one for one in answers if one.endswith("*") and any(key.startswith(one[:-1]) for key in keys))
    return max(begin, key=len, default=None)
