"""
The commands and what they take; what they do is in the modules beside.

`polos` alone is `polos running`. It is not the default command of the parser, because then a mistyped command would be
taken for its argument, and nobody would be told which one was meant.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from cyclopts import App, CycloptsError, Parameter

import polos
from polos.cli.options import Name, Options, Runs, parse_value
from polos.cli.outcomes import BadCommandLine

__all__ = ["app", "execute"]

_ABOUT_POLOS: Final = frozenset({"--help", "-h", "--version"})

# Data may begin with a minus: `polos signal RUN temperature -5`.
Value = Annotated[str | None, Parameter(allow_leading_hyphen=True)]

app = App(
    name="polos",
    help="Look into a polos data directory, and talk to the engine on it. Alone: what is running.",
    version=polos.__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
_PLAIN: Final = Options()
_ALL: Final = Runs()


def execute(arguments: list[str]) -> int:
    """
    Carry out a command line and give its exit code.

    Raises:
        BadCommandLine: it makes no sense.
        PolosError: the command failed.
    """
    arguments = _command_first(arguments)
    try:
        code: Any = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = arguments[0] if arguments[0] in app else None
        raise BadCommandLine(str(error).strip(), f"polos {command} --help" if command else "polos --help") from None
    return code if isinstance(code, int) else 0


def _command_first(arguments: list[str]) -> list[str]:
    """Put what every command takes behind the command: `polos --data-dir DIRECTORY ls` means what it says."""
    leading, rest = list[str](), list(arguments)
    while rest and rest[0].startswith("-"):
        leading.append(rest.pop(0))
        if leading[-1] == "--data-dir" and rest:
            leading.append(rest.pop(0))
    if not rest and not _ABOUT_POLOS & set(leading):
        rest = ["running"]
    return [*rest, *leading]


@app.command
def running(*, options: Options = _PLAIN) -> None:
    """Show who runs here, how many runs there are, and which are alive."""
    from polos.cli.reading import show_running

    show_running(options)


@app.command
def ls(
    *, runs: Runs = _ALL, count: bool = False, limit: int = 50, cursor: str | None = None, options: Options = _PLAIN
) -> None:
    """
    List runs, the newest first, or count them.

    Args:
        runs: which.
        count: print how many there are of each status, and no list.
        limit: how many.
        cursor: where the list before ended.
        options: what every command takes.
    """
    from polos.cli.reading import count_runs, list_runs

    if count:
        count_runs(options, runs)
    else:
        list_runs(options, runs, limit=limit, cursor=cursor)


@app.command
def show(run: str, /, *, full: bool = False, options: Options = _PLAIN) -> None:
    """
    Show a run: its tree, its timeline, what went in and what came out.

    Args:
        run: its id, or the beginning or end of it.
        full: cut nothing.
        options: what every command takes.
    """
    from polos.cli.reading import show_run

    show_run(options, run, full=full)


@app.command
def why(run: str, /, *, options: Options = _PLAIN) -> None:
    """
    Tell what a run waits for, and what would move it on.

    Args:
        run: its id, or the beginning or end of it.
        options: what every command takes.
    """
    from polos.cli.reading import tell_why

    tell_why(options, run)


@app.command
def tail(
    run: str | None = None,
    /,
    *,
    all: bool = False,
    after: int | None = None,
    from_start: bool = False,
    full: bool = False,
    options: Options = _PLAIN,
) -> None:
    """
    Follow what happens to a run and its children until it ends, or to all runs and topics for ever.

    Args:
        run: its id, or the beginning or end of it.
        all: follow everything.
        after: go on behind this sequence id.
        from_start: begin with what has happened already; else with what happens from now on.
        full: cut nothing.
        options: what every command takes.
    """
    from polos.cli.tailing import tail as follow

    if all == (run is not None):
        raise BadCommandLine("tail follows one run or --all", "polos tail --help")
    if from_start and after is not None:
        raise BadCommandLine("tail begins --from-start or --after an event, not both", "polos tail --help")
    follow(options, run, after=0 if from_start else after, full=full)


@app.command
def signal(run: str, name: str, data: Value = None, /, *, options: Options = _PLAIN) -> None:
    """
    Send a signal to a run.

    Args:
        run: its id, or the beginning or end of it.
        name: what the code waits for.
        data: JSON, or else text.
        options: what every command takes.
    """
    from polos.cli.acting import act

    act(options, run, {"kind": "signal", "name": name, "data": parse_value(data)}, f"the signal {name} is sent")


@app.command
def resume(run: str, key: str, data: Value = None, /, *, all: bool = False, options: Options = _PLAIN) -> None:
    """
    Answer a suspend.

    Args:
        run: the suspended run, or the root of its tree; its id, or the beginning or end of it.
        key: what it was suspended with; without `#n` the oldest open wait of that key.
        data: the answer: JSON, or else text.
        all: answer every open wait of that key in the tree.
        options: what every command takes.
    """
    from polos.cli.acting import resume_run

    resume_run(options, run, key, parse_value(data), everywhere=all)


@app.command
def cancel(
    run: str | None = None, /, *, runs: Runs = _ALL, yes: bool = False, reason: str | None = None,
    by: str | None = None, options: Options = _PLAIN,
) -> int:  # fmt: skip
    """
    Ask a run to stop and clean up (once more forces it), or all runs that are found.

    Args:
        run: its id, or the beginning or end of it; left out if many are meant.
        runs: which, if many are meant.
        yes: do it to many; without, only their number is told.
        reason: why; recorded.
        by: who says so; recorded. Else $USER.
        options: what every command takes.
    """
    from polos.cli.acting import cancel_run, who
    from polos.cli.many import cancel_runs

    if _one(run, runs, "cancel") is not None:
        cancel_run(options, str(run), by=by or who(), reason=reason)
        return 0
    return cancel_runs(options, runs, by=by or who(), reason=reason, yes=yes)


@app.command
def retry(
    run: str | None = None, /, *, runs: Runs = _ALL, yes: bool = False, children: bool = False,
    reason: str | None = None, by: str | None = None, options: Options = _PLAIN,
) -> int:  # fmt: skip
    """
    Let a run that failed or was cancelled go on from where it failed, or all that are found and failed.

    Args:
        run: its id, or the beginning or end of it; left out if many are meant.
        runs: which, if many are meant; those that failed, if no status is given.
        yes: do it to many; without, only their number is told.
        children: of many, retry children, too, whose parents take them up otherwise.
        reason: why; recorded.
        by: who says so; recorded. Else $USER.
        options: what every command takes.
    """
    from polos.cli.acting import act, who
    from polos.cli.many import retry_runs

    if _one(run, runs, "retry") is not None:
        command: dict[str, Any] = {"kind": "retry", "by": by or who(), "reason": reason}
        act(options, str(run), command, "it goes on from where it failed")
        return 0
    return retry_runs(options, runs, by=by or who(), reason=reason, yes=yes, children=children)


def _one(run: str | None, runs: Runs, command: str) -> str | None:
    """
    Tell which run is meant, None if many are.

    Raises:
        BadCommandLine: one and many are meant, or nobody.
    """
    if (run is None) == runs.is_empty:
        raise BadCommandLine(f"{command} takes one run, or --status, --workflow and so on", f"polos {command} --help")
    return run


@app.command
def resolve(
    run: str,
    step: str,
    outcome: Literal["completed", "failed", "not_done"],
    /,
    *,
    value: Value = None,
    message: str | None = None,
    by: str | None = None,
    options: Options = _PLAIN,
) -> None:
    """
    Say what became of a step of unknown outcome.

    Args:
        run: its id, or the beginning or end of it.
        step: the step's name.
        outcome: what became of it; `not_done` has it called again.
        value: its result, if it completed: JSON, or else text.
        message: what went wrong, if it failed.
        by: who says so; recorded. Else $USER.
        options: what every command takes.
    """
    from polos.cli.acting import act, who

    command: dict[str, Any] = {"kind": "resolve", "step": step, "outcome": outcome, "by": by or who()}
    act(options, run, {**command, "value": parse_value(value), "message": message}, f"the step {step} is {outcome}")


@app.command
def readmit(run: str, /, *, by: str | None = None, options: Options = _PLAIN) -> None:
    """
    Let a run go on that was set aside: it diverged, or its code kept killing the process.

    Args:
        run: its id, or the beginning or end of it.
        by: who says so; recorded. Else $USER.
        options: what every command takes.
    """
    from polos.cli.acting import act, who

    act(options, run, {"kind": "readmit", "by": by or who()}, "it is let in again")


@app.command
def drain(*, seconds: float = 60.0, options: Options = _PLAIN) -> None:
    """
    Have the engine begin nothing any more, let what is under way come to rest, and stop.

    Args:
        seconds: after which it stops all the same.
        options: what every command takes.
    """
    from polos.cli.acting import drain_engine

    drain_engine(options, seconds)


@app.command
def verify(*, options: Options = _PLAIN) -> int:
    """Check every record, the chain, every row and every blob, and say where the first damage is."""
    from polos.cli.acting import check_store

    return check_store(options)


@app.command
def backup(target: str, /, *, options: Options = _PLAIN) -> None:
    """
    Copy the data directory while an engine may be at work on it.

    Args:
        target: a directory that is empty or doesn't exist.
        options: what every command takes.
    """
    from polos.cli.acting import back_up

    back_up(options, target)


test = App(name="test", help="What the test kit takes from a data directory.", default_parameter=app.default_parameter)
app.command(test)


@test.command
def record(
    run: str, /, *, out: Value = None, tree: bool = False, shared: bool = False, options: Options = _PLAIN
) -> None:
    """
    Write a run to a file, for `polos.testing.assert_replays`: everything the log has of it, and nothing else.

    Args:
        run: its id, or the beginning or end of it.
        out: the file; `-` prints it. Else WORKFLOW-END_OF_ID.json in the working directory.
        tree: take the runs below it as a whole, too, so that their code is compared.
        shared: let others than yourself read the file.
        options: what every command takes.
    """
    from polos.cli.recording import write_recording

    write_recording(options, run, out=out, tree=tree, shared=shared)


schedules = App(name="schedules", help="Runs by the clock.", default_parameter=app.default_parameter)
app.command(schedules)


@schedules.command(name="list")
def list_schedules(*, workflow: Name | None = None, options: Options = _PLAIN) -> None:
    """
    List schedules, with when they come round next.

    Args:
        workflow: only those of this workflow.
        options: what every command takes.
    """
    from polos.cli.planning import list_schedules as print_list

    print_list(options, workflow)


@schedules.command(name="show")
def show_schedule(schedule: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Show a schedule: when, by which clock, what comes next, what is under way.

    Args:
        schedule: its id, `workflow:key`.
        options: what every command takes.
    """
    from polos.cli.planning import show_schedule as print_one

    print_one(options, schedule)


