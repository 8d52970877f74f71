"""
Ask a person, and go on with the answer: an approval, a form of three pages, and a document with several reviewers.

A menu; answers are typed. A run that waits for an answer costs nothing, and can wait for weeks: end the program in
the middle, start it again, and the run is still there, suspended.

    python examples/suspend_resume.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from polos import Polos, WorkflowContext, events, workflow


@workflow(id="approval")
async def approval(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    await ctx.step.run("prepare", lambda: f"request {payload['request']} is ready")
    answer = await ctx.step.suspend("approve", {"request": payload["request"], "question": "Approve it?"})
    decision = answer.data
    if not decision["approved"]:
        return {"status": "rejected", "by": decision["by"]}
    await ctx.step.run("carry_out", lambda: f"{payload['request']} was carried out")
    return {"status": "approved", "by": decision["by"]}


@workflow(id="form")
async def form(ctx: WorkflowContext) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for page in ("name", "city", "plan"):
        answer = await ctx.step.suspend(f"ask_{page}", {"question": f"Your {page}?", "so_far": filled})
        filled[page] = answer["data"]["value"]
    return {"status": "complete", "form": filled}


@workflow(id="document_review")
async def document_review(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    verdicts: dict[str, str] = {}
    for reviewer in payload["reviewers"]:
        question = f"{reviewer}, do you approve of {payload['document']}?"
        answer = await ctx.step.suspend(f"review_{reviewer}", {"question": question})
        verdicts[reviewer] = answer.get("data", {}).get("verdict", "abstained")
    agreed = all(verdict == "yes" for verdict in verdicts.values())
    return {"status": "accepted" if agreed else "returned", "verdicts": verdicts}


def ask(question: str) -> str:
    # Blocks the program, as input() does. The engine stalls with it, and nothing worse happens.
    return input(f"{question} ").strip()


def show(title: str, found: dict[str, Any]) -> None:
    print(f"--- Completed: {title} ---")
    print(f"status: {found['status']}")
    for name, value in found["result"].items():
        print(f"{name}: {value}")
    print("---")


async def run_approval(polos: Polos) -> None:
    handle = await approval.invoke(polos, {"request": "R-17"})
    async for event in events.stream_workflow(polos, "approval", handle.id):
        if event.event_type == "suspend_approve":
            approved = ask(f"[{event.data['request']}] {event.data['question']} (y/n)") == "y"
            await polos.resume("approval", handle.id, "approve", {"approved": approved, "by": "you"})
            break
    await asyncio.sleep(2)
    show("approval", await polos.get_execution(handle.id))


async def run_form(polos: Polos) -> None:
    handle = await form.invoke(polos)
    async for event in events.stream_workflow(polos, "form", handle.id):
        kind = event.event_type or ""
        if kind.startswith("suspend_"):
            key = kind.removeprefix("suspend_")
            await polos.resume("form", handle.id, key, {"value": ask(event.data["question"])})
    show("form", await polos.get_execution(handle.id))


async def run_review(polos: Polos) -> None:
    handle = await document_review.invoke(polos, {"document": "the charter", "reviewers": ["ada", "grace"]})
    async for event in events.stream_workflow(polos, "document_review", handle.id):
        kind = event.event_type or ""
        if kind.startswith("suspend_"):
            key = kind.removeprefix("suspend_")
            await polos.resume("document_review", handle.id, key, {"verdict": ask(event.data["question"])})
    show("review", await polos.get_execution(handle.id))


async def main() -> None:
    choices = {"1": run_approval, "2": run_form, "3": run_review}
    async with Polos(log_file="polos.log") as polos:
        while True:
            print("1 approval   2 form   3 document review   q quit")
            choice = ask(">")
            if choice == "q":
                return
            if choice in choices:
                await choices[choice](polos)


if __name__ == "__main__":
    asyncio.run(main())
