"""The part of `ctx.step` that runs agents: children like any other, asked and answered in the agent's own types."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from polos.calls import text
from polos.children import ChildOptions, child_request, ended, handle, settled
from polos.errors import StepExecutionError

if TYPE_CHECKING:
    from polos.agents.agent import AgentRunConfig
    from polos.children import ChildRequest
    from polos.context import Port, WorkflowContext
    from polos.runtime.handle import ExecutionHandle
    from polos.types.agents import AgentResult
    from polos.types.types import BatchStepResult

__all__ = ["AgentSteps"]


class AgentSteps:
    """What a body can do with agents."""

    _context: WorkflowContext

    def _port(self) -> Port:
        raise NotImplementedError

    async def agent_invoke(self, step_key: str, config: AgentRunConfig) -> ExecutionHandle:
        """
        Start a run of an agent, and don't wait for it.

        Args:
            step_key: names the request in this run.
            config: what `agent.with_input` gave; session and user are those of this run.

        Returns:
            A handle of the run.

        Durable:
            with what the body asks for next; the agent starts then.

        Raises:
            StepExecutionError: `config` is something else.
        """
        port = self._port()
        asked = self._agent_request(port, port.name(_key(step_key), step_key), config, wanted=False)
        return handle(self._context, port, step_key, await port.tell(asked.event, spec=asked.spec))

    async def agent_invoke_and_wait(self, step_key: str, config: AgentRunConfig) -> AgentResult:
        """
        Start a run of an agent and wait for its answer.

        ```python run
        import polos
        from polos import Agent

        poet = Agent(id="poet", provider="openai", model="gpt-5")

        @polos.workflow(id="card")
        async def card(ctx, payload: dict):
            poem = await ctx.step.agent_invoke_and_wait("poem", poet.with_input(f"A poem for {payload['name']}."))
            return poem.result
        ```

        Args:
            step_key: names the request in this run.
            config: what `agent.with_input` gave; session and user are those of this run.

        Returns:
            The answer; its `result` is an object of the agent's output schema, if it has one.

        Durable:
            from the commit in which it is asked for.

        Raises:
            StepExecutionError: the agent's run failed or was cancelled, or `config` is something else.
        """
        port = self._port()
        asked = self._agent_request(port, port.name(_key(step_key), step_key), config, wanted=True)
        return config.agent.typed(cast("AgentResult", await ended(port, asked)))  # an agent's result

    async def batch_agent_invoke(self, step_key: str, configs: Sequence[AgentRunConfig]) -> list[ExecutionHandle]:
        """
        Start runs of several agents, and don't wait for them.

        Args:
            step_key: names the batch in this run.
            configs: what `agent.with_input` gave.

        Returns:
            Handles, in the order of the requests.

        Durable:
            with what the body asks for next, all or none.

        Raises:
            StepExecutionError: one of `configs` is something else; nothing is started then.
        """
        port = self._port()
        batch = self._agent_batch(port, step_key, configs, wanted=False)
        told = await asyncio.gather(*(port.tell(one.event, spec=one.spec) for one in batch))
        return [handle(self._context, port, step_key, recorded) for recorded in told]

    async def batch_agent_invoke_and_wait(
        self, step_key: str, configs: Sequence[AgentRunConfig]
    ) -> list[BatchStepResult]:
        """
        Start runs of several agents and wait for all of them. One that fails doesn't raise.

        Args:
            step_key: names the batch in this run.
            configs: what `agent.with_input` gave.

        Returns:
            How each ended, in the order of the requests; `result` is an `AgentResult` whose own `result` is JSON.

        Durable:
            from the commit in which it is asked for, all or none.

        Raises:
            StepExecutionError: one of `configs` is something else; nothing is started then.
        """
        port = self._port()
        batch = self._agent_batch(port, step_key, configs, wanted=True)
        found = list(await asyncio.gather(*(settled(port, one) for one in batch)))
        return [one.model_copy(update={"result": one.result.plain()}) if one.success else one for one in found]

    def _agent_batch(
        self, port: Port, step_key: str, configs: Sequence[AgentRunConfig], *, wanted: bool
    ) -> list[ChildRequest]:
        _key(step_key)
        for config in configs:
            _check(config)
        return [
            self._agent_request(port, port.name(f"{step_key}[{number}]", step_key), config, wanted=wanted)
            for number, config in enumerate(configs)
        ]

    def _agent_request(self, port: Port, name: str, config: AgentRunConfig, *, wanted: bool) -> ChildRequest:
        _check(config)
        options = ChildOptions(initial_state=config.initial_state, run_timeout_seconds=config.run_timeout_seconds)
        return child_request(self._context, port, name, config.agent, config.payload, options, wanted=wanted)


def _key(step_key: str) -> str:
    text("step_key", step_key)
    return step_key


def _check(config: Any) -> None:
    from polos.agents.agent import AgentRunConfig

    if not isinstance(config, AgentRunConfig):
        raise StepExecutionError(f"an agent is started with what agent.with_input gives, not with {config!r}")
