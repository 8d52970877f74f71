"""
Which golden histories show which feature.

A log holds what programs asked for, so what can be asked for is what has to be kept: each argument of a definition,
each method of a step, each field of an event. Those are found in the code and looked for in the histories and their
programs (`unused_names`, `unwritten_fields`), so who adds one and no history hears of it. What can't be found there, as
it is no name but a behaviour, stands in `FEATURES`: each heading of a page about features, and its histories.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from polos.agents.agent import AgentOptions
from polos.engine.codec import decode
from polos.engine.events import EVENTS

from tests.golden.form import FOLDER, Case

__all__ = ["ARGUMENTS", "FEATURES", "NOT_RECORDED", "PAGES", "headings", "unused_names", "unwritten_fields"]

DOCS = FOLDER.parent.parent / "docs"
PAGES = (
    "concepts", "queues", "schedules", "triggers", "retry", "retention", "deployment", "agents", "tools", "models",
)  # fmt: skip

NOTHING = ""  # a heading that tells of nothing that is recorded

# Each heading of a page, and the histories and data directories that show what it tells of; or that there is nothing.
FEATURES: dict[str, str] = {
    "concepts: Workflow, run, step": "steps large_result typed_results",
    "concepts: What is recorded": "steps store",
    "concepts: What a crash does": "inbox store unfinished",
    "concepts: Replay, and what a body may do": "recorded_values gather generators synchronization",
    "concepts: Names": "steps",
    "concepts: Bodies that do I/O themselves": "direct_bodies",
    "concepts: Waiting": "timers suspends signals topics gather",
    "concepts: State, queries and updates": "state updates",
    "concepts: Sessions, users and tags": "sessions",
    "concepts: Steps and their effects": "pure_steps reconcile unknown_outcome deltas",
    "concepts: Retries": "step_retries run_retries retry_policies",
    "concepts: Cancellation": "cancellation run_timeout detached children",
    "concepts: Changing the code of runs under way": "divergence recorded_values set_aside continue_as_new",
    "concepts: The data directory and other processes": "inbox two_logs store",
    "concepts: Eviction": "evicted",
    "queues: Limits": "queues key_rates",
    "queues: Whose turn it is": "queues",
    "queues: While the engine runs": "queues",
    "queues: One run instead of two": "once",
    "queues: The last of many calls": "debounced definitions",
    "schedules: Which moments": "schedules scheduled_in_code",
    "schedules: While a run is under way": "schedules",
    "schedules: When nobody was there": "schedules",
    "schedules: What is recorded": "schedules",
    "schedules: What it costs": NOTHING,
    "triggers: What a run gets": "triggers",
    "triggers: Patterns": "triggers",
    "triggers: Filters": "triggers",
    "triggers: Where a trigger begins, and where it stands": "triggers definitions",
    "triggers: In tests": NOTHING,
    "triggers: What it costs": NOTHING,
    "retry: What is done again": "retries",
    "retry: Who is told": "retries",
    "retry: Many runs at once": "retries",  # each of them is a command of its own
    "retention: What a policy says": "archive archive_count pruned",
    "retention: What keeps a tree": "archive",
    "retention: Pruned deltas": "pruned segments",
    "retention: What can be done with an archived run": "segments",
    "retention: How it is done": "archive segments",
    "deployment: New code and old runs": "divergence set_aside",
    "deployment: Pinning": "pinned",
    "deployment: Draining": "draining",
    "agents: What is recorded, and when": "agents",
    "agents: Reading an answer while it is written": "agents",
    "agents: Structured answers": "agents",
    "agents: Hooks, guardrails, stop conditions": "agent_checks",
    "agents: Agents in workflows, and of other agents": "agents_in_workflows agent_handoffs",
    "agents: Sessions": "agent_sessions",
    "agents: Cost and budgets": "agent_budgets agent_handoffs",
    "agents: Tests": NOTHING,
    "tools: After a crash": "agent_tools",
    "tools: Approvals": "agent_tools",
    "tools: Asking people": "agent_tools",
    "tools: Searching the web": "agent_tools",
    "tools: Tools of MCP servers": "mcp_tools",
    "models: Providers": NOTHING,
    "models: A local model": NOTHING,
    "models: A provider of your own": NOTHING,
    "models: What is asked": "agents",
    "models: What comes": "agents",
    "models: What goes wrong": "agents agents_in_workflows",
    "models: A model for tests": "agents",
    "models: Recorded replies": NOTHING,
    "models: Prices": "agent_budgets",
}

# Fields of events that no history holds, and why.
NOT_RECORDED: dict[str, str] = {
    "PatchMarked.answer": "nothing writes another answer than yes",
    "StreamChunk.pruned": "it is written into segments alone; the data directory `segments` has some",
    "CodeRegistered.blobs": "sources are kept in data directories; `store` and `segments` have them",
}

# What is called, and the arguments that no program has to give, with the reason.
ARGUMENTS: dict[str, dict[str, str]] = {
    "workflow": {"activation_callbacks_max": "a guard of the loop", "description": "for people"},
    "tool": {"parameters": "a schema that models are told instead of that of a class"},
    "Agent": dict.fromkeys(
        ("provider_base_url", "provider_llm_api", "provider_settings"), "for the provider, of which nothing is recorded"
    ),
    "Queue": {},
    "RateLimit": {},
    "Retention": {},
    "RetryPolicy": {},
    "Budget": {},
}


def headings() -> list[str]:
    """Give every heading of the pages about features."""
    return [
        f"{page}: {heading}"
        for page in PAGES
        for heading in re.findall(r"^###? (.+)$", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
    ]


def unwritten_fields(cases: Iterable[Case]) -> set[str]:
    """Give the fields of events that are nowhere recorded with another value than their default."""
    found: set[str] = set()
    for case in cases:
        for line in case.lines:
            event = decode(line.record.type, line.record.schema_version, line.blob or line.record.payload)
            found |= {
                f"{line.record.type}.{field.name}"
                for field in dataclasses.fields(event)
                if getattr(event, field.name) != _default(field)
            }
    every = {f"{name}.{field.name}" for name, kind in EVENTS.items() for field in dataclasses.fields(kind)}
    return every - found


def _default(field: dataclasses.Field[Any]) -> Any:
    """Give what a field is if nobody says; nothing is the same as what is there if somebody has to."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def unused_names(parameters: dict[str, list[str]]) -> dict[str, set[str]]:
    """
    Give the arguments that no golden program gives.

    Args:
        parameters: names of what is called, and of its parameters in their order.
    """
    unused = {name: set(names) for name, names in parameters.items()}
    for call in _calls():
        match call.func:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in unused:
                unused[name] -= set(parameters[name][: len(call.args)])
                unused[name] -= {keyword.arg for keyword in call.keywords if keyword.arg is not None}
            case _:
                pass
    return unused


def methods_called() -> set[str]:
    """Give the names of all methods that golden programs call."""
    return {call.func.attr for call in _calls() if isinstance(call.func, ast.Attribute)}


@cache
def _calls() -> list[ast.Call]:
    return [
        node
        for path in sorted(FOLDER.glob("format-*/*/workflow.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def agent_options() -> list[str]:
    """Give the arguments of `Agent` that can be given by name alone."""
    options: dict[str, Any] = AgentOptions.__annotations__
    return list(options)
