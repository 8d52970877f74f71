"""The context of an agent's run: that of a workflow, and the agent's settings."""

from __future__ import annotations

from typing import Any

from polos.context import WorkflowContext

__all__ = ["AgentContext"]


class AgentContext(WorkflowContext):
    """
    The context of an agent's run, as its hooks and guardrails get it.

    ```python run
    from polos import AgentContext

    context = AgentContext("poet", "run-1", "default", "session-1", model="small", provider="scripted")
    print(context.workflow_type, context.to_dict()["model"])
    ```

    Attributes:
        agent_id: id of the agent, which is the workflow's.
        model: its model.
        provider: who serves that.
        system_prompt: what the model is told first.
        tools: the tools as the model is told of them.
        temperature: of the model.
        max_tokens: limit for each answer.
    """

    def __init__(
        self,
        agent_id: str,
        *args: Any,
        model: str = "gpt-4",
        provider: str = "openai",
        system_prompt: str | None = None,
        tools: list[Any] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Take what a `WorkflowContext` takes, the agent's id first, and the agent's settings."""
        super().__init__(agent_id, *args, **{"workflow_type": "agent", **kwargs})
        self.agent_id = agent_id
        self.model = model
        self.provider = provider
        self.system_prompt = system_prompt
        self.tools: list[Any] = tools or []
        self.temperature = temperature
        self.max_tokens = max_tokens

    @classmethod
    def of(cls, context: WorkflowContext, **settings: Any) -> AgentContext:
        """
        Give the context of a run as that of an agent: the same run, the same state, the same port.

        Args:
            context: as the engine made it; it stays the one whose state is recorded.
            **settings: the agent's.
        """
        made = cls(context.workflow_id, context.execution_id, context.deployment_id, context.session_id, **settings)
        shared = vars(context)
        vars(made).update({name: value for name, value in shared.items() if name not in ("step", "logger")})
        return made

    def to_dict(self) -> dict[str, Any]:
        """Give the run's ids and the agent's settings as JSON."""
        settings = ("model", "provider", "system_prompt", "tools", "temperature", "max_tokens")
        return {**super().to_dict(), **{name: getattr(self, name) for name in settings}}
