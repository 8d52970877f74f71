"""
What a test gives, looked at before anything is begun: payloads, and arguments that several parts of the kit take.

`agent.run(polos, "text")` makes a payload of what it is given, and a workflow's `run` takes the payload itself. The kit
is handed either, and does the same: a text that was recorded as it is would be a run that fails at its beginning, in
every scenario alike, and so a sweep that nothing is wrong with.
"""

from __future__ import annotations

from typing import Any, cast

from polos.definition import Workflow
from polos.llm.jsonish import a_list

__all__ = ["is_one_of", "look_at_agent", "look_at_patience", "payload_for"]

_ASKED = 'text, items of a conversation, or a payload, {"input": text}'


def payload_for(workflow: Workflow[Any], given: object) -> object:
    """
    Give the payload of a run.

    Args:
        workflow: of the run.
        given: a payload; for an agent, what it is asked does as well.

    Raises:
        TypeError: it is an agent's, and says not what it is asked.
    """
    if workflow.workflow_type != "agent":
        return given
    look_at_agent(given)
    asked = given if isinstance(given, str) else a_list(given)
    if asked is not None:
        from polos.agents.agent import payload_of

        return payload_of(asked, streaming=False, budget=None, kwargs={})
    if not isinstance(given, dict) or "input" not in given:
        raise TypeError(f"agent {workflow.id!r} is given what it is asked: {_ASKED}; this is {given!r:.200}")
    return cast("object", given)


def look_at_agent(given: object) -> None:
    """
    Refuse what `agent.with_input` gives, which says more than a payload does.

    Raises:
        TypeError: it is that.
    """
    if type(given).__name__ == "AgentRunConfig":  # of a module that is loaded on use
        raise TypeError(
            "agent.with_input(...) is for ctx.step.agent_invoke and its like; here the agent and what it is asked are "
            f"given apart: agent, and {_ASKED}, which agent.with_input(...).payload is, too"
        )


def look_at_patience(given: object) -> None:
    """
    Refuse a limit of real time that is none.

    Raises:
        ValueError: it isn't a time over 0.
    """
    if not is_one_of(given, int, float) or not cast("float", given) > 0:
        raise ValueError(f"patience_seconds is a time over 0, it is {given!r}")


def is_one_of(value: object, *types: type) -> bool:
    """Tell whether it is a value of these types; True and False are no numbers."""
    return isinstance(value, types) and not isinstance(value, bool)
