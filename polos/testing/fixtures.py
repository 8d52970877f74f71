"""
The fixtures of the pytest plugin.

Each is small and asks for the others, so a test overrides what it wants to differ: a `polos_settings` of its own in a
module or a conftest changes the engine of both `polos` and `polos_lmdb`. What they are made of is imported when a test
asks for them, because everybody who loads the plugin would wait for it. `polos` isn't started: the test says
``async with polos:`` on whatever loop it runs, with `asyncio.run` or any plugin for async tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from polos import Polos
    from polos.store.faults import FaultPlan
    from polos.testing.capture import CapturedEvents
    from polos.testing.jumping import Hanging, JumpingClock

__all__ = ["polos", "polos_clock", "polos_events", "polos_faults", "polos_hanging", "polos_lmdb", "polos_settings"]


@pytest.fixture
def polos_clock() -> JumpingClock:
    """A virtual clock that jumps to the next timer when nothing else can happen; it begins with the year 2026."""
    from polos.testing.jumping import JumpingClock

    return JumpingClock()


@pytest.fixture
def polos_events() -> CapturedEvents:
    """What becomes durable, decoded, in order."""
    from polos.testing.capture import CapturedEvents

    return CapturedEvents()


@pytest.fixture
def polos_faults() -> FaultPlan:
    """Says at which append the log is full, slow, or fails; without a word from the test it works."""
    from polos.store.faults import FaultPlan

    return FaultPlan()


@pytest.fixture
def polos_hanging(polos_clock: JumpingClock) -> Hanging:
    """A function for steps that doesn't come back."""
    from polos.testing.jumping import Hanging

    return Hanging(polos_clock)


@pytest.fixture
def polos_settings() -> dict[str, Any]:
    """Settings of the engine, by the names of `polos.runtime.settings.Settings`; none unless a test overrides it."""
    return {}


@pytest.fixture
def polos(
    tmp_path: Path,
    polos_clock: JumpingClock,
    polos_events: CapturedEvents,
    polos_faults: FaultPlan,
    polos_settings: dict[str, Any],
) -> Polos:
    """A `Polos` on a log in memory; not started."""
    from polos.testing.engines import polos_in_memory

    return polos_in_memory(
        polos_clock, place=tmp_path / "in memory", events=polos_events, faults=polos_faults, settings=polos_settings
    )


@pytest.fixture
def polos_lmdb(
    tmp_path: Path,
    polos_clock: JumpingClock,
    polos_events: CapturedEvents,
    polos_faults: FaultPlan,
    polos_settings: dict[str, Any],
) -> Polos:
    """A `Polos` on a directory of its own, with LMDB below; not started."""
    from polos.testing.engines import polos_on_disk

    return polos_on_disk(
        polos_clock, place=tmp_path / "lmdb", events=polos_events, faults=polos_faults, settings=polos_settings
    )
