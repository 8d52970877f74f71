"""
Crashing a workflow at every point, and looking whether anybody can tell.

One undisturbed run says which points there are and what is right. Then each point is a scenario: a new log, a new
outside world, a life that dies there (or what it would leave, if the caller says that this is all), and lives that go
on with what the log has, to the end. Whoever looks from outside must find what the undisturbed run left: results,
errors, states, children, rows that are the fold of the log, a history that replays, and no call of an effect more than
its class allows. Pairs of crashes are tried by a budget, the second at a point of the recovery from the first.

Most scenarios are lived in this process, where one takes milliseconds. But what one process remembers it can't forget:
the order of its sets, its modules' variables, its caches. So a share of them is lived in child processes that are
killed, see `sweep_processes`.

A sweep runs on a thread of its own, since engines in it need a loop of their own and the program's is running; one at a
time, since the points of `polos.points` are the process's.

```python run
import asyncio
import polos
from polos.testing import Outside, crash_sweep

bank = Outside("bank")

async def charge(cents: int) -> str:
    bank.note("charged", cents=cents)
    return "paid"

@polos.workflow(id="pay")
async def pay(ctx, payload: dict) -> str:
    return await ctx.step.run("charge", charge, payload["cents"], effect="at_most_once")

def look_it_up(waiting):  # what becomes of a step of unknown outcome
    return polos.Completed("paid") if bank.count("charged") else polos.NotDone()

def check(outcome) -> None:
    assert bank.count("charged") == 1

async def main() -> None:
    report = await crash_sweep(pay, {"cents": 100}, check=check, answers={"charge": look_it_up}, processes=0)
    print(len(report.points) > 10, report.singles == len(report.points))

asyncio.run(main())
```
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from polos.definition import Workflow
from polos.errors import PolosUsageError
from polos.testing.outside import Place
from polos.testing.patience import PATIENCE_SECONDS, Patience, beside
from polos.testing.sweep_course import swept
from polos.testing.sweep_report import CrashReport
from polos.testing.sweep_scenario import SWEEPING
from polos.testing.sweep_template import is_serving
from polos.testing.sweep_wanted import PAIRS, PROCESSES, Check, Setup, Wanted

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["crash_sweep", "sweep"]

__tracebackhide__ = True  # pytest shows the test's own lines, and the page


async def crash_sweep(
    workflow: Workflow[Any], input: object = None, *, check: Check | None = None, setup: Setup | None = None,
    answers: Mapping[str, Any] | None = None, workflows: Sequence[Workflow[Any]] = (), real: bool = False,
    processes: float = PROCESSES, pairs: int = PAIRS, points: int | None = None, every_point: bool = False,
    from_remains: bool | None = None, seed: int = 0, same: Callable[[Any, Any], object] | None = None,
    patience_seconds: float = PATIENCE_SECONDS, downtime_seconds: float = 0,
    initial_state: BaseModel | dict[str, Any] | None = None,
) -> CrashReport:  # fmt: skip
    """
    Crash a workflow at every point, recover it, and compare with a run that nothing disturbed.

    An example stands at `CrashReport`.

    Args:
        workflow: the workflow.
        input: its payload; for an agent, what it is asked: text, or items of a conversation.
        check: called with a `CrashOutcome` after each scenario; what it raises is a failure of that scenario. Without
            one the run has to complete.
        setup: called with the scenario's directory when a life begins, in the process of that life: opens files, makes
            fakes anew. What steps act upon belongs into that directory, or into an `Outside`.
        answers: what suspends, signals, events and steps of unknown outcome are answered, by the key of the suspend,
            the name of the signal or step, or the topic; `"approve_pay_*"` is for all that begin so and have no answer
            of their own. A callable is called with a `Waiting`. A key that nothing has asked for when every point was
            tried is refused.
        workflows: others that it starts, if they aren't registered, and those whose triggers are to fire.
        real: live every scenario in child processes, on a data directory, with SIGKILL.
        processes: share of the points that are lived so otherwise, and one at least; 0 for none.
        pairs: how many pairs of crashes are tried.
        points: how many different points are tried at most; None for all. Of more, one at which an effect has happened
            and isn't recorded for each function of a step comes first, and what else is drawn by the seed.
        every_point: live each point by itself in this process, too, instead of one for all that leave the same behind
            (in child processes that is always so).
        from_remains: begin the scenarios in this process with what another run left at their point, instead of living
            up to it each time, in about half the time. It is for programs that keep nothing in memory that matters
            after a crash, nor anywhere else but in the directory that `setup` gets, and in an `Outside`. None does so
            if the program's code can reach nothing that could keep anything; `CrashReport.memory` says if it can.
        seed: from which everything is drawn.
        same: tells whether two results are the same, given the one found and the undisturbed one; ``==`` otherwise.
        patience_seconds: how long a life may take, in real time, and each call of `setup` and `check` in this process.
        downtime_seconds: how much virtual time passes after each crash before somebody recovers from it. By default a
            recovery begins at the moment of the crash, so nothing is overdue in it that wasn't.
        initial_state: what `ctx.state` begins with.

    Returns:
        What was done.

    Raises:
        CrashSweepFailed: a crash can be told from outside, or the run doesn't end well without one.
        PolosUsageError: it can't be lived in another process, is begun by code of another sweep, or nothing asks for
            a key of `answers`.
        TypeError, ValueError: an argument makes no sense.
    """
    wanted = Wanted(
        workflow=workflow, input=input, check=check, setup=setup, answers=answers or {},
        workflows=tuple(workflows), real=real, processes=processes, pairs=pairs, points=points,
        every_point=every_point, from_remains=from_remains, seed=seed, same=same, patience_seconds=patience_seconds,
        downtime_seconds=downtime_seconds, initial_state=initial_state,
    )  # fmt: skip
    _look(wanted)
    return await _beside(wanted)


def _look(wanted: Wanted) -> None:
    """Refuse what makes no sense, before anything is begun, or what would wait for itself."""
    if SWEEPING.is_mine or (is_serving() and Place.current is not None):
        raise PolosUsageError(
            "this sweep is begun by code that another sweep calls: a step, a body, setup, check, same or an answer; "
            "it would wait for that one to end, which waits for it. Sweep in the test itself, one after the other"
        )
    wanted.look()


async def _beside(wanted: Wanted) -> CrashReport:
    """Sweep on a thread; the loop that is running goes on meanwhile."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[CrashReport] = loop.create_future()
    stop = threading.Event()

    def settle(report: CrashReport | None, error: BaseException | None) -> None:
        if not done.done():
            if error is not None:
                done.set_exception(error)
            else:
                assert report is not None, "a sweep gives a report or an error"
                done.set_result(report)

    def work() -> None:
        report, error = None, None
        try:
            report = _sweep(wanted, stop)
        except BaseException as raised:  # noqa: BLE001  # whoever awaits gets it
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, report, error)

    threading.Thread(target=work, name="polos-sweep-watch", daemon=True).start()
    try:
        return await done
    finally:
        stop.set()


