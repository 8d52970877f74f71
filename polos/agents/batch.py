"""Starting runs of several agents at once, as a function beside the client's method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polos.context import current_context
from polos.types.types import BatchWorkflowInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polos.agents.agent import AgentRunConfig
    from polos.runtime.handle import ExecutionHandle

__all__ = ["batch_agent_invoke"]


async def batch_agent_invoke(client: Any, agents: Sequence[AgentRunConfig]) -> list[ExecutionHandle]:
    """
    Start runs of agents, durably when it returns; the handles come in the order of `agents`.

    ```python run
    from polos import Agent, batch_agent_invoke

    poet = Agent(id="poet", provider="openai", model="gpt-5")

    async def ask(polos):
        return await batch_agent_invoke(polos, [poet.with_input("A line."), poet.with_input("Another.")])
    ```

    Args:
        client: a `Polos` or a `PolosClient`.
        agents: what `agent.with_input` gave. Those of one session and user are started in one commit.

    Raises:
        RuntimeError: called inside a run; there it is `ctx.step.batch_agent_invoke`.
        TypeError: one of `agents` is something else; nothing is started then.
    """
    if current_context() is not None:
        raise RuntimeError("batch_agent_invoke() starts root runs; inside a workflow use ctx.step.batch_agent_invoke()")
    for one in agents:
        if not hasattr(one, "agent"):
            raise TypeError(f"an agent is started with what agent.with_input gives, not with {one!r}")
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for number, config in enumerate(agents):
        groups.setdefault((config.session_id, config.user_id), []).append(number)
    found: dict[int, ExecutionHandle] = {}
    for (session, user), numbers in groups.items():
        wanted = [_wanted(agents[number]) for number in numbers]
        handles = await client.batch_invoke(wanted, session_id=session, user_id=user)
        found.update(zip(numbers, handles, strict=True))
    return [found[number] for number in range(len(agents))]


def _wanted(config: AgentRunConfig) -> BatchWorkflowInput:
    return BatchWorkflowInput(
        id=config.agent.id, payload=config.payload, initial_state=config.initial_state,
        run_timeout_seconds=config.run_timeout_seconds,
    )  # fmt: skip
