"""
A tool with which a model asks a person.

The question is a suspend of the tool's own run: it may stand for weeks, costs nothing meanwhile, and an answer counts
once. Its key ends in a recorded id, so that a crash in between asks nothing twice, and two questions of one turn have
an answer each. What the model may ask for is a form of simple fields, as everything that shows one (command line,
pages, channels) can show those.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from polos.context import WorkflowContext
from polos.tools.tool import Tool

__all__ = ["AskUserField", "AskUserFieldOption", "AskUserInput", "create_ask_user_tool"]

_TOLD: Final = (
    "Ask the user a question and wait for the answer. Use it when you need a decision or a fact that only the user can "
    "give. Name fields if the answer has parts; without them the answer is text."
)


def _without_description(schema: dict[str, Any]) -> None:
    """Leave out of a schema what a class's docstring says to programmers: models pay for each word."""
    schema.pop("description", None)


_FOR_MODELS: Final = ConfigDict(json_schema_extra=_without_description)


class AskUserFieldOption(BaseModel):
    """
    One of the answers to choose from.

    ```python run
    from polos import AskUserFieldOption

    print(AskUserFieldOption(label="Large (10 inches)", value="large").value)
    ```

    Attributes:
        label: what the person reads.
        value: what the model is told.
    """

    model_config = _FOR_MODELS

    label: str = Field(description="What the user reads.")
    value: str = Field(description="What you are told if the user chooses it.")


class AskUserField(BaseModel):
    """
    One part of an answer.

    ```python run
    from polos import AskUserField

    print(AskUserField(key="seats", type="number", label="How many seats?", required=True).type)
    ```

    Attributes:
        key: its name in the answer.
        type: what it holds: "text", "textarea", "number", "boolean" or "select".
        label: what the person reads.
        description: what else there is to know about it.
        required: whether there has to be something.
        options: what a "select" has to choose from.
    """

    model_config = _FOR_MODELS

    key: str = Field(description="Name of the field in the answer.")
    type: Literal["text", "textarea", "number", "boolean", "select"] = Field(description="What it holds.")
    label: str = Field(description="What the user reads.")
    description: str | None = Field(default=None, description="What else the user should know about it.")
    required: bool | None = Field(default=None, description="Whether it has to be filled in.")
    options: list[AskUserFieldOption] | None = Field(default=None, description="The choices of a select.")


class AskUserInput(BaseModel):
    """
    What a model asks.

    ```python run
    from polos import AskUserField, AskUserInput

    asked = AskUserInput(question="Which size?", fields=[AskUserField(key="size", type="text", label="Size")])
    print([field.key for field in asked.fields])
    ```

    Attributes:
        question: the question.
        title: what stands above it.
        fields: the parts of the answer; without any, one text called `response`.
    """

    model_config = _FOR_MODELS

    question: str = Field(description="The question.")
    title: str | None = Field(default=None, description="A short title of the question.")
    fields: list[AskUserField] | None = Field(default=None, description="Parts of the answer; none for a text.")


def create_ask_user_tool() -> Tool:
    """
    Make a tool, `ask_user`, with which a model asks a person; what it gives is the answer.

    Whoever reads the run's stream sees an event `suspend_ask_user_…` with the form in `_form`, and answers with
    `resume`. The answer's data is what the model is told.

    ```python run
    import asyncio, tempfile
    from polos import Agent, Polos, create_ask_user_tool, events
    from polos.llm import Reply, script

    script("waiter", [Reply(tool_calls=[("ask_user", {"question": "Still or sparkling?"})]), "Coming."])
    waiter = Agent(id="waiter", provider="scripted", model="waiter", tools=[create_ask_user_tool()])

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                run = await waiter.invoke(polos, {"input": "Water, please."})
                async for event in events.stream_workflow(polos, waiter.id, run.id):
                    kind = event.event_type or ""
                    if kind.startswith("suspend_ask_user_"):
                        print(event.data["_form"]["description"])
                        await polos.resume(waiter.id, run.id, kind.removeprefix("suspend_"), {"response": "still"})
                print((await run.get(polos))["result"].tool_results[0].result)

    asyncio.run(main())
    ```

    Returns:
        The tool; give it to agents.
    """
    return Tool("ask_user", description=_TOLD, func=_ask)


async def _ask(ctx: WorkflowContext, input: AskUserInput) -> Any:
    number = await ctx.step.uuid("_ask_user_id")
    form = {
        "title": input.title or "Agent Question",
        "description": input.question,
        "fields": [one.model_dump(mode="json", exclude_none=True) for one in input.fields or ()] or [_response()],
    }
    question = {"_form": form, "_source": "ask_user", "_tool": "ask_user"}
    return (await ctx.step.suspend(f"ask_user_{number}", question)).data


def _response() -> dict[str, Any]:
    return {"key": "response", "type": "textarea", "label": "Response", "required": True}
