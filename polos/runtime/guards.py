"""Whose code is on the loop: the poison marker and the watchdog, put together for an engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from polos.engine import commands as c
from polos.runtime.crowd import CROWD_FILE
from polos.runtime.marker import Marker
from polos.runtime.unit import Unit, Work
from polos.runtime.watchdog import Blocked, Watchdog

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["guards"]

_log = logging.getLogger("polos")


def _blocked(_blocked: Blocked) -> None:
    """The watchdog has logged the stack already; there is nothing to add."""


def guards(engine: Engine, data_dir: Path) -> None:
    """
    Watch over an engine's activations.

    A run whose code was on the loop when the process died `poisoned_after` times in a row is set aside
    before it is run again.
    """
    marker = Marker(data_dir / "on_loop")
    engine.marks.append(marker)
    engine.marks.append(Watchdog(_blocked))
    engine.crowd.open(data_dir / CROWD_FILE)
    previous = marker.previous()
    if previous is None:
        return
    run, deaths = previous
    if deaths < engine.settings.poisoned_after:
        return
    message = f"its code was on the loop when the process died, {deaths} times in a row"
    _log.error("run %s is set aside: %s", run, message)
    engine.poisoned.add(run)

    def apply(unit: Unit) -> None:
        resident = engine.loader.find(run)
        if resident is not None:
            engine.decide_on(unit, resident, c.SetAside(reason="poisoned", message=message))

    engine.post(Work(apply, done=lambda _reply: engine.poisoned.discard(run)))
