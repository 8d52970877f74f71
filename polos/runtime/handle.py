"""
What a caller holds of a run: its id and a way back to whoever made it.

A handle is plain data, as programs written for Polos store and send it. It also remembers the client
that made it, as a private attribute, so that `client` may be left out of its methods; a handle that
came out of storage has none, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast, overload

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from polos.engine import events as e
from polos.errors import PolosUsageError, ValueRefused
from polos.values import decode

__all__ = ["ExecutionHandle", "HandleClient", "handles_of", "hydrated"]

_log = logging.getLogger("polos")

_SHOWN = (
    "status", "result", "error", "created_at", "completed_at", "parent_execution_id", "root_workflow_id",
    "root_execution_id", "output_schema_name", "step_key",
)  # fmt: skip


class HandleClient(Protocol):
    """What a handle needs of a client: `PolosClient` and `Polos` both have it."""

    async def get_execution(self, execution_id: str) -> dict[str, Any]:
        """Give all that is known of a run."""
        ...

    async def cancel_execution(self, execution_id: str) -> bool:
        """Ask a run to stop."""
        ...

    async def retry(self, execution_id: str) -> None:
        """Let a run that failed or was cancelled go on."""
        ...

    async def signal(self, execution_id: str, name: str, data: Any = None) -> None:
        """Send a signal."""
        ...

    async def query(self, execution_id: str, name: str | None = None, *args: Any) -> Any:
        """Ask a run."""
        ...

    async def update(self, execution_id: str, name: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """Have an update carried out."""
        ...


class ExecutionHandle(BaseModel):
    """
    A run, as its caller knows it.

    ```python run
    import asyncio, tempfile
    from polos import Polos, events, workflow

    @workflow
    async def counter(ctx, payload: dict):
        total = 0
        ctx.on_query("total", lambda: total)
        while True:
            number = await ctx.step.wait_for_signal("add")
            if number == 0:
                return total
            total += number

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(data_dir=folder) as polos:
                handle = await counter.invoke(polos, {})
                await handle.signal("add", 3)
                print(await handle.query("total"))
                await handle.signal("add", 0)
                async for event in events.stream_workflow(polos, "counter", handle.id):
                    print(event.event_type)
                print((await handle.get())["result"])

    asyncio.run(main())
    ```

    Attributes:
        id: the run's id.
        workflow_id: its workflow.
        created_at: when it was created, RFC 3339.
        parent_execution_id: the run that started it, if one did.
        root_workflow_id: the workflow of the root of its tree.
        root_execution_id: the root of its tree.
        session_id: the session, as the caller gave it.
        user_id: the user.
        step_key: the step of the parent that started it.
        accepted: False if no engine was running: the run is kept and starts with the next engine.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    id: str
    workflow_id: str | None = None
    created_at: str | None = None
    parent_execution_id: str | None = None
    root_workflow_id: str | None = None
    root_execution_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    step_key: str | None = None
    accepted: bool = True

    _client: HandleClient | None = PrivateAttr(default=None)

    def remembering(self, client: HandleClient) -> ExecutionHandle:
        """Let the handle remember a client, and give it back."""
        self._client = client
        return self

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as a dict."""
        return self.model_dump()

    async def get(self, client: HandleClient | None = None) -> dict[str, Any]:
        """
        Give how things stand with the run, its result as the type that the workflow declares.

        Returns:
            `status, result, error, created_at, completed_at, parent_execution_id, root_workflow_id,
            root_execution_id, output_schema_name, step_key`.

        Raises:
            UnknownRun: the data directory of the client has no such run.
        """
        found = await self._who(client).get_execution(self.id)
        shown = {name: found.get(name) for name in _SHOWN}
        shown["root_workflow_id"] = self.root_workflow_id
        shown["result"] = hydrated(found)
        return shown

    async def cancel(self, client: HandleClient | None = None) -> bool:
        """Ask the run to stop; False if it had ended already."""
        return await self._who(client).cancel_execution(self.id)

    async def retry(self, client: HandleClient | None = None) -> None:
        """
        Let the run go on from where it failed; what that means stands at `PolosClient.retry`.

        Raises:
            CommandRefused: it completed, or hasn't ended.
        """
        await self._who(client).retry(self.id)

    @overload
    async def signal(self, client: HandleClient, name: str, data: Any = None) -> None: ...

    @overload
    async def signal(self, name: str, data: Any = None) -> None: ...

    async def signal(self, *args: Any, **named: Any) -> None:
        """
        Send a signal: `signal(client, name, data)`, or without `client`.

        Raises:
            CommandRefused: the run has ended, or keeps too many signals of that name already.
        """
        client, rest = self._split(args, named)
        await client.signal(self.id, *rest, **named)

    @overload
    async def query(self, client: HandleClient, name: str | None = None, *args: Any) -> Any: ...

    @overload
    async def query(self, name: str | None = None, *args: Any) -> Any: ...

    async def query(self, *args: Any, **named: Any) -> Any:
        """
        Ask the run: `query(client, name=None, *args)`, or without `client`.

        Without a name the last durable `ctx.state`, for which no engine is needed; with one what the function
        registered by `ctx.on_query` returns.
        """
        client, rest = self._split(args, named)
        return await client.query(self.id, *rest, **named)

    @overload
    async def update(
        self, client: HandleClient, name: str, data: Any = None, *, timeout: float | None = None
    ) -> Any: ...

    @overload
    async def update(self, name: str, data: Any = None, *, timeout: float | None = None) -> Any: ...

    async def update(self, *args: Any, **named: Any) -> Any:
        """
        Have an update carried out: `update(client, name, data, timeout=)`, or without `client`.

        Returns:
            What the handler returned.

        Raises:
            UpdateRejected: the workflow's validator said no; nothing was recorded.
            EngineNotRunning: no engine; the update is kept.
        """
        client, rest = self._split(args, named)
        return await client.update(self.id, *rest, **named)

    def _who(self, client: HandleClient | None) -> HandleClient:
        found = client or self._client
        if found is None:
            raise PolosUsageError(f"the handle of run {self.id} remembers no client; pass one")
        return found

    def _split(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[HandleClient, tuple[Any, ...]]:
        """Tell the client from what follows: names and data are JSON, a client isn't."""
        if "client" in named:
            return self._who(named.pop("client")), args
        if args and (args[0] is None or hasattr(args[0], "get_execution")):
            return self._who(cast("HandleClient | None", args[0])), args[1:]
        return self._who(None), args


