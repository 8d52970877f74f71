"""
Kills a program before each of its system calls in turn.

The program runs once undisturbed to find its points: every call that changes files, and every
mark. Then, for each point, it runs again on a fresh copy of the same directory and is killed just
before it. Death before call *k* and death after call *k - 1* leave the same files, so "before
each" covers every gap; marks are points too, because "everything is done but nobody has been told"
is the state in which promises are broken.

A killed process takes nothing with it that it has handed to the kernel, so this says nothing of
power cuts (see `fileops`).

A program has to be the same each time: the calls that count must come in the same order. That is
checked in every run, because a program that drifts would be killed somewhere else than is
reported, or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from .children import in_child
from .stepper import Mark, Stepper, StepperError, Syscall, one_cpu
from .watches import may_change_files

__all__ = ["KillPoint", "any_call", "changes_files", "kill_points"]

_INWARD = frozenset({"brk", "futex", "madvise", "mmap", "mprotect", "mremap", "munmap", "sched_yield"})

Selector = Callable[[Syscall], bool]


@dataclass(frozen=True, slots=True)
class KillPoint:
    """
    Where a victim died and what it left.

    `before` is what it was about to do, None if it came to its end; `reached` are the marks it
    had passed; `directory` is removed when the next point is asked for.
    """

    number: int
    total: int
    before: Syscall | Mark | None
    reached: tuple[Mark, ...]
    directory: Path

    def numbers(self, name: str) -> list[int]:
        """Give the numbers of the marks of a name that were passed, in order."""
        return [mark.number for mark in self.reached if mark.name == name]

    def __str__(self) -> str:
        """Say it in a test's output."""
        passed = ", ".join(f"{mark.name} {mark.number}" for mark in self.reached)
        return f"killed before {_label(self.before)}, point {self.number} of {self.total}, after: {passed or 'no mark'}"


def changes_files(call: Syscall) -> bool:
    """Select calls that change files or sync them; nothing else survives the process."""
    return may_change_files(call)


def any_call(call: Syscall) -> bool:
    """
    Select every call a program makes of itself; for one that leaves something in shared memory.

    Left out are those that come when an allocator or a lock finds it fit, not at the same place each time.
    """
    return call.name not in _INWARD


def kill_points(
    program: Callable[[Path], object],
    where: Path,
    *,
    prepare: Callable[[Path], object] | None = None,
    selector: Selector = changes_files,
    begin: str | None = None,
    beside: Callable[[Path], AbstractContextManager[object]] | None = None,
) -> Iterator[KillPoint]:
    """
    Give every point at which a program can die, each with the directory its victim left.

    The last one given is the program that nobody killed. A point's directory is kept if the loop is
    left by an exception.

    Args:
        program: what runs in the victim; gets the directory to work in.
        where: an empty directory to make the victims' directories in.
        prepare: runs once, untraced, in a child; what it leaves is what every victim begins with.
        selector: tells which calls count; marks always do.
        begin: name of the mark with which counting begins; None for the program's first call.
        beside: entered for a victim's directory before the victim runs and left after its check, for
            what lives on beside it.

    Raises:
        PtraceRefused: the kernel doesn't allow it.
        StepperError: the program failed, had no points, or didn't do the same each time.
    """
    template = where / "template"
    template.mkdir(parents=True)
    if prepare is not None:
        in_child(lambda: prepare(template) and None)
    if beside is None:
        beside = nullcontext
    with _copy(template, where / "count") as directory, beside(directory):
        first = _victim(program, directory, selector, begin, None)
    expected = [_label(point) for point in first.points]
    total = len(expected)
    if first.exit_code != 0 or not expected:
        raise StepperError(f"the undisturbed program exited with {first.exit_code} and had {total} points")
    for number in [*range(total), None]:
        name = "unharmed" if number is None else f"victim-{number}"
        with _copy(template, where / name) as directory, beside(directory):
            victim = _victim(program, directory, selector, begin, number)
            seen, wanted = (
                [_label(point) for point in victim.points],
                expected[: None if number is None else number + 1],
            )
            if seen != wanted:
                raise StepperError(f"the program isn't the same each time: {seen} instead of {wanted}")
            before = None if number is None else victim.points[-1]
            yield KillPoint(total if number is None else number, total, before, victim.reached, directory)


@contextmanager
def _copy(template: Path, directory: Path) -> Generator[Path]:
    """Give a copy of a directory, removed at the end unless something went wrong with it."""
    shutil.copytree(template, directory, symlinks=True)
    yield directory
    shutil.rmtree(directory)


@dataclass(frozen=True, slots=True)
class _Victim:
    points: list[Syscall | Mark]
    reached: tuple[Mark, ...]
    exit_code: int | None


def _victim(
    program: Callable[[Path], object],
    directory: Path,
    selector: Selector,
    begin: str | None,
    kill_at: int | None,
) -> _Victim:
    points: list[Syscall | Mark] = []
    reached: list[Mark] = []
    counting = begin is None
    with one_cpu(), Stepper.fork(lambda: program(directory)) as stepper:
        for event in stepper:
            if isinstance(event, Mark) or (isinstance(event, Syscall) and event.entry and selector(event)):
                if counting:
                    points.append(event)
                if len(points) - 1 == kill_at:
                    stepper.kill()
                    break
            if isinstance(event, Mark):
                reached.append(event)
                counting = counting or event.name == begin
    return _Victim(points, tuple(reached), stepper.exit_code)


def _label(point: Syscall | Mark | None) -> str:
    match point:
        case None:
            return "nothing (it came to its end)"
        case Mark():
            return f"mark {point.name} {point.number}"
        case Syscall():
            return point.name
