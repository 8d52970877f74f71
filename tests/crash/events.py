"""
What a traced program is seen to do, and how it tells where it is.

Apart from the stepper because victims need `mark` and readers of recordings the types, but neither
needs to trace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["AT_FDCWD", "MARK_PATH", "Event", "Exited", "Mark", "Started", "Syscall", "mark", "signed"]

AT_FDCWD = -100  # in place of a descriptor: the working directory
MARK_PATH = "/.polos-mark/"


@dataclass(frozen=True, slots=True)
class Syscall:
    """
    A thread at the entry (`result` is None) or the exit of a system call.

    `args` are the six raw arguments, unsigned; `result` is a negative errno if the call failed.
    """

    process: int
    thread: int
    number: int
    name: str
    args: tuple[int, ...]
    result: int | None = None

    @property
    def entry(self) -> bool:
        """Whether the call is still to be made."""
        return self.result is None


@dataclass(frozen=True, slots=True)
class Mark:
    """A thread says where it is; see `mark`."""

    process: int
    thread: int
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Started:
    """A thread was seen for the first time; it is a new process if `process` equals `thread`."""

    process: int
    thread: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone; `code` is its exit code, or a negative signal number."""

    process: int
    code: int


Event = Syscall | Mark | Started | Exited


def mark(name: str, number: int = 0) -> None:
    """Tell the stepper, if there is one, that the calling thread has come this far."""
    os.access(f"{MARK_PATH}{name}/{number}", os.F_OK)


def signed(value: int, bits: int = 64) -> int:
    """Read a raw argument as a signed number; descriptors have 32 bits, offsets 64."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
