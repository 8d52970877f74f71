"""
What a test of `explore` gets to hold: what it sent, what became of runs, and what happened on the way.

Plain data. A `Sent` and an `Outcome` say what a client could know; an explored test that looks further than that looks
into the world's `sim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from polos.testing.simulation import Call

__all__ = ["Happened", "Outcome", "Sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """
    One thing that happened.

    Attributes:
        seconds: when, on the virtual clock.
        label: what.
        departs: whether something else would have been the natural course.
    """

    seconds: float
    label: str
    departs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What became of a run. An example stands at `ExploredWorld`.

    Attributes:
        run: its id; that of its last successor.
        status: "completed", "failed", "cancelled", "waiting", or "absent" if it was never created.
        result: what it returned, as JSON.
        error: what it failed with, `type: message`.
        state: its `ctx.state`, as JSON.
        calls: how often the function of each step was called, by the step's name.
        waits_for: what it waits for, if it does.
    """

    run: str
    status: str
    result: Any = None
    error: str | None = None
    state: Any = None
    calls: Mapping[str, int] = field(default_factory=dict[str, int])
    waits_for: str | None = None


@final
@dataclass(slots=True, eq=False)
class Sent:
    """
    A command of a client, sent or not yet. An example stands at `ExploredWorld`.

    Attributes:
        label: what it asks for, in words.
        sure: whether it is sent in any case.
        after: what must have been answered before.
        call: the command, and what became of it.
        sent: whether it was sent.
        by_inbox: whether it was put into the inbox, as another process does, instead of handed to the engine.
    """

    label: str
    call: Call
    sure: bool = True
    after: Sent | None = None
    sent: bool = False
    by_inbox: bool = False

    @property
    def outcome(self) -> str | None:
        """What the engine answered: "accepted", "existing", "published", "answered", "refused"; None for nothing."""
        if not self.call.decided:
            return None
        return "refused" if self.call.reply is None else str(self.call.reply.get("outcome"))

    @property
    def refusal(self) -> str | None:
        """What it was refused with."""
        return str(self.call.error) if self.outcome == "refused" else None

    @property
    def answered(self) -> bool:
        """Whether its client knows what became of it."""
        return self.call.decided

    @property
    def possible(self) -> bool:
        """Whether it can be sent for the first time."""
        return not self.sent and (self.after is None or self.after.answered)
