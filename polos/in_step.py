"""
What the function of a step can use of `ctx.step`.

The other methods ask for something that is recorded in the order of the history, and are for bodies. These two ask
for nothing: the key only says which step this is, and a delta is told to readers and makes no difference to the run.
"""

from __future__ import annotations

from typing import Any

from polos.calls import text
from polos.context import current_attempt, current_step
from polos.errors import PolosUsageError
from polos.values import encode

__all__ = ["InStep"]


class InStep:
    """The part of `ctx.step` that is for the functions of steps."""

    @property
    def idempotency_key(self) -> str:
        """
        The key of the step that is being performed: the same each time it is called, unlike any other step's.

        To be handed to services that recognise a request that they have seen. For the function of a step.

        Raises:
            PolosUsageError: no step is being performed here.
        """
        key = current_step.get()
        if key is None:
            raise PolosUsageError("ctx.step.idempotency_key is for the function of a step; no step is performed here")
        return key

    def emit(self, event_type: str, data: Any = None) -> None:
        """
        Send a delta to the readers of the run's stream, before the step returns. For the function of a step.

        Readers in this process see it at once, marked as a preview; all others when the chunk it belongs to is
        recorded. An attempt that follows a failed one counts on, so it should say so itself, by a delta of its own.

        ```python run
        import polos

        def summarise(ctx, lines: list[str]) -> int:
            for number, line in enumerate(lines):
                ctx.step.emit("progress", {"done": number + 1})
            return len(lines)

        @polos.workflow(id="summarise")
        async def summary(ctx, payload: dict):
            return await ctx.step.run("summarise", summarise, ctx, payload["lines"])
        ```

        Args:
            event_type: what kind of event readers see.
            data: what it says; a dict or a model.

        Durable:
            about 50 ms later, and always before the step's outcome.

        Raises:
            PolosUsageError: no step is being performed here.
            ValueRefused: the data can't be recorded.
        """
        attempt = current_attempt.get()
        if attempt is None:
            raise PolosUsageError("ctx.step.emit is for the function of a step; no step is performed here")
        text("event_type", event_type)
        shown = encode({} if data is None else data, what=f"data of the delta {event_type!r}")[0].value
        if not isinstance(shown, dict):
            raise TypeError(f"data of the delta {event_type!r} must be a dict or a model, it is {data!r}")
        attempt.send(event_type, shown)
