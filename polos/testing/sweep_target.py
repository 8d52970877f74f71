"""
The name of a scenario, by which a failure says how it is played once more.

It is typed into a shell and read by another process, in which the same test may sweep several workflows, or one with
several inputs. So it names the sweep, too, by the workflow and a digest of what its run is created with, and a sweep
that isn't meant tries nothing. That is only right as long as another one is meant: a variable that was left in a shell,
or a command that is older than the code, would make all sweeps pass with nothing done. Which sweeps there will be
nobody knows before the last one, so who saw which is kept until the end of the session, and a session in which none was
meant fails (`Sought`); without pytest and its plugin that is the end of the process.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import re
import sys
from dataclasses import dataclass, field
from typing import Final, final

from polos.errors import PolosUsageError
from polos.testing.lives import Task
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_report import POINT_VARIABLE

__all__ = ["SOUGHT", "Sought", "Targets", "none_is_it", "parse_target"]

__tracebackhide__ = True  # pytest shows the test's own lines, and what to do

_TARGET: Final = re.compile(r".+@[0-9a-f]{6}/.+", re.DOTALL)


@final
@dataclass(slots=True)
class Sought:
    """
    What became of a value of the variable in this process.

    Attributes:
        names: of the sweeps that it doesn't name.
        found: whether there was one that it names.
        told: whether somebody says at the end that there was none.
    """

    names: list[str] = field(default_factory=list[str])
    found: bool = False
    told: bool = False


SOUGHT: Final[dict[str, Sought]] = {}  # by value


def none_is_it(wanted: str, names: list[str]) -> str:
    """
    Say that no sweep is the one that is wanted.

    Args:
        wanted: value of the variable.
        names: of all sweeps that there were.
    """
    were = f"they were {', '.join(sorted(set(names)))}" if names else "there was none"
    return (
        f"{POINT_VARIABLE}={wanted} is of no sweep of this session ({were}), so no crash was tried. A name has a "
        f"digest of the input, seed and settings in it: if one of those has changed, unset {POINT_VARIABLE}, run the "
        f"test, and take the command that it prints now."
    )


def _fails_unless_found() -> None:
    """Have a program fail, at its end, that has tried nothing."""
    wanted = os.environ.get(POINT_VARIABLE, "")
    sought = SOUGHT.get(wanted)
    if sought is None or sought.found or sought.told:
        return
    sys.stderr.write(f"{none_is_it(wanted, sought.names)}\n")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # nothing else that is done at the end can change how a process has ended


@final
class Targets:
    """Names the scenarios of one sweep."""

    def __init__(self, workflow: str, task: Task, downtime_us: int = 0) -> None:
        """Take the id of the workflow, what all lives have in common, and how long it is from one to the next."""
        self._workflow = workflow
        self._downtime_us = downtime_us
        self._task = task

    def _name(self) -> str:
        """Tell this sweep from others of the same test."""
        created = json.dumps(self._task.command, sort_keys=True, default=str)
        created += f" {self._downtime_us}" if self._downtime_us else ""
        return f"{self._workflow}@{hashlib.sha256(created.encode()).hexdigest()[:6]}"

    def of(self, points: tuple[CrashPoint, ...], *, real: bool = False) -> str:
        """Name the scenario that crashes at these; `real` if it does in child processes."""
        return f"{self._name()}/{'real/' if real else ''}{'+'.join(map(str, points))}"

    def wanted(self) -> str | None:
        """
        Give the one scenario that is wanted; "" if it is another sweep's, None if all are.

        Raises:
            PolosUsageError: what is wanted can't be one.
        """
        wanted = os.environ.get(POINT_VARIABLE)
        if not wanted:
            return None
        if not _TARGET.fullmatch(wanted):
            raise PolosUsageError(
                f"{POINT_VARIABLE} is what the command of a failure sets, like pay@1f0c2a/before_append:3, and it is "
                f"{wanted!r}; unset it to try everything"
            )
        if not SOUGHT:
            atexit.register(_fails_unless_found)
        sought = SOUGHT.setdefault(wanted, Sought())
        name = self._name()
        if wanted.startswith(f"{name}/"):  # an id may hold a slash itself
            sought.found = True
            return wanted.removeprefix(f"{name}/")
        sought.names.append(name)
        return ""


def parse_target(target: str) -> tuple[bool, tuple[CrashPoint, ...]]:
    """Read what `Targets.wanted` gave: whether it is in child processes, and the points."""
    real = target.startswith("real/")
    points = target.removeprefix("real/").split("+")
    return real, tuple(CrashPoint.parse(point) for point in points)
