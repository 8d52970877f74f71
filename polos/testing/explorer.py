"""
A world in which everything that could come next waits for its turn.

A test says what is under way: which runs are started, what clients send, what may happen and what may not. The world
plays it. At each point it lists what could happen now (`Course`), has one of these things chosen, lets it happen, lets
the engine come to rest, and looks again, until nothing is left. What could happen is what the engine can't foresee:
that a commit ends, a function ends or fails, a command arrives, an alarm rings, time passes, an idle run is evicted,
the process dies. Everything else follows from it, so one list of choices is one course of events.

At the end, and in part at each commit and each call, the engine's promises are looked at, whatever the test asks:
the rows are the fold of the log, every run's history replays, no step is called after it has ended, every command has
its answer. A run that waits for what can't come any more is an error, unless the test says that it may.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast, final

from polos.definition import Workflow
from polos.engine import events as e
from polos.engine.json import Json
from polos.engine.state import ENDED
from polos.reasons import Reason, why
from polos.registry import get_all_workflows, get_workflow
from polos.runtime.reads import run_state
from polos.runtime.settings import Settings
from polos.testing.asked import look_at_agent, payload_for
from polos.testing.courses import Course, Disturbances
from polos.testing.explored import Happened, Outcome, Sent
from polos.testing.gates import Gates
from polos.testing.patience import Frames
from polos.testing.replays import check_replay
from polos.testing.schedules import Chooser, Option
from polos.testing.simulation import QUIET, Call, Simulation

__all__ = ["ExploredRun", "ExploredWorld"]

__tracebackhide__ = True  # pytest shows the test's own lines

# Of these kinds of reasons the text is what is waited for; of others it is a sentence.
_WAITED_FOR: Final = ("timer", "suspend", "signal", "topic", "child")

STATUSES: Final[dict[type[e.Event], str]] = {
    e.RunCompleted: "completed",
    e.RunFailed: "failed",
    e.RunCancelled: "cancelled",
}


@final
@dataclass(slots=True, eq=False)
class ExploredRun:
    """
    A run that the test starts. An example stands at `ExploredWorld`.

    Attributes:
        id: its id.
        started: the command that asks for it.
    """

    id: str
    started: Sent
    _world: ExploredWorld

    @property
    def outcome(self) -> Outcome:
        """What has become of it so far."""
        return self._world.outcome_of(self.id)


@final
class ExploredWorld:
    """
    What a test of `explore` describes, and lets play.

    ```python run
    from polos import WorkflowContext, workflow
    from polos.testing import ExploredWorld, explore

    @workflow(id="explored_hello")
    async def hello(ctx: WorkflowContext, payload: dict) -> str:
        return f"Hello, {await ctx.step.wait_for_signal('name')}!"

    @explore(runs=20, workflows=[hello])
    def test_hello(world: ExploredWorld) -> None:
        run = world.start(hello, {})
        world.signal(run, "name", "Ada")
        assert world.finish().result == "Hello, Ada!"

    test_hello()
    ```

    Attributes:
        happened: what has happened, in order.
        finished: whether everything that was described has been played; if not when the test ends, it is played then.
        runs: the runs that were started, in order.
    """

    def __init__(
        self,
        chooser: Chooser,
        *,
        workflows: Iterable[Workflow[Any]] | None = None,
        disturbances: Disturbances = Disturbances(),  # noqa: B008  # it is frozen
        points_max: int = 2_000,
        settings: Settings = QUIET,
    ) -> None:
        """
        Make a world with an engine on an empty store.

        Args:
            chooser: says what comes next.
            workflows: what the engine knows, and nothing else; None for all that are registered.
            disturbances: how many there may be.
            points_max: after so many things it is an error that it isn't over.
            settings: of the engine.
        """
        known = list(get_all_workflows().values() if workflows is None else workflows)
        self.happened: list[Happened] = []
        self.finished = False
        self._course = Course(known, disturbances, settings)
        self._chooser = chooser
        self._points_max = points_max
        self._began_us = self.sim.clock.monotonic_us()
        self.runs: list[ExploredRun] = []

    @property
    def sim(self) -> Simulation:
        """The engine's world, for whoever wants to look closer."""
        return self._course.sim

    @property
    def steps(self) -> tuple[set[str], set[str]]:
        """Names of the steps that were called, and of those of which was said that they may fail."""
        return self._course.called, self._course.may_fail_steps

    @property
    def gates(self) -> Gates:
        """What is held back in it."""
        return self._course.gates

    def close(self) -> None:
        """Leave nothing behind."""
        self.sim.crash()

    def under_way(self) -> tuple[str, Frames]:
        """Say whose code is being run; for another thread, while that doesn't come back."""
        return self.sim.under_way()

    # ------------------------------------------------------------------------------------ describing

    def start(
        self, workflow: Workflow[Any], payload: Any = None, *, after: Sent | None = None, **options: Any
    ) -> ExploredRun:
        """
        Have a client start a run.

        Args:
            workflow: the workflow.
            payload: its input; for an agent, what it is asked.
            after: a command that must have been answered before; without, it is started at any moment.
            options: `session`, `user`, `initial_state`, `seconds` until it is cancelled, `tags`.

        Raises:
            TypeError: the body is a plain function, or an agent isn't given what it is asked.
        """
        look_at_agent(workflow)
        if not workflow.is_async:
            raise TypeError(
                f"the body of workflow {workflow.id!r} is a plain function, which needs a thread of its own"
            )
        call = self.sim.draft_run(workflow, payload_for(workflow, payload), **options)
        label = f"start {self._course.name(call.run, workflow.id)}"
        run = ExploredRun(call.run, self._add(label, call, after=after), self)
        self.runs.append(run)
        return run

    def signal(self, run: ExploredRun, name: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """Have a client send a signal to a run, at any moment once it exists."""
        return self._tell(run, "signal", repr(name), after=after, name=name, data=data)

    def may_signal(self, run: ExploredRun, name: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """As `signal`, or not at all."""
        return self._tell(run, "signal", repr(name), after=after, sure=False, name=name, data=data)

    def resume(self, run: ExploredRun, key: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """Have a client answer a suspend of a run, at any moment once it exists, also before it is asked."""
        return self._tell(run, "resume", repr(key), after=after, key=key, data=data)

    def may_resume(self, run: ExploredRun, key: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """As `resume`, or not at all."""
        return self._tell(run, "resume", repr(key), after=after, sure=False, key=key, data=data)

    def cancel(self, run: ExploredRun, *, after: Sent | None = None) -> Sent:
        """Have a client cancel a run, at any moment once it exists."""
        return self._tell(run, "cancel", "", after=after)

    def may_cancel(self, run: ExploredRun, *, after: Sent | None = None) -> Sent:
        """As `cancel`, or not at all."""
        return self._tell(run, "cancel", "", after=after, sure=False)

    def update(self, run: ExploredRun, name: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """Have a client send an update to a run, at any moment once it exists."""
        return self._tell(run, "update", repr(name), after=after, name=name, data=data)

    def may_update(self, run: ExploredRun, name: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """As `update`, or not at all."""
        return self._tell(run, "update", repr(name), after=after, sure=False, name=name, data=data)

    def publish(self, topic: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """Have a client publish an event, at any moment."""
        call = self.sim.draft("publish", topic=topic, events=[{"data": data}])
        return self._add(f"publish {topic!r}", call, after=after)

    def may_publish(self, topic: str, data: Json = None, *, after: Sent | None = None) -> Sent:
        """As `publish`, or not at all."""
        call = self.sim.draft("publish", topic=topic, events=[{"data": data}])
        return self._add(f"publish {topic!r}", call, after=after, sure=False)

    def answer(self, key: str, data: Json = None) -> None:
        """Have every suspend of this key answered, of whichever run, at any moment after it is asked."""
        self._course.answer(key, data)

    def may_fail(self, step: str, error: Exception, *, times: int = 1) -> None:
        """
        Let calls of a step fail: instead of the call, or after its effect.

        Args:
            step: its name or key. If no step of that name is called in any of the schedules, `explore` says so.
            error: what is raised.
            times: how often at most.
        """
        self._course.may_fail(step, error, times)

    def _tell(
        self, run: ExploredRun, kind: str, what: str, *, after: Sent | None, sure: bool = True, **fields: Json
    ) -> Sent:
        if not isinstance(cast("object", run), ExploredRun):
            raise TypeError(f"{kind} is sent to a run, which is what world.start(...) gave; this is {run!r}")
        label = f"{kind} {self._course.name(run.id)} {what}".rstrip()
        call: Call = self.sim.draft(kind, run=run.id, **fields)
        return self._add(label, call, after=after or run.started, sure=sure)

    def _add(self, label: str, call: Call, *, after: Sent | None, sure: bool = True) -> Sent:
        if after is not None and not isinstance(cast("object", after), Sent):
            raise TypeError(f"after is what was sent before, as world.signal(...) and the like give; it is {after!r}")
        self.finished = False  # what is described behind a `finish` is played by the next one
        return self._course.add(label, call, after=after, sure=sure)

    # --------------------------------------------------------------------------------------- playing

    def finish(self, *, may_wait: bool = False) -> Outcome:
        """
        Play until nothing can happen any more, and look at everything that must hold.

        Args:
            may_wait: whether runs may be left that wait for what nobody sends.

        Returns:
            What became of the first run that was started.

        Raises:
            AssertionError: a promise is broken, a run waits for ever, or it never comes to an end.
        """
        self.finished = True
        while self._step():
            if len(self.happened) > self._points_max:
                plan = self.sim.plan
                why = f"; the log has refused the last {plan.refused} appends, by order: {plan}" if plan.refused else ""
                raise AssertionError(f"it isn't over after {self._points_max} things have happened (points_max){why}")
        self._look(may_wait=may_wait)
        return self.runs[0].outcome if self.runs else Outcome(run="", status="absent")

    def _step(self) -> bool:
        """Let one thing happen; tells whether there is more."""
        course = self._course
        usual = course.usual()
        options = usual or [Option("nothing more happens", "end", _nothing)]
        options = [*options, *course.possible(), *course.disturbing(usual)]
        index = self._chooser.choose(options)
        option = options[index]
        seconds = (self.sim.clock.monotonic_us() - self._began_us) / 1e6
        self.happened.append(Happened(seconds=seconds, label=option.label, departs=index > 0))
        option.happen()
        return option.happen is not _nothing

    # --------------------------------------------------------------------------------------- looking

    def _look(self, *, may_wait: bool) -> None:
        audit, commands = self.sim.audit, self._course.sent
        diverged = [event.message for event in audit.diverged]
        assert not diverged, f"code doesn't fit its own history: {diverged}"
        unanswered = [(sent.label, sent.call.error) for sent in commands if sent.sent and not sent.answered]
        assert not unanswered, f"clients wait for ever for the outcome of: {unanswered}"
        audit.check_rows()
        for run in audit.states:
            audit.check_folding(run, looks=0)
            check_replay(self.sim, run)
        if not may_wait:
            waiting = [self._sentence(run) for run in audit.living()]
            assert not waiting, "nothing can happen any more, and " + "; ".join(waiting)

    def _sentence(self, run: str) -> str:
        """Say of a run that lives on what it waits for, or else how it is about it."""
        reasons = self._reasons(run)
        if isinstance(reasons, str):
            return f"{self._course.name(run)} is {reasons}"
        waits = [reason.text for reason in reasons if reason.kind in _WAITED_FOR]
        others = [self._text(run, reason) for reason in reasons if reason.kind not in _WAITED_FOR]
        said = f"waits for {'; '.join(waits)}" if waits else "doesn't go on"
        return f"{self._course.name(run)} {': '.join([said, *others])}"

    def _reason(self, run: str) -> str:
        reasons = self._reasons(run)
        return reasons if isinstance(reasons, str) else "; ".join(self._text(run, reason) for reason in reasons)

    def _reasons(self, run: str) -> list[Reason] | str:
        """Give why a run isn't over, or its status if nothing says so."""
        with self.sim.store.log.reader() as reader:
            found = why(reader, run, owner=None, now_us=self.sim.clock.now_us())
        return [reason for reason in found.reasons if reason.kind != "no_engine"] or found.status

    def _text(self, run: str, reason: Reason) -> str:
        workflow = self.sim.audit.states[run].workflow
        if reason.kind != "no_code" or get_workflow(workflow) is None:
            return reason.text
        return f"workflow {workflow!r} isn't among the `workflows` of this exploration, so its engine doesn't know it"

    def outcome_of(self, run: str) -> Outcome:
        """Tell what has become of a run so far, or of the one that goes on for it."""
        audit = self.sim.audit
        state = audit.states.get(run)
        if state is None:
            return Outcome(run=run, status="absent")
        end = audit.end_of(run)
        if isinstance(end, e.RunContinued):
            return self.outcome_of(end.successor)
        with self.sim.store.log.reader() as reader:
            last = run_state(reader, run)
        failure = end.error if isinstance(end, e.RunFailed) else None
        return Outcome(
            run=run,
            status="waiting" if end is None else STATUSES[type(end)],
            result=end.result if isinstance(end, e.RunCompleted) else None,
            error=None if failure is None else f"{failure.type}: {failure.message}",
            state=last,
            calls={name: count for (of, name), count in self.gates.counts.items() if of == run},
            waits_for=self._reason(run) if state.phase not in ENDED else None,
        )


def _nothing() -> None:
    """Let nothing more happen."""
