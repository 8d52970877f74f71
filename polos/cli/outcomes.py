"""
How a command ends: its exit code, and what an error says.

Scripts rely on exit codes, so each means one thing and none is ever given another meaning. An error goes to standard
error, says what happened in the words of its exception, and ends with the command that helps next. Only errors that
polos raises on purpose are caught: anything else is a bug, and its traceback is what a report of it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import IntEnum

from polos.errors import (
    BlobMissing,
    ClientTimeout,
    CommandRefused,
    EngineNotRunning,
    NotAPolosStore,
    PolosError,
    PolosInternalError,
    PolosUsageError,
    StoreDamaged,
    StoreFormatTooNew,
    UnknownQueue,
    UnknownRun,
)

__all__ = ["BadCommandLine", "Exit", "outcome"]


class Exit(IntEnum):
    """What an exit code means."""

    OK = 0
    REFUSED = 1  # not found, or refused, or no engine for what can't wait for one; nothing was changed
    USAGE = 2  # the command line makes no sense
    DAMAGED = 3  # bytes on disk aren't what was written
    NO_ANSWER = 4  # the engine didn't answer; the command may still be carried out
    FAILED = 5  # the disk, the file system: the same may work later
    BUG = 70  # ours
    INTERRUPTED = 130


class BadCommandLine(Exception):  # a mistake in typing, which only the command line knows
    """The command line makes no sense."""

    def __init__(self, message: str, following: str = "polos --help") -> None:
        """Take what is wrong, and the command that says how it is right."""
        super().__init__(message)
        self.following = following


_NEXT: tuple[tuple[type[BaseException], str], ...] = (
    (NotAPolosStore, "polos --data-dir DIRECTORY"),
    (StoreFormatTooNew, "pip install --upgrade polos-engine"),
    (UnknownRun, "polos ls"),
    (UnknownQueue, "polos queues list"),
    (CommandRefused, "polos why RUN"),
    (EngineNotRunning, "polos running"),
    (ClientTimeout, "polos running"),
    (StoreDamaged, "polos verify"),
    (BlobMissing, "polos verify"),
    (PolosInternalError, "polos verify"),  # tells a bug from damage that nobody noticed
    (PolosError, "polos --help"),
)


def outcome(command: Callable[[], int], *, as_json: bool = False) -> int:
    """
    Carry out a command and give its exit code.

    Args:
        command: gives the code of a command that came to its end.
        as_json: whether an error is one JSON object.
    """
    try:
        code = command()
        sys.stdout.flush()
    except BadCommandLine as error:
        return _say(error, Exit.USAGE, error.following, as_json=as_json)
    except BrokenPipeError:
        # Who reads has seen enough (`polos ls | head`). Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except PolosError as error:
        following = next(text for kind, text in _NEXT if isinstance(error, kind))
        return _say(error, _code(error), following, as_json=as_json)
    return code


def _code(error: PolosError) -> Exit:
    match error:
        case StoreDamaged() | BlobMissing():
            return Exit.DAMAGED
        case ClientTimeout():
            return Exit.NO_ANSWER
        case PolosInternalError():
            return Exit.BUG
        case PolosUsageError():
            return Exit.REFUSED
        case _:
            return Exit.FAILED


def _say(error: BaseException, code: Exit, following: str, *, as_json: bool) -> int:
    message = str(error)
    if as_json:
        import orjson

        said = {"error": type(error).__name__, "message": message, "exit_code": code, "next": following}
        sys.stderr.write(orjson.dumps(said).decode() + "\n")
    else:
        from polos.cli.printing import plain

        # What was typed wrongly is in the message, and it may be anything.
        lines = "\n".join(plain(line) for line in message.split("\n"))
        sys.stderr.write(f"polos: {lines}\nnext: {plain(following)}\n")
    return code
