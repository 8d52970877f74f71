"""
Effect classes: what may happen to a step whose process dies in its middle.

By default it is called again, with the same idempotency key. An `at_most_once` step is never called again: its
outcome is unknown, and its `reconcile` function is asked to find out. A `pure` step has no effect to speak of.

This program starts itself a second time, and that process dies in the middle of two letters.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from polos import Completed, NotDone, Polos, WorkflowContext, events, workflow

OUTBOX = Path("outbox.txt")


def write(line: str) -> None:
    with OUTBOX.open("a", encoding="utf-8") as outbox:
        outbox.write(line + "\n")


def die_once(when: str) -> None:
    if os.environ.get("DIES") == when:
        os._exit(9)


def send(letter: str) -> str:
    """Send a letter; in the other process, die before or after it has gone."""
    die_once(f"before {letter}")
    write(letter)
    die_once(f"after {letter}")
    return "sent"


def find_out(letter: str) -> Completed | NotDone:
    sent = letter in OUTBOX.read_text(encoding="utf-8").split("\n")
    print(f"{letter}: {'it went out' if sent else 'it did not go out'}")
    return Completed("sent, as the outbox shows") if sent else NotDone()


@workflow
async def correspondence(ctx: WorkflowContext, payload: dict[str, Any]) -> str:
    letter = payload["letter"]
    address = await ctx.step.run("address", lambda: f"{letter}@example.com", effect="pure")
    await ctx.step.run("log", lambda: write(f"key: {ctx.step.idempotency_key.endswith('/log')}"))
    how = await ctx.step.run("send", send, letter, effect="at_most_once", reconcile=find_out)
    return f"{address}: {how}"


async def post(letter: str) -> None:
    async with Polos(log_file="polos.log") as polos:
        await correspondence.run(polos, {"letter": letter})


async def recover() -> None:
    async with Polos(log_file="polos.log") as polos:
        for run in await polos.list_executions(workflow_id="correspondence", limit=1):
            async for event in events.stream_workflow(polos, "correspondence", run["id"]):
                if event.event_type == "workflow_finish":
                    print(event.data["result"])


def main() -> None:
    if len(sys.argv) > 1:
        asyncio.run(post(sys.argv[1]))
        return
    for when in ("before spring", "after autumn"):
        program = [sys.executable, __file__, when.split()[1]]
        died = subprocess.run(program, env={**os.environ, "DIES": when}, check=False)  # noqa: S603  # this very program
        print(f"died {when} was sent, with status {died.returncode}")
        asyncio.run(recover())
    print(OUTBOX.read_text(encoding="utf-8").replace("\n", " ").strip())


if __name__ == "__main__":
    main()
