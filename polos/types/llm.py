"""
What a model used, what it asked for, and what came of it: the part of a model's reply that programs see.

Field names are those that programs already use, and so are the shapes that they dump to. What a provider knows
besides goes into classes of `polos.llm.messages`, which are wider: `TokenUsage` is a `Usage`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

__all__ = ["ToolCall", "ToolCallFunction", "ToolResult", "Usage"]


class Usage(BaseModel):
    """
    What calls of a model used, in tokens.

    ```python run
    from polos import Usage

    turns = [Usage(input_tokens=120, output_tokens=8, total_tokens=128), Usage(input_tokens=150, total_tokens=150)]
    print(sum(turn.total_tokens for turn in turns))
    ```

    Attributes:
        input_tokens: all that was sent, what was read from and written to a cache included.
        output_tokens: all that was made, reasoning included.
        total_tokens: the two together.
        cache_read_input_tokens: how many of the input were read from the provider's cache; None if it doesn't say.
        cache_creation_input_tokens: how many of the input were written to it; None if it doesn't say.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class ToolCallFunction(BaseModel):
    """
    The function of a tool call; an example stands at `ToolCall`, which holds it.

    Attributes:
        name: name of the tool.
        arguments: its arguments, the text of a JSON object; as the model wrote it, so it may be no JSON at all.
    """

    name: str
    arguments: str


class ToolCall(BaseModel):
    """
    A model's wish that a tool be called.

    ```python run
    import json
    from polos import ToolCall, ToolCallFunction

    call = ToolCall(id="", call_id="call_1", function=ToolCallFunction(name="add", arguments='{"a": 1, "b": 2}'))
    print(call.function.name, json.loads(call.function.arguments))
    ```

    Attributes:
        id: the provider's id of this item of the reply; empty if there is none.
        type: always `function`.
        function: the tool and its arguments.
        call_id: what the result is to name.
    """

    id: str
    type: Literal["function"] = "function"
    function: ToolCallFunction
    call_id: str | None = None


class ToolResult(BaseModel):
    """
    What came of a tool call.

    ```python run
    from polos import ToolResult

    results = [
        ToolResult(tool_name="add", status="completed", result=3, tool_call_call_id="call_1"),
        ToolResult(tool_name="divide", status="failed", error="division by zero", tool_call_call_id="call_2"),
    ]
    print([one.result if one.error is None else one.error for one in results])
    ```

    Attributes:
        tool_name: name of the tool.
        status: how the call ended.
        result: what it returned; None if it failed.
        result_schema: path of its type, `module.Class`, if it has one.
        error: why it failed, as text.
        tool_call_id: `id` of the call.
        tool_call_call_id: `call_id` of the call.
    """

    tool_name: str
    status: str
    result: Any = None
    result_schema: str | None = None
    error: str | None = None
    tool_call_id: str | None = None
    tool_call_call_id: str | None = None
