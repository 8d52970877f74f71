"""
`Agent`: a model with tools, as a workflow.

An agent is a definition like any other workflow, and its runs are runs: they are started, waited for, queued, cancelled
and looked at in the same ways. What its body does stands in `polos.agents.loop`; here is what programs say of an agent,
checked when it is defined.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from pydantic import BaseModel

from polos.agents.budget import Budget
from polos.agents.context import AgentContext
from polos.agents.models import MODEL_RETRIES
from polos.agents.settings import a_dict, members, not_less, number, part
from polos.agents.stop_conditions import settled
from polos.agents.structured import changed_result, json_schema
from polos.calls import positive, text, writable
from polos.context import WorkflowContext, current_context
from polos.definition import Workflow
from polos.definition_checks import Hook, read_hooks
from polos.engine.json import Json
from polos.engine.retry import RetryPolicy
from polos.llm.jsonish import an_object
from polos.llm.messages import Item, ToolSpec, fit_name
from polos.memory.types import CompactionConfig
from polos.middleware.guardrail import Guardrail, read_guardrails
from polos.queueing import read_queue
from polos.registry import register, register_own
from polos.tools.tool import Tool
from polos.types.agents import AgentConfig, AgentResult

if TYPE_CHECKING:
    from polos.agents.streaming import StreamResult
    from polos.tools.delegation import AgentTool

__all__ = ["Agent", "AgentRunConfig"]

_OWN_RETRIES = RetryPolicy(max_retries=0)


class AgentOptions(TypedDict, total=False):
    """Arguments of `Agent` that Polos doesn't have; they are told at the class."""

    top_p: float | None
    handoffs: Sequence[Agent]
    budget: Budget | dict[str, Any] | None
    max_parallel_tools: int | None
    model_retries: RetryPolicy | None
    model_timeout_seconds: float | None
    provider_settings: dict[str, Any] | None
    run_timeout_seconds: float | None
    tags: Sequence[str]