def _sweep(wanted: Wanted, stop: threading.Event) -> CrashReport:
    """Sweep on a thread, and watch over it from this one, also when nobody waits for the sweep any more."""
    patience = Patience(wanted.patience_seconds)
    return beside(lambda: contextvars.Context().run(swept, wanted, stop, patience), patience, name="polos-sweep")


_OPTIONS: Final = tuple(field.name for field in fields(Wanted) if field.name not in ("workflow", "input"))


def sweep(workflow: Workflow[Any], input: object = None, **options: Any) -> CrashReport:
    """Do what `crash_sweep` does, for a test that isn't asynchronous; takes the same and blocks."""
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"a sweep has no {name!r}; it has {', '.join(_OPTIONS)}")
    options["answers"] = options.get("answers") or {}
    wanted = Wanted(workflow=workflow, input=input, **options)
    _look(wanted)
    found: list[CrashReport | BaseException] = []
    done, stop = threading.Event(), threading.Event()

    def work() -> None:
        try:
            found.append(_sweep(wanted, stop))
        except BaseException as raised:  # noqa: BLE001  # raised again below
            found.append(raised)
        done.set()

    # Not on the caller's thread: it may have a loop running, and may be taken away from here by a signal.
    threading.Thread(target=work, name="polos-sweep-watch", daemon=True).start()
    try:
        done.wait()
    finally:
        stop.set()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
