"""What the shell needs of a run's code, whichever way that code is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from polos.engine import events as e
from polos.engine.commands import Request
from polos.replay.facts import Fact, Outcome, Pending

__all__ = ["RunCode"]


class RunCode(Protocol):
    """
    The code of one attempt of a run.

    `Driver` runs it deterministically and may be handed facts before they are durable; `DirectCode`
    lets it do I/O and hands it nothing that isn't.
    """

    direct: bool
    pending: dict[str, Pending]
    outcome: Outcome | None

    def activate(self, fact: Fact, *, recorded: Sequence[e.Event] | None = None) -> list[Request]:
        """Run the code on one fact and give what it asked for."""
        ...

    def discard(self) -> None:
        """Take the code out of memory."""
        ...

    def query(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call a function registered by `ctx.on_query`."""
        ...

    def has_update(self, name: str) -> bool:
        """Tell whether there is a handler for this update."""
        ...

    def validate_update(self, name: str, data: Any) -> None:
        """Let the validator look at an update."""
        ...
