"""
The model of a recorded run: its replies, to be played to the agent's current code.

A recording holds what each call of a model was asked and what it replied. Played again, a run needs no network and no
key, and the first request that isn't what it was is reported with the part that differs. Unlike `assert_replays`, which
looks at the code's requests alone, this runs everything else: tools, hooks, child runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

from polos.agents.conversation import request_items
from polos.engine import events as e
from polos.engine.usage import REQUEST
from polos.llm.digests import request_digest
from polos.llm.messages import LLMResponse
from polos.llm.providers.recorded import RecordedCall, Recording
from polos.testing.recorded import RecordedRun
from polos.values import decode

__all__ = ["model_of"]


def model_of(recording: str | os.PathLike[str] | RecordedRun) -> Recording:
    """
    Give the replies of the models that a recorded run and the runs below it asked.

    ```python run
    from polos import Agent
    from polos.testing import model_of

    def replayed(agent: Agent, file: str) -> Agent:
        settings = {"recording": model_of(file)}
        return Agent(agent.id, "recorded", agent.model, system_prompt=agent.system_prompt, provider_settings=settings)
    ```

    Args:
        recording: a file written by `polos test record`, or what it holds; with `tree=True` also the agents that were
            asked by the run.

    Returns:
        What `provider="recorded"` takes as its setting `recording`. Calls that failed aren't in it.

    Raises:
        BadRecording: the file isn't a whole recorded run.
    """
    loaded = recording if isinstance(recording, RecordedRun) else RecordedRun.load(recording)
    runs = dict.fromkeys(record.run for record in loaded.records)  # those too that nothing replays: they asked as well
    found = [call for run in runs for call in _calls(loaded, run)]
    return Recording(call for _, call in sorted(found, key=lambda one: one[0]))


def _calls(recording: RecordedRun, run: str) -> Iterator[tuple[int, RecordedCall]]:
    """Give the calls of one run, with the places of their replies in the log."""
    outlines: dict[str, dict[str, Any]] = {}
    chain: list[dict[str, Any]] = []  # requests of the conversation; those beside it stand alone
    for record in recording.of(run):
        event = record.event()
        if isinstance(event, e.ValueRecorded) and event.kind == REQUEST:
            told = cast("dict[str, Any]", event.value)
            if not told.get("aside"):
                chain.append(told)
            items = request_items([told] if "items" in told else chain)[-1]
            kept = ("version", "provider", "model", "settings", "system", "tools", "output_schema")
            outlines[event.name.removeprefix("request:")] = {**{name: told[name] for name in kept}, "items": items}
        elif isinstance(event, e.StepCompleted) and event.name in outlines:
            outline = outlines.pop(event.name)
            reply = cast("LLMResponse", decode(event.value, hint=LLMResponse))
            yield record.position, RecordedCall(digest=request_digest(outline), response=reply, outline=outline)
