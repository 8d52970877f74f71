"""
A driver that takes notes.

It runs code as the engine's own does. Beside that it keeps each request with the recorded one that it matched, and who
asked. `play` is the forgiving way through a history: the engine stops a run at the first misfit, because it would lose
what follows; a test wants to see the second and the third misfit, too. So a request is matched wherever it stands in
the recording, an answer that nobody waits for yet is kept until somebody does, and code that asks for what isn't
recorded waits for ever, while what runs beside it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from polos.engine import events as e
from polos.replay.divergence import caller_line
from polos.replay.driver import Driver
from polos.replay.facts import Fact, StepCall
from polos.replay.requests import name_of
from polos.testing.patience import is_polos

__all__ = ["HeedingDriver", "Match", "NotingDriver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """
    A request of the code.

    Attributes:
        recorded: the recorded one that it matched; None if there is none.
        asked: the request itself.
        cause: version of the fact on which the code asked.
        fact_us: the time by the code's clock then.
        seen: how many facts the code had been given by `play` then.
        line: file and line.
        call: a step's function and arguments.
        spec: what a child would be created with.
    """

    recorded: e.Event | None
    asked: e.Event
    cause: int
    fact_us: int
    seen: int
    line: str | None
    call: StepCall | None = None
    spec: e.RunCreated | None = None


def _kinds(event: e.Event) -> tuple[str, str]:
    return type(event).__name__, "ResultReused"


# Facts that aren't the answer to a request: the code gets them wherever it stands.
_UNASKED = (e.RunStarted, e.CancelRequested, e.CancelForced, e.UpdateReceived)


class HeedingDriver(Driver):
    """
    The engine's driver, which can be asked by `on_match` with what the request at hand is made.

    Attributes:
        call: a step's function and arguments, if it is a step.
        spec: what a child would be created with, if it is a child run.
    """

    call: StepCall | None = None
    spec: e.RunCreated | None = None

    async def ask(self, event: e.Event, *, spec: e.RunCreated | None = None, call: StepCall | None = None) -> Fact:
        """Ask, and heed with what."""
        self.call, self.spec = call, spec  # read before anything else can run: asking begins at once
        return await super().ask(event, spec=spec, call=call)

    async def tell(self, event: e.Event, *, spec: e.RunCreated | None = None) -> e.Event:
        """Tell, and heed with what."""
        self.call, self.spec = None, spec
        return await super().tell(event, spec=spec)

    def made_with(self, asked: e.Event) -> tuple[StepCall | None, e.RunCreated | None]:
        """Give both, for the request at hand; one that the code makes by itself, such as of its state, has neither."""
        return (
            self.call if isinstance(asked, e.StepScheduled) else None,
            self.spec if isinstance(asked, e.ChildStarted) else None,
        )


@final
class NotingDriver(HeedingDriver):
    """The engine's driver, with notes."""

    _forgiving = False

    def __init__(self, **settings: Any) -> None:
        """Take what every driver takes; nothing is noted yet."""
        super().__init__(**settings)
        self.matches: list[Match] = []
        self.given: list[int] = []  # versions of the facts that `play` has given to the code
        self.on_match = self._matched

    async def tell(self, event: e.Event, *, spec: e.RunCreated | None = None) -> e.Event:
        """Tell; what isn't recorded needn't be, to go on."""
        self.call, self.spec = None, spec
        if self._forgiving and not any(self._expected.get((kind, name_of(event))) for kind in _kinds(event)):
            self._request(event, spec)
            return event  # what needs no answer needn't be recorded to go on
        return await super().tell(event, spec=spec)

    def play(self, facts: list[Fact], requests: list[e.Event]) -> list[e.Event]:
        """
        Run the code through a history as far as it goes.

        Args:
            facts: of one attempt, in order; its `RunStarted` first.
            requests: what the attempt asked for, in order.

        Returns:
            The requests that the code didn't make.
        """
        self._forgiving = True
        kept: dict[str, list[Fact]] = {}
        left = requests
        for fact in facts:
            if not isinstance(fact.event, _UNASKED):
                kept.setdefault(name_of(fact.event), []).append(fact)
                wanted = self._wanted(kept)
            else:
                wanted = fact
            while wanted is not None and self.outcome is None:
                left = self._give(wanted, left)
                wanted = self._wanted(kept)
        return left

    def waits_for(self, name: str) -> bool:
        """Tell whether the code waits for the answer to a request of that name."""
        return name in self.pending or name in self._timers

    def _wanted(self, kept: dict[str, list[Fact]]) -> Fact | None:
        """Take out the oldest answer that the code waits for."""
        found = [facts[0] for name, facts in kept.items() if facts and self.waits_for(name)]
        if not found:
            return None
        oldest = min(found, key=lambda fact: fact.version)
        kept[name_of(oldest.event)].remove(oldest)
        return oldest

    def _give(self, fact: Fact, requests: Iterable[e.Event]) -> list[e.Event]:
        # Requests without a name match in order, so those that belong here come first.
        here = sorted(requests, key=lambda event: getattr(event, "cause", 0) != fact.version)
        self.given.append(fact.version)
        self.activate(fact, recorded=here)
        return [event for events in self._expected.values() for event in events]

    # ------------------------------------------------------------------------------------ what the engine's does

    def _matched(self, recorded: e.Event, asked: e.Event) -> None:
        line = None if isinstance(asked, e.StateChanged) else caller_line()  # noticed when the code is quiet
        # The body of an agent is polos's own, and none of its lines has changed.
        self._note(recorded, asked, None if line is None or line == "unknown" or is_polos(line) else line)

    def _note(self, recorded: e.Event | None, asked: e.Event, line: str | None) -> None:
        call, spec = self.made_with(asked)
        self.matches.append(
            Match(
                recorded=recorded,
                asked=asked,
                cause=self.cause,
                fact_us=self.fact_us,
                seen=len(self.given),
                line=line,
                call=call,
                spec=spec,
            )
        )

    def _settle(self) -> list[object]:  # type: ignore[override]  # an activation of a replay gives nothing back
        if not self._forgiving:
            return super()._settle()  # type: ignore[return-value]  # as above
        asked, self._asked = self._asked, []
        for item in asked:
            if item.line != "matched" and not self._is_answered(item.request.event):
                self._note(None, item.request.event, item.line)
        return []

    def end(self) -> e.Event | None:
        """Give what the code's end would be recorded as; None if it hasn't ended."""
        if self.outcome is None:
            return None
        assert self._finish is not None, "bind comes first"
        return self._finish(self.outcome, self.cause).event