def handles_of(
    answer: dict[str, Any], runs: Sequence[e.RunCreated], *,
    client: HandleClient, session: str | None, created_at: str | None,
) -> list[ExecutionHandle]:  # fmt: skip
    """Give the handles of runs that were asked for: an engine may have given others that were there already."""
    detail = cast("dict[str, Any]", answer.get("detail") or {})
    names: list[str] = detail.get("runs") or [created.root for created in runs]
    return [
        ExecutionHandle(
            id=run,
            workflow_id=created.workflow,
            created_at=created_at,
            root_workflow_id=created.workflow,
            root_execution_id=run,
            session_id=session,
            user_id=created.user,
            accepted=answer["outcome"] != "queued",
        ).remembering(client)
        for run, created in zip(names, runs, strict=True)
    ]


def hydrated(found: dict[str, Any]) -> Any:
    """
    Give the result of an execution as the type that its workflow declares, or that is recorded.

    A record that no longer fits is given as plain JSON, with a warning: it is the caller's data either way.
    """
    from polos.registry import get_workflow

    result = found.get("result")
    if found.get("status") != "completed":
        return result
    workflow = get_workflow(str(found.get("workflow_id")))
    hint = None if workflow is None else workflow.result_hint
    try:
        read = decode(result, hint=hint, type=found.get("output_schema_name"))
        return read if workflow is None else workflow.typed(read)
    except (ValueRefused, ValidationError) as error:
        _log.warning("the result of run %s is given as plain JSON: %s", found.get("id"), error)
        return result