class AgentRunConfig:
    """
    A run of an agent to be started: what `Agent.with_input` gives.

    Attributes:
        agent: the agent.
        input: what it is asked.
        initial_state: what `ctx.state` begins with.
        session_id: the session.
        user_id: the user.
        streaming: whether its model streams.
        run_timeout_seconds: after which the run is cancelled.
        budget: what the run may spend, instead of the agent's own.
        handed_over: how often the conversation was handed over to get here; None if it is nobody else's.
        kwargs: what else the provider gets with each request.
    """

    def __init__(
        self,
        agent: Agent,
        input: str | list[Item],
        *,
        initial_state: BaseModel | dict[str, Any] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        streaming: bool = False,
        run_timeout_seconds: float | None = None,
        budget: Budget | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take what the run is started with."""
        self.agent = agent
        self.input = input
        self.initial_state = initial_state
        self.session_id = session_id
        self.user_id = user_id
        self.streaming = streaming
        self.run_timeout_seconds = run_timeout_seconds
        self.budget = budget
        self.handed_over: int | None = None
        self.kwargs: dict[str, Any] = kwargs

    @property
    def payload(self) -> dict[str, Any]:
        """The run's payload."""
        payload = payload_of(self.input, streaming=self.streaming, budget=self.budget, kwargs=self.kwargs)
        return payload if self.handed_over is None else {**payload, "handed_over": self.handed_over}


def payload_of(
    asked: str | list[Item], *, streaming: bool, budget: Budget | dict[str, Any] | None, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Give the payload of an agent's run."""
    payload: dict[str, Any] = {"input": asked, "streaming": streaming, "provider_kwargs": kwargs}
    given = part("budget", budget, Budget)
    if given is not None:
        payload["budget"] = given.model_dump(exclude_none=True)
    return payload


class Agent(Workflow[AgentResult]):
    """
    A model that may call tools, until it has an answer.

    ```python run
    import asyncio, tempfile
    from polos import Agent, Polos
    from polos.llm import script

    script("poet", ["Roses are red."])
    poet = Agent(id="poet", provider="scripted", model="poet", system_prompt="You write one line.")

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                answer = await poet.run(polos, "A line, please.")
                print(answer.result, answer.total_steps)

    asyncio.run(main())
    ```

    Args:
        id: what the log and clients call it.
        provider: `openai`, `anthropic`, `scripted`, `recorded`, or one that the program registered.
        model: the model, as the provider names it.
        description: what it is for.
        system_prompt: what the model is told before everything else.
        tools: `Tool` objects; a dict is a tool that runs on the provider's side, passed through.
        temperature: of the model.
        max_output_tokens: limit for each reply.
        provider_base_url: where the provider is, if not at its own address.
        provider_llm_api: "responses" or "chat_completions", with `openai`.
        queue: of its runs: a name, a `Queue`, or a dict.
        stop_conditions: what ends the loop; asked after each turn in which tools were called.
        output_schema: a Pydantic class that the answer has to fit.
        on_start: hooks before the first turn.
        on_end: hooks behind the last.
        on_agent_step_start: hooks before each turn.
        on_agent_step_end: hooks behind each turn.
        on_tool_start: hooks before each call of a tool.
        on_tool_end: hooks behind each.
        guardrails: functions and rules in plain words that each reply has to pass.
        guardrail_max_retries: how often a refused reply is asked for anew.
        compaction: when the conversation is shortened; by default at 80,000 tokens.
        stream_to_workflow: whether the model always streams.
        top_p: of the model.
        handoffs: agents to which the model may hand the conversation over.
        budget: what a run may spend.
        max_parallel_tools: how many calls of one turn run at once.
        model_retries: when a failed call of the model is made again: twice by default.
        model_timeout_seconds: how long one call of the model may take.
        provider_settings: what else the provider's class takes.
        run_timeout_seconds: after which a run is cancelled.
        tags: of every run.

    Raises:
        TypeError: an argument isn't what it must be; names it.
        ValueError: an argument has a value that makes no sense.

    Attributes:
        provider: who serves the model.
        model: the model.
        system_prompt: what it is told first.
        tools: what it may call; dicts are tools that run on the provider's side.
        handoffs: agents that may take the conversation over.
        defined_at: file and line that defines it.
        result_output_schema: class of the answer; None for text.
        stop_conditions: what ends the loop early.
        guardrails: what looks at each reply.
        compaction: when the conversation is shortened.
        budget: what a run may spend.
        max_parallel_tools: how many calls of a turn run at once; None for all.
        model_retries: when a call of the model that failed is made again.
        model_timeout_seconds: how long one call may take; None for as long as the provider lets it.
    """

    def __init__(  # noqa: PLR0917  # the order that programs use
        self,
        id: str,
        provider: str,
        model: str,
        description: str | None = None,
        system_prompt: str | None = None,
        tools: Sequence[Tool | dict[str, Any]] | None = None,
        temperature: float | None = None,
        max_output_tokens: int | None = None,
        provider_base_url: str | None = None,
        provider_llm_api: str | None = None,
        queue: object = None,
        stop_conditions: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
        output_schema: type[BaseModel] | None = None,
        on_start: Hook | Sequence[Hook] | None = None,
        on_end: Hook | Sequence[Hook] | None = None,
        on_agent_step_start: Hook | Sequence[Hook] | None = None,
        on_agent_step_end: Hook | Sequence[Hook] | None = None,
        on_tool_start: Hook | Sequence[Hook] | None = None,
        on_tool_end: Hook | Sequence[Hook] | None = None,
        guardrails: Guardrail | Sequence[Guardrail] | None = None,
        guardrail_max_retries: int = 2,
        compaction: CompactionConfig | None = None,
        stream_to_workflow: bool = False,  # noqa: FBT001, FBT002  # as programs give it
        **ours: Unpack[AgentOptions],
    ) -> None:
        """Define an agent and register it under its id; the arguments are told at the class."""
        own_queue = read_queue(queue, id)
        frame = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # in the module whose sources say what the agent is
        module = frame.f_globals.get("__name__", __name__)
        self.defined_at = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        super().__init__(
            id, _body_of(id, module), description, "agent",
            None if own_queue is None else own_queue.name,
            None if own_queue is None else own_queue.concurrency_limit,
            on_start=on_start, on_end=on_end, output_schema=AgentResult, queue=own_queue, retries=_OWN_RETRIES,
            run_timeout_seconds=ours.get("run_timeout_seconds"), tags=ours.get("tags", ()),
        )  # fmt: skip
        _look_at_model(provider, model)
        self.provider, self.model, self.system_prompt = provider, model, system_prompt
        self.tools: list[Tool | dict[str, Any]] = _tools(tools)
        self.temperature, self.max_output_tokens = temperature, max_output_tokens
        self.provider_base_url, self.provider_llm_api = provider_base_url, provider_llm_api
        self.stop_conditions: list[Callable[..., Any]] = _conditions(stop_conditions)
        self.result_output_schema: type[BaseModel] | None = output_schema
        self.answer_schema, self.answer_name = _answer(output_schema)
        self.on_agent_step_start: list[Hook] = read_hooks("on_agent_step_start", on_agent_step_start)
        self.on_agent_step_end: list[Hook] = read_hooks("on_agent_step_end", on_agent_step_end)
        self.on_tool_start: list[Hook] = read_hooks("on_tool_start", on_tool_start)
        self.on_tool_end: list[Hook] = read_hooks("on_tool_end", on_tool_end)
        self.guardrails: list[Guardrail] = read_guardrails(guardrails)
        self.guardrail_max_retries = guardrail_max_retries
        self.compaction: CompactionConfig = part("compaction", compaction, CompactionConfig) or CompactionConfig()
        self.stream_to_workflow = stream_to_workflow
        self._take(ours)
        register(self)
        for one in self.tools:
            if isinstance(one, Tool):
                register_own(f"{id}/{one.id}", one)

    def _take(self, ours: AgentOptions) -> None:
        """Take the settings that Polos doesn't have."""
        unknown = sorted(set(ours) - set(AgentOptions.__annotations__))
        if unknown:
            raise TypeError(f"Agent has no argument {unknown[0]!r}")
        self.top_p: float | None = ours.get("top_p")
        self.handoffs: tuple[Agent, ...] = tuple(members("handoffs", ours.get("handoffs")))
        self.budget: Budget | None = part("budget", ours.get("budget"), Budget)
        self.max_parallel_tools: int | None = ours.get("max_parallel_tools")
        retries = part("model_retries", ours.get("model_retries"), RetryPolicy)
        self.model_retries: RetryPolicy = retries or MODEL_RETRIES
        self.model_timeout_seconds: float | None = ours.get("model_timeout_seconds")
        self.provider_settings: dict[str, Any] = a_dict("provider_settings", ours.get("provider_settings"))
        self._check_settings()

    def _check_settings(self) -> None:
        positive("model_timeout_seconds", self.model_timeout_seconds)
        for name in ("description", "system_prompt", "provider_base_url", "provider_llm_api"):
            writable(name, getattr(self, name))
        number("temperature", self.temperature)
        number("top_p", self.top_p)
        not_less("max_output_tokens", self.max_output_tokens, 1)
        not_less("max_parallel_tools", self.max_parallel_tools, 1)
        not_less("guardrail_max_retries", self.guardrail_max_retries, 0)
        apis = (None, "responses", "chat_completions")
        if self.provider == "openai" and self.provider_llm_api not in apis:
            raise ValueError(f"provider_llm_api must be one of {apis[1:]}, it is {self.provider_llm_api!r}")
        for one in self.handoffs:
            if not isinstance(cast("object", one), Agent):
                raise TypeError(f"handoffs must be agents, they hold {one!r}")
        names = [tool.id for tool in self.tools if isinstance(tool, Tool)] + [
            handoff_name(one) for one in self.handoffs
        ]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tools of agent {self.id!r} must have names of their own; {twice[0]!r} is there twice")

    # ------------------------------------------------------------------------------- what it is told

    def settings_of(self, config: AgentConfig) -> dict[str, Any]:
        """
        Give settings of a provider, for `get_provider`.

        Args:
            config: the agent's settings, or what a guardrail made of them; another provider gets nothing of what was
                said of the agent's own, such as its key.
        """
        own = self.provider_settings if config.provider == self.provider else {}
        told = {"base_url": config.provider_base_url, "llm_api": config.provider_llm_api, **own}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def config(self) -> AgentConfig:
        """The agent's settings, as hooks and guardrails see them."""
        return AgentConfig(
            name=self.id,
            provider=self.provider,
            model=self.model,
            tools=[tool.to_llm_tool_definition() if isinstance(tool, Tool) else tool for tool in self.tools],
            system_prompt=self.system_prompt,
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            provider_base_url=self.provider_base_url,
            provider_llm_api=self.provider_llm_api,
            output_schema=self.answer_schema,
            output_schema_name=self.answer_name,
            guardrail_max_retries=self.guardrail_max_retries,
        )

    def specs_of(self, config: AgentConfig) -> list[ToolSpec]:
        """Give the tools of its settings, and those that hand the conversation over, as the model is told of them."""
        handed: list[dict[str, Any]] = [
            {
                "type": "function",
                "name": handoff_name(agent),
                "description": f"Hand the conversation over to {agent.id}. {agent.description or ''}".strip(),
                "parameters": {"type": "object", "properties": {}},
            }
            for agent in self.handoffs
        ]
        return [ToolSpec.of(one) for one in (*config.tools, *handed)]

    def context_of(self, context: WorkflowContext) -> WorkflowContext:
        """Give the context that the agent's hooks and guardrails get."""
        return AgentContext.of(
            context, model=self.model, provider=self.provider, system_prompt=self.system_prompt,
            tools=list(self.tools), temperature=self.temperature, max_tokens=self.max_output_tokens,
        )  # fmt: skip

    @property
    def hook_config(self) -> AgentConfig:
        """What hooks are told of the settings."""
        return self.config

    def hook_payload(self, payload: Any) -> Any:
        """Give the payload as hooks are told of it: with what is asked under both names that hooks use."""
        if isinstance(payload, dict) and "input" in payload:
            told = cast("dict[str, Any]", payload)
            return {**told, "prompt": told["input"]}
        return cast("Any", payload)

    def hook_changes(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Give what hooks changed: what is asked has two names to them, and may be changed by either."""
        told = dict(changes)
        prompt = told.pop("prompt", None)
        return told if prompt is None else {"input": prompt, **told}

    def hook_output(self, result: Any, output: Json) -> AgentResult:
        """Give the result after a hook said what it is to be: the answer alone, or fields of the result."""
        return changed_result(result, output, self.result_output_schema)

    async def call(self, context: WorkflowContext, arguments: tuple[Any, ...], record: Json) -> AgentResult:  # noqa: ARG002  # the payload is read as JSON
        """Run the loop."""
        from polos.agents.loop import run_agent

        return await run_agent(self, context, arguments[1])

    # ------------------------------------------------------------------------------ for programs

    async def run(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # the order that programs use
        self,
        client: Any,
        input: str | list[Item],
        initial_state: BaseModel | dict[str, Any] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        timeout: float | None = 600.0,
        *,
        budget: Budget | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> AgentResult:
        """
        Ask the agent and wait for its answer.

        Args:
            client: a `Polos` or a `PolosClient`.
            input: what it is asked: text, or items of a conversation.
            initial_state: what `ctx.state` begins with.
            session_id: the session whose conversation goes on.
            user_id: on whose behalf it works.
            timeout: seconds after which the run is cancelled; None waits for ever.
            budget: what this run may spend, instead of the agent's own.
            **kwargs: what else the provider gets with each request.

        Returns:
            The answer, and what led to it.

        Durable:
            when it returns.

        Raises:
            RuntimeError: the run failed, or this is called inside a run.
            WorkflowTimeoutError: it didn't end in time.
        """
        payload = payload_of(input, streaming=False, budget=budget, kwargs=kwargs)
        found = await super().run(
            client, payload, session_id=session_id, user_id=user_id, timeout=timeout, initial_state=initial_state
        )
        return self.typed(found)

    async def stream(
        self,
        client: Any,
        input: str | list[Item],
        initial_state: BaseModel | dict[str, Any] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        run_timeout_seconds: float | None = None,
        *,
        budget: Budget | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> StreamResult:
        """
        Ask the agent and read its answer while it is written; arguments as for `run`.

        ```python run
        import asyncio, tempfile
        from polos import Agent, Polos
        from polos.llm import script

        script("teller", ["Once upon a time."])
        teller = Agent(id="teller", provider="scripted", model="teller")

        async def main():
            with tempfile.TemporaryDirectory() as folder:
                async with Polos(folder) as polos:
                    answer = await teller.stream(polos, "Tell me a story.")
                    async for chunk in answer.text_chunks:
                        print(chunk, end="")
                    print((await answer.result()).usage.output_tokens)

        asyncio.run(main())
        ```

        Raises:
            RuntimeError: called inside a run.
        """
        from polos.agents.streaming import StreamResult

        if current_context() is not None:
            raise RuntimeError(f"agent {self.id!r} can't be streamed inside a run: use ctx.step.agent_invoke")
        payload = payload_of(input, streaming=True, budget=budget, kwargs=kwargs)
        handle = await self.invoke(
            client, payload, session_id=session_id, user_id=user_id, initial_state=initial_state,
            run_timeout_seconds=run_timeout_seconds,
        )  # fmt: skip
        return StreamResult(handle, client)

    def with_input(
        self,
        input: str | list[Item],
        initial_state: BaseModel | dict[str, Any] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        streaming: bool = False,  # noqa: FBT001, FBT002  # as programs give it
        run_timeout_seconds: float | None = None,
        **kwargs: Any,
    ) -> AgentRunConfig:
        """
        Say what a run of the agent is to be started with, for `ctx.step.agent_invoke` and its like.

        Args:
            input: what it is asked.
            initial_state: what `ctx.state` begins with.
            session_id: the session; inside a run that of the run counts.
            user_id: the user; likewise.
            streaming: whether its model streams.
            run_timeout_seconds: after which the run is cancelled.
            **kwargs: `budget`, and what else the provider gets with each request.
        """
        return AgentRunConfig(
            self, input, initial_state=initial_state, session_id=session_id, user_id=user_id, streaming=streaming,
            run_timeout_seconds=run_timeout_seconds, **kwargs,
        )  # fmt: skip

    def as_tool(self, name: str | None = None, description: str | None = None, **options: Any) -> AgentTool:
        """
        Make a tool of the agent, for other agents.

        ```python run
        from polos import Agent

        poet = Agent(id="poet", provider="openai", model="gpt-5", description="Writes poems.")
        editor = Agent(id="editor", provider="openai", model="gpt-5", tools=[poet.as_tool()])
        print(editor.tools[0].id)
        ```

        Args:
            name: what models call it; the agent's id with `ask_` in front by default.
            description: what models are told of it; the agent's own by default.
            **options: what else `Tool` takes, such as `approval`.
        """
        from polos.tools.delegation import AgentTool

        return AgentTool(self, name, description, **options)

    def typed(self, found: AgentResult) -> AgentResult:
        """Give a result with its answer as an object of the agent's own class."""
        model = self.result_output_schema
        told = an_object(found.result)
        if model is None or told is None or found.stop_reason == "handoff":
            return found  # the answer of another agent is of that agent's class
        return found.model_copy(update={"result": model.model_validate(told)})


def handoff_name(agent: Agent) -> str:
    """Give the name under which a model hands the conversation over to an agent."""
    return fit_name("transfer_to_", agent.id)


def _body_of(id: str, module: str) -> Callable[..., Any]:
    """Give the agent's function: what runs is `call`, but the sources that count are those of the agent's module."""

    async def agent(ctx: WorkflowContext, payload: dict[str, Any]) -> AgentResult:
        raise NotImplementedError("an agent's body is Agent.call")

    agent.__module__ = module
    agent.__name__ = agent.__qualname__ = id
    return agent


def _answer(schema: type[BaseModel] | None) -> tuple[dict[str, Any] | None, str | None]:
    return (None, None) if schema is None else json_schema(schema)


def _tools(tools: Sequence[Tool | dict[str, Any]] | None) -> list[Tool | dict[str, Any]]:
    found = members("tools", tools)
    for one in found:
        if not isinstance(one, Tool | dict):
            raise TypeError(f"tools must be Tool objects or dicts, they hold {one!r}")
    return found


def _look_at_model(provider: object, model: object) -> None:
    text("provider", provider)
    if type(model).__name__ == "Recording":  # of the provider that plays it, which is loaded on use
        raise TypeError(
            "model is the name of a model; what model_of(recording) gives is a setting: "
            'Agent(..., provider="recorded", provider_settings={"recording": model_of(recording)})'
        )
    text("model", model)


def _conditions(value: Sequence[Callable[..., Any]] | Callable[..., Any] | None) -> list[Callable[..., Any]]:
    if value is None:
        return []
    found = [value] if callable(value) else members("stop_conditions", value)
    for one in found:
        if not callable(one):
            raise TypeError(f"Invalid stop_condition {one!r}: it must be callable")
    return [settled(one) for one in found]
