"""
Chance in the lives of a sweep.

All that is drawn in bodies (ids of children, ``ctx.step.uuid``, ``ctx.step.random``) is drawn for the run and by count,
from a seed: a run that is crashed and recovered gets the values that the undisturbed one got, or the two couldn't be
compared. Ids of runs that nobody's body starts, but an event, are drawn by the count of such runs. Retry
delays have no chance in them for the same reason.
"""

from __future__ import annotations

import hashlib
from typing import Final, final

from polos.engine import events as e
from polos.engine.projections import TRIGGER_PREFIX
from polos.testing.audit import Audit

__all__ = ["RunChance"]

_TIME_LENGTH: Final = len("019b76da-a800-7000-")  # of an id: when it was made; what follows was drawn


@final
class RunChance:
    """
    Draws for the run whose code is on the loop, by count; a mark of the engine says which one that is.

    Attributes:
        visits: how often a run's code has been on the loop.
    """

    def __init__(self, seed: int, audit: Audit) -> None:
        """
        Draw from a seed.

        Args:
            seed: of the sweep.
            audit: says how much a run had drawn before, and how many runs triggers had made.
        """
        self._seed = seed
        self._audit = audit
        self.visits = 0
        self._run: str | None = None
        self._counts: dict[tuple[str, str], int] = {}

    def enter(self, run: str, at: int) -> None:  # noqa: ARG002  # the signature of a mark
        """Draw for this run from now on."""
        self._run = run

    def leave(self) -> None:
        """Draw for no run."""
        self._run = None
        self.visits += 1

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def random(self) -> float:
        """A float in [0, 1); outside of runs, where only delays are drawn, always the same."""
        return 0.5 if self._run is None else self._draw("random") / 2**128

    def getrandbits(self, k: int, /) -> int:
        """A number of so many bits, at most 128."""
        return self._draw("bits") >> (128 - k)

    def _draw(self, kind: str) -> int:
        who = self._run or "triggers"
        count = self._counts.get((who, kind))
        if count is None and self._run is None:
            count = sum((state.origin or "").startswith(TRIGGER_PREFIX) for state in self._audit.states.values())
        elif count is None:
            count = sum(_drew(event, kind) for event, _, _ in self._audit.histories.get(who, ()))
        self._counts[who, kind] = count + 1
        drawn = who if self._run is None else who[_TIME_LENGTH:]  # what is started later is the same run
        digest = hashlib.blake2b(f"{self._seed}/{drawn}/{kind}/{count}".encode(), digest_size=16)
        return int.from_bytes(digest.digest(), "big")


def _drew(event: e.Event, kind: str) -> bool:
    if isinstance(event, e.ValueRecorded):
        return event.kind == ("random" if kind == "random" else "uuid")
    return kind == "bits" and isinstance(event, e.ChildStarted)
