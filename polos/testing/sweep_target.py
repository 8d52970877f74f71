"""
The name of a scenario, by which a failure says how it is played once more.

It is typed into a shell and read by another process, in which the same test may sweep several workflows, or one with
several inputs. So it names the sweep, too, by the workflow and a digest of what its run is created with, and a sweep
that isn't meant tries nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import final

from polos.testing.lives import Task
from polos.testing.sweep_points import CrashPoint
from polos.testing.sweep_report import POINT_VARIABLE

__all__ = ["Targets", "parse_target"]


@final
class Targets:
    """Names the scenarios of one sweep."""

    def __init__(self, workflow: str, task: Task) -> None:
        """Take the id of the workflow, and what all lives have in common."""
        self._workflow = workflow
        self._task = task

    def _name(self) -> str:
        """Tell this sweep from others of the same test."""
        created = json.dumps(self._task.command, sort_keys=True, default=str)
        return f"{self._workflow}@{hashlib.sha256(created.encode()).hexdigest()[:6]}"

    def of(self, points: tuple[CrashPoint, ...], *, real: bool = False) -> str:
        """Name the scenario that crashes at these; `real` if it does in child processes."""
        return f"{self._name()}/{'real/' if real else ''}{'+'.join(map(str, points))}"

    def wanted(self) -> str | None:
        """Give the one scenario that is wanted; "" if it is another sweep's, None if all are."""
        wanted = os.environ.get(POINT_VARIABLE)
        if not wanted:
            return None
        name = f"{self._name()}/"  # an id may hold a slash itself
        return wanted.removeprefix(name) if wanted.startswith(name) else ""


def parse_target(target: str) -> tuple[bool, tuple[CrashPoint, ...]]:
    """Read what `Targets.wanted` gave: whether it is in child processes, and the points."""
    real = target.startswith("real/")
    points = target.removeprefix("real/").split("+")
    return real, tuple(CrashPoint.parse(point) for point in points)
