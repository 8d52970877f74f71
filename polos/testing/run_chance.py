"""
Chance in the lives of a sweep.

What is drawn in bodies (``ctx.step.uuid``, ``ctx.step.random``) is drawn from a seed, for the value by its name and for
the run by where it stands: a run that is crashed and recovered gets the values that the undisturbed one got, or the two
couldn't be compared, and of two branches that go on side by side either may be first. Direct bodies draw by count, and
so do ids of runs, which are no part of what is compared. Retry delays have no chance in them for the same reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, TypeGuard, final

from polos.engine import events as e
from polos.engine.state import RunState
from polos.replay.driver import Driver
from polos.testing.audit import Audit
from polos.testing.sweep_paths import is_triggered, published_by

__all__ = ["NamingDriver", "RunChance"]

_TIME_LENGTH: Final = len("019b76da-a800-7000-")  # of an id: when it was made; what follows was drawn


@final
class RunChance:
    """
    Draws for the run whose code is on the loop; a mark of the engine says which one that is.

    Attributes:
        visits: how often a run's code has been on the loop.
        value: name of the value that is drawn next; "" if nobody knows.
        find: gives the state of a run in memory, which may not be durable yet.
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
        self.value = ""
        self.find: Callable[[str], RunState | None] = audit.states.get
        self._run: str | None = None
        self._counts: dict[tuple[str, str], int] = {}
        self._names: dict[str, str] = {}

    def enter(self, run: str, at: int) -> None:  # noqa: ARG002  # the signature of a mark
        """Draw for this run from now on."""
        self._run = run

    def leave(self) -> None:
        """Draw for no run."""
        self._run, self.value = None, ""
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
        value, self.value = self.value, ""
        if self._run is None:
            drawn = f"triggers/{kind}/{self._count('', kind)}"
        elif value:
            drawn = f"{self._name(self._run)}/{kind}/{value}"
        else:
            drawn = f"{self._name(self._run)}/{kind}/{self._count(self._run, kind)}"
        digest = hashlib.blake2b(f"{self._seed}/{drawn}".encode(), digest_size=16)
        return int.from_bytes(digest.digest(), "big")

    def _count(self, run: str, kind: str) -> int:
        """Count what was drawn for a run, "" for triggers, and let it be one more."""
        count = self._counts.get((run, kind))
        if count is None and run:
            # A direct body that is called once more records once more what it has.
            count = len({event.name for event, _, _ in self._audit.histories.get(run, ()) if _drew(event, kind)})
        elif count is None:
            count = sum(is_triggered(state) for state in self._audit.states.values())
        self._counts[run, kind] = count + 1
        return count

    def _name(self, run: str) -> str:
        """Give what a run is called in each scenario: one that is started later has another id, and is the same."""
        chain: list[tuple[str, str]] = []  # of runs that start each other, which may be long
        while run not in self._names:
            before, how = self._start(run)
            chain.append((run, how))
            if before is None:
                break
            run = before
        name = self._names.get(run, "")
        for one, how in reversed(chain):
            name = self._names[one] = hashlib.blake2b(f"{name}{how}".encode(), digest_size=16).hexdigest()
        return name

    def _start(self, run: str) -> tuple[str | None, str]:
        """Give the run that started one, and how; of one that nobody's body started what was drawn for its id."""
        state = self._audit.states.get(run) or self.find(run)
        if state is not None and state.continues is not None:
            return state.continues, "»"
        if state is not None and state.parent is not None:
            return state.parent, f"/{state.step}"
        if state is not None and is_triggered(state):
            found = published_by(self._audit, state)
            if found is not None:
                return found[0], f"/{found[1]}→{state.workflow}"
        return None, run[_TIME_LENGTH:]


class NamingDriver(Driver):
    """The engine's driver, which says what a value is called that is about to be drawn."""

    __slots__ = ("_chance",)

    def __init__(self, *, chance: RunChance, **options: Any) -> None:
        """
        Begin an attempt.

        Args:
            chance: what is drawn from.
            **options: as for `Driver`.
        """
        super().__init__(**options)
        self._chance = chance

    def name(self, key: str | None, fallback: str) -> str:
        """Give a request its name, and say it."""
        self._chance.value = name = super().name(key, fallback)
        return name

    def new_run_id(self) -> str:
        """Make the id of a child, by count: drawn once more it could be what the child of another run was given."""
        self._chance.value = ""
        return super().new_run_id()


def _drew(event: e.Event, kind: str) -> TypeGuard[e.ValueRecorded | e.ChildStarted]:
    if isinstance(event, e.ValueRecorded):
        return event.kind == ("random" if kind == "random" else "uuid")
    return kind == "bits" and isinstance(event, e.ChildStarted)