@schedules.command(name="pause")
def pause_schedule(schedule: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Let nothing come of a schedule for now.

    Args:
        schedule: its id, `workflow:key`.
        options: what every command takes.
    """
    from polos.cli.planning import change_schedule

    change_schedule(options, schedule, "pause")


@schedules.command(name="resume")
def resume_schedule(schedule: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Let a schedule go on; what came meanwhile is recorded as skipped.

    Args:
        schedule: its id, `workflow:key`.
        options: what every command takes.
    """
    from polos.cli.planning import change_schedule

    change_schedule(options, schedule, "resume")


@schedules.command(name="delete")
def delete_schedule(schedule: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Delete a schedule; its runs stay.

    Args:
        schedule: its id, `workflow:key`.
        options: what every command takes.
    """
    from polos.cli.planning import change_schedule

    change_schedule(options, schedule, "delete")


@schedules.command(name="trigger")
def trigger_schedule(schedule: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Create a run now, as if it was time.

    Args:
        schedule: its id, `workflow:key`.
        options: what every command takes.
    """
    from polos.cli.planning import change_schedule

    change_schedule(options, schedule, "trigger")


queues = App(name="queues", help="Who waits for their turn.", default_parameter=app.default_parameter)
app.command(queues)


@queues.command(name="list")
def list_queues(*, options: Options = _PLAIN) -> None:
    """
    List queues, with their limits and how many runs wait to begin.

    Args:
        options: what every command takes.
    """
    from polos.cli.planning import list_queues as print_list

    print_list(options)


@queues.command(name="pause")
def pause_queue(queue: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Let nothing new begin in a queue; what was begun goes on.

    Args:
        queue: its name.
        options: what every command takes.
    """
    from polos.cli.planning import change_queue

    change_queue(options, queue, paused=True)


@queues.command(name="resume")
def resume_queue(queue: Name, /, *, options: Options = _PLAIN) -> None:
    """
    Let a queue go on.

    Args:
        queue: its name.
        options: what every command takes.
    """
    from polos.cli.planning import change_queue

    change_queue(options, queue, paused=False)
