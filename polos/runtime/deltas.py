"""
What steps send while they run: deltas, for readers who don't want to wait for the result.

A delta goes two ways. It is *recorded*, in chunks: one commit for each token would cost more than the tokens. A chunk
is decided `CHUNK_SECONDS` after its first delta, or with the outcome of its step, in the same group, so that a reader
has every delta before it has the end. And it is *shown* at once, as a preview, to readers of this process: the one
thing that leaves before it is durable, and marked so. A preview is known by its run, its step and its number within
the step, which a later attempt goes on counting; when the chunk comes, a reader that has the preview gets no copy.

While a chunk is on its way to the disk the next one gathers, so a slow disk makes chunks larger, not more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from polos.data_class import dataclass
from polos.engine import commands as c
from polos.engine.json import Json

if TYPE_CHECKING:
    from polos.runtime.engine import Engine

__all__ = ["CHUNK_DELTAS_MAX", "CHUNK_SECONDS", "Deltas", "Preview", "Previews"]

CHUNK_SECONDS: Final = 0.05
CHUNK_DELTAS_MAX: Final = 2_000  # a record has room for 4,096 public events


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """
    A delta that isn't durable yet.

    Attributes:
        run: the run.
        step: the step's name.
        attempt: the attempt that sent it.
        index: its number within the step.
        delta: what was sent: `event_type`, and what else the reader is to see.
        time_us: when it was sent.
    """

    run: str
    step: str
    attempt: int
    index: int
    delta: dict[str, Json]
    time_us: int


@final
class Previews:
    """Who in this process wants to see deltas before they are durable."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._readers: dict[str, list[Callable[[Preview], None]]] = {}

    def subscribe(self, root: str, reader: Callable[[Preview], None]) -> Callable[[], None]:
        """
        Have a function called for each delta of a tree of runs, on the engine's loop.

        Args:
            root: the tree's root.
            reader: called with each.

        Returns:
            What ends it.
        """
        held = self._readers.setdefault(root, [])
        held.append(reader)

        def unsubscribe() -> None:
            if reader in held:
                held.remove(reader)
            if not held and self._readers.get(root) is held:
                del self._readers[root]

        return unsubscribe

    def show(self, root: str, preview: Preview) -> None:
        """Show a delta to those who read its tree."""
        for reader in tuple(self._readers.get(root, ())):
            reader(preview)


@final
class Deltas:
    """What one attempt of a step sends."""

    def __init__(self, engine: Engine, run: str, step: str, attempt: int) -> None:
        """
        Begin to take deltas.

        Args:
            engine: records and shows them.
            run: the run.
            step: the step's name.
            attempt: number of the attempt.
        """
        self._engine = engine
        self._run = run
        self._step = step
        self._attempt = attempt
        self._index: int | None = None  # of the next delta
        self._gathered: list[Json] = []
        self._under_way = False
        self._alarm: Any = None
        self._closed = False

    def send(self, event_type: str, data: dict[str, Json]) -> None:
        """
        Send one delta; from the engine's loop, or from the thread of a step.

        Args:
            event_type: what kind of event readers see.
            data: what it says; not changed any more.
        """
        delta: dict[str, Json] = {"event_type": event_type, **data}
        if self._on_loop():
            self._take(delta)
        else:
            self._engine.loop.call_soon_threadsafe(self._take, delta)

    def finish(self) -> None:
        """Have everything recorded that was sent: the outcome of the attempt comes next."""
        self._closed = True
        self._decide()

    def _take(self, delta: dict[str, Json]) -> None:
        if self._closed:
            return  # the attempt is over: nobody hears what its thread still says
        if self._index is None:
            self._index = self._sent_before()
        engine = self._engine
        resident = engine.residents.get(self._run)
        if resident is not None:
            preview = Preview(
                run=self._run, step=self._step, attempt=self._attempt, index=self._index,
                delta=delta, time_us=engine.now_us(),
            )  # fmt: skip
            engine.previews.show(resident.state.root, preview)
        self._index += 1
        self._gathered.append(delta)
        if not self._under_way:
            self._arm()

    def _on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._engine.loop
        except RuntimeError:  # a thread without a loop
            return False

    def _arm(self) -> None:
        if self._alarm is None:
            self._alarm = self._engine.clock.call_after(round(CHUNK_SECONDS * 1e6), self._decide)

    def _sent_before(self) -> int:
        """Tell how many deltas earlier attempts of the step have sent."""
        op = self._engine.loader.get(self._run).state.ops.get(self._step)
        return 0 if op is None else op.streamed

    def _decide(self) -> None:
        """Hand what has gathered to the engine."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        gathered, self._gathered = self._gathered, []
        for first in range(0, len(gathered), CHUNK_DELTAS_MAX):
            chunk = tuple(gathered[first : first + CHUNK_DELTAS_MAX])
            self._under_way = True
            command = c.AppendDeltas(name=self._step, attempt=self._attempt, deltas=chunk)
            self._engine.outcome(self._run, command, self._recorded)

    def _recorded(self, _told: object) -> None:
        self._under_way = False
        if self._gathered:
            self._arm()
