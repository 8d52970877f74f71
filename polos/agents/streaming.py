"""
Reading an agent's answer while it is written.

Everything is read off the stream of the run, so a reader may come late, go on in another process, or begin anew: the
log has what it hasn't seen. In the process of the engine deltas are shown before they are durable, each once.

A call of the model that was cut off is made again, and says so by another `stream_start` of the same turn: what had
come of it before is no part of the answer. `text` leaves it out; whoever shows chunks as they come looks at `events`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, final

from polos.features.events import stream_workflow
from polos.llm.jsonish import an_object
from polos.types.agents import AgentResult
from polos.types.events import StreamEvent

if TYPE_CHECKING:
    from polos.runtime.handle import ExecutionHandle

__all__ = ["AgentStreamHandle", "StreamResult"]


@final
class AgentStreamHandle:
    """
    The stream of an agent's run, from any place on.

    ```python run
    import asyncio, tempfile
    from polos import Agent, AgentStreamHandle, Polos
    from polos.llm import script

    script("count", ["one two"])
    counter = Agent(id="counter", provider="scripted", model="count")

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                run = await counter.invoke(polos, {"input": "Count.", "streaming": True})
                async for event in AgentStreamHandle(polos, run.id, "counter", run.id):
                    print(event.event_type)

    asyncio.run(main())
    ```

    Attributes:
        agent_run_id: the run.
        topic: the topic of its tree.
        last_valid_event_id: number of the event that was given last.
    """

    def __init__(
        self,
        client: Any,
        agent_run_id: str,
        root_workflow_id: str,
        root_execution_id: str,
        created_at: str | None = None,
        *,
        last_event: StreamEvent | None = None,
        previews: bool = True,
    ) -> None:
        """
        Begin to read.

        Args:
            client: a `Polos` or a `PolosClient`.
            agent_run_id: the run.
            root_workflow_id: the workflow at the root of its tree.
            root_execution_id: the run there.
            created_at: begin with events after this instant; with the first if it isn't given.
            last_event: begin behind this event instead.
            previews: whether deltas are given before they are durable.
        """
        self._client = client
        self._workflow = root_workflow_id
        self._created_at = created_at
        self._last = last_event
        self._previews = previews
        self.agent_run_id = agent_run_id
        self.topic = f"workflow/{root_workflow_id}/{root_execution_id}"
        self.last_valid_event_id: int | None = None if last_event is None else last_event.sequence_id

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Give the events until the run has ended."""
        first = self._last is None and self._created_at is None
        stream = stream_workflow(
            self._client, self._workflow, self.agent_run_id,
            last_timestamp=self._created_at, from_sequence=0 if first else None,
            previews=self._previews, last_event=self._last,
        )  # fmt: skip
        async for event in stream:
            self.last_valid_event_id = event.sequence_id
            yield event


@final
class StreamResult:
    """
    An agent's answer while it is written: what `Agent.stream` gives; an example stands there.

    ```python run
    from polos import Agent, StreamResult

    async def tell(agent: Agent, polos) -> str:
        answer: StreamResult = await agent.stream(polos, "A story, please.")
        return await answer.text()
    ```

    Attributes:
        handle: of the run.
        client: the client that started it.
        topic: the topic of its tree.
    """

    def __init__(self, handle: ExecutionHandle, client: Any) -> None:
        """Take the run and whoever started it."""
        self.handle = handle
        self.client = client
        self.topic = f"workflow/{handle.root_workflow_id}/{handle.root_execution_id}"

    @property
    def agent_run_id(self) -> str:
        """The run."""
        return self.handle.id

    def __getattr__(self, name: str) -> Any:
        """Give what the handle knows: `id`, `workflow_id`, `created_at`, `session_id` and so on."""
        if name.startswith("_") or name not in type(self.handle).model_fields:
            raise AttributeError(f"StreamResult has no attribute {name!r}")
        return getattr(self.handle, name)

    def to_dict(self) -> dict[str, Any]:
        """Give the handle's fields."""
        return self.handle.to_dict()

    async def get(self) -> dict[str, Any]:
        """Give how things stand with the run; see `ExecutionHandle.get`."""
        return await self.handle.get(self.client)

    def events_from(
        self, last_event: StreamEvent | None = None, *, previews: bool = True
    ) -> AsyncIterator[StreamEvent]:
        """
        Give the events of the run from some place on.

        Args:
            last_event: begin behind this one; with the first if None.
            previews: whether deltas are given before they are durable.
        """
        handle = self.handle
        stream = AgentStreamHandle(
            self.client, handle.id, handle.root_workflow_id or handle.workflow_id or "",
            handle.root_execution_id or handle.id, last_event=last_event, previews=previews,
        )  # fmt: skip
        return aiter(stream)

    @property
    def events(self) -> AsyncIterator[StreamEvent]:
        """The events of the run, from the first to its end; another iterator each time."""
        return self.events_from()

    @property
    def text_chunks(self) -> AsyncIterator[str]:
        """The text in pieces, as they come, those of agents that it asks included; another iterator each time."""
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[str]:
        async for event in self.events:
            content = event.data.get("content") if event.event_type == "text_delta" else None
            if content:
                yield content

    async def text(self) -> str:
        """
        Give the whole text, once the run has ended.

        What came of a call of the model that was made again isn't part of it.
        """
        pieces: list[tuple[tuple[Any, Any], str]] = []
        async for event in self.events_from(previews=False):
            of = _run_of(event), event.data.get("step")
            if event.event_type == "stream_start":
                pieces = [(whose, piece) for whose, piece in pieces if whose != of]
            elif event.event_type == "text_delta" and event.data.get("content"):
                pieces.append((of, event.data["content"]))
        return "".join(piece for _, piece in pieces)

    async def result(self) -> AgentResult:
        """
        Give the result, once the run has ended.

        Raises:
            RuntimeError: it failed or was cancelled: there is no result.
        """
        from polos.registry import get_workflow

        async for event in self.events_from(previews=False):
            if _run_of(event) != self.handle.id:
                continue
            if event.event_type == "agent_finish":
                found = AgentResult.model_validate(event.data["result"])
                agent: Any = get_workflow(self.handle.workflow_id or "")
                return found if agent is None else agent.typed(found)
            if event.event_type in ("agent_failed", "agent_cancelled"):
                why = event.data.get("error") or f"cancelled by {event.data.get('cancelled_by')}"
                raise RuntimeError(f"No result found: the run {self.handle.id} ended with: {why}")
        raise RuntimeError(f"No result found in the stream of run {self.handle.id}")


def _run_of(event: StreamEvent) -> Any:
    """Give the run that an event is about."""
    told = an_object(event.data) or {}
    return (an_object(told.get("_metadata")) or {}).get("execution_id")
