"""
Records what a program does to the files of a directory, in order, with the bytes.

A power cut leaves any mixture of what was written but not synced, so a test of it needs to know
which bytes went where and which syncs came between. The kernel's view is recorded, not the
program's: a write that goes through a C library, through `sendfile`, or from another thread is
there all the same.

Order is told by two numbers. An operation happened somewhere between its `began` and its `ended`,
both counted in events of the whole recording; operations are listed in the order they ended. A
sync covers a write for certain only if `write.ended < sync.began`, and a write may have reached
the disk at any moment from `began` on. With one thread the two numbers tell nothing new.

Not recorded, because no call shows it: stores to memory that is mapped shared and writable. They
may reach the disk at any time; `Map` says where to expect that, `SyncMap` gives what was there
when it was synced. Calls that failed had no effect and are left out, as are changes of mode, owner,
times and attributes, device files, and clones of files by `ioctl`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .changes import Change, Link, Reached, Rename, SyncAll
from .stepper import Mark, Stepper, StepperError, Syscall, one_cpu
from .watches import Watch, finish, watch

__all__ = ["FileOp", "Recording", "record"]


@dataclass(frozen=True, slots=True)
class FileOp:
    """One change and when it happened."""

    began: int
    ended: int
    process: int
    thread: int
    change: Change


@dataclass(frozen=True, slots=True)
class Recording:
    """What a program did; `unfinished` are changing calls that its end cut short."""

    ops: tuple[FileOp, ...]
    unfinished: tuple[Syscall, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes alone, in the order they ended."""
        return tuple(op.change for op in self.ops)


def record(program: Callable[[], object], *, under: Path) -> Recording:
    """
    Run a function in a traced child and give what it did to files under a directory.

    Raises:
        PtraceRefused: the kernel doesn't allow it.
        StepperError: the program failed.
    """
    ops: list[FileOp] = []
    under_way: dict[int, tuple[int, Syscall, Watch]] = {}
    root = os.path.realpath(under)
    with one_cpu(), Stepper.fork(program) as stepper:
        for moment, event in enumerate(stepper):
            if isinstance(event, Mark):
                ops.append(FileOp(moment, moment, event.process, event.thread, Reached(event.name, event.number)))
            elif not isinstance(event, Syscall):
                continue
            elif event.result is None:
                watching = watch(stepper, event)
                if watching is not None:
                    under_way[event.thread] = moment, event, watching
            elif event.thread in under_way:
                began, _, watching = under_way.pop(event.thread)
                ops += [
                    FileOp(began, moment, event.process, event.thread, change)
                    for change in finish(watching, event.result)
                    if _is_under(root, change)
                ]
    if stepper.exit_code != 0:
        raise StepperError(f"the recorded program ended with {stepper.exit_code}")
    return Recording(tuple(ops), tuple(call for _, call, _ in under_way.values()))


def _is_under(root: str, change: Change) -> bool:
    match change:
        case Rename() | Link():
            paths = [change.old, change.new]
        case SyncAll() | Reached():
            return True
        case _:
            paths = [change.path]
    return any(path == root or path.startswith(root + "/") for path in paths)
