"""Answers that come from outside a run: a person's to a suspend, a program's to a step of unknown outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Completed", "NotDone", "Reconciled", "ResumeEvent", "StillUnknown"]


class ResumeEvent(dict[str, Any]):
    """
    The answer to a suspend, readable both as an object and as a dict.

    Programs use both forms: `answer.data` and `answer["data"]`, `answer.get("data", {})`.

    ```python run
    from polos.types import ResumeEvent

    answer = ResumeEvent(
        data={"approved": True}, sequence_id=4096, topic="workflow/order/1", event_type="resume_approval",
        id="7", created_at="2026-01-01T00:00:00+00:00",
    )
    print(answer.data["approved"], answer["data"]["approved"], answer.get("data", {})["approved"])
    ```

    Attributes:
        data: what the answer says.
        sequence_id: its place in the log.
        topic: topic of the run's tree.
        event_type: ``resume_`` and the step's key.
        id: id of the resume; the same resume is answered once.
        created_at: when it was given, RFC 3339.
    """

    data: Any
    sequence_id: int
    topic: str
    event_type: str
    id: str | None
    created_at: str

    def __init__(
        self, *, data: Any, sequence_id: int, topic: str, event_type: str, id: str | None, created_at: str
    ) -> None:
        """Take the parts; they are items of the dict, and attributes are only another way to read them."""
        super().__init__(
            sequence_id=sequence_id, topic=topic, event_type=event_type, data=data, id=id, created_at=created_at
        )

    def __getattr__(self, name: str) -> Any:
        # Only for names that aren't found otherwise, so the methods of dict stay what they are.
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a resume has no {name!r}; it has {', '.join(self)}") from None


@dataclass(frozen=True, slots=True)
class Completed:
    """
    The answer of a `reconcile` function: the step's effect has happened.

    ```python run
    import asyncio, tempfile
    from polos import Completed, NotDone, Polos, workflow

    charges = {}

    async def charge(cents: int) -> str:
        charges["order 7"] = cents
        await asyncio.Event().wait()  # the answer never comes

    def look(cents: int) -> Completed | NotDone:
        return Completed("charged") if charges.get("order 7") == cents else NotDone()

    @workflow
    async def pay(ctx):
        return await ctx.step.run(
            "charge", charge, 990, effect="at_most_once", timeout_seconds=0.01, reconcile=look
        )

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                print(await pay.run(polos))

    asyncio.run(main())
    ```

    Attributes:
        value: what the step is to give back.
    """

    value: Any = None


@dataclass(frozen=True, slots=True)
class NotDone:
    """
    The answer of a `reconcile` function: the step's effect has not happened, and it may be called again.

    An example stands at `Completed`.
    """


@dataclass(frozen=True, slots=True)
class StillUnknown:
    """
    The answer of a `reconcile` function: nobody can tell yet; a person will have to say.

    `polos.PolosClient.resolve` says it. An example of a `reconcile` function stands at `Completed`.
    """


Reconciled = Completed | NotDone | StillUnknown
