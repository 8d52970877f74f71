"""
When code asks for something else than what is recorded.

A misfit stops that run alone: nothing is lost, and it goes on when fitting code is there. The report
names the event, what is recorded, what the code asked for and the line that asked.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Final

from polos.engine.json import Json

__all__ = ["Divergence", "caller_line"]

_OWN = (
    "/polos/replay/",
    "/polos/testing/",
    "/polos/step.py",
    "/polos/waits.py",
    "/polos/children.py",
    "/polos/context.py",
    "/asyncio/",
)


_STATE_IS_GONE: Final = (
    "a completed step isn't called again, so what its function has changed of ctx.state is gone: let the step return "
    "it, and change the state in the body"
)


def caller_line() -> str:
    """Give file and line of the nearest frame that isn't polos's or asyncio's own."""
    here = inspect.currentframe()
    frame: FrameType | None = here.f_back if here is not None else None
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if frame.f_code.co_name == "activate" and name.endswith("/polos/replay/loop.py"):
            break  # below stands whoever runs the code, such as the line of a program that says asyncio.run
        if not any(part in name for part in _OWN):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


class Divergence(Exception):  # the term of the field
    """The code doesn't fit the run's history."""

    def __init__(
        self, *, cause: int, recorded: str | None, asked: str | None, line: str | None, python: str | None = None
    ) -> None:
        """
        Say what doesn't fit.

        Args:
            cause: version of the fact after which they part.
            recorded: the request in the log, None if there is none.
            asked: the request of the code, None if there is none.
            line: file and line that asked.
            python: the Python version that recorded, if it is another one.
        """
        text = f"after event {cause} the log has {recorded or 'no such request'}"
        text += f", the code asks for {asked or 'nothing'}"
        if line:
            text += f" at {line}"
        here = ".".join(map(str, sys.version_info[:3]))
        if python and python != here:
            text += f" (recorded on Python {python}, this is {here})"
        if asked is None and recorded is not None and recorded.startswith("StateChanged "):
            text += f"; {_STATE_IS_GONE}"
        super().__init__(text)
        self.report: dict[str, Json] = {
            "cause": cause,
            "recorded": recorded,
            "asked": asked,
            "line": line,
            "recorded_python": python,
            "python": here,
        }
