"""
The basics: steps, retried steps, values that replay gives again, and workflows that call workflows.

    python examples/workflow_basics.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from polos import Polos, WorkflowContext, workflow

# ------------------------------------------------------------------------------------- one workflow


class Greeting(BaseModel):
    name: str


@workflow(id="hello")
async def hello(ctx: WorkflowContext, payload: Greeting) -> dict[str, Any]:
    text = await ctx.step.run("compose", lambda: f"Hello, {payload.name}!")
    return {"text": text, "id": await ctx.step.uuid("id"), "at_ms": await ctx.step.now("at")}


# ---------------------------------------------------------------------------------------- a pipeline

_refusals = iter([True])


def fetch(source: str) -> list[str]:
    """Fetch some words; the first time, nobody answers."""
    if next(_refusals, False):
        raise ConnectionError(f"{source} doesn't answer")
    return ["hello", "world", "workflow"]


async def shout(words: list[str]) -> list[str]:
    return [word.upper() for word in words]


@workflow(id="pipeline")
async def pipeline(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    words = await ctx.step.run("fetch", fetch, payload["source"], max_retries=3, base_delay=0.1, max_delay=1.0)
    shouted = await ctx.step.run("shout", shout, words)
    sampled = await ctx.step.random("sample")
    return {"words": shouted, "count": len(shouted), "sampled": 0 <= sampled < 1}


# -------------------------------------------------------------------------------- parent and children


class Batch(BaseModel):
    records: list[dict[str, Any]]


class Validation(BaseModel):
    valid: list[dict[str, Any]]
    total: int


class Preparation(BaseModel):
    status: str
    total: int
    records: list[dict[str, Any]]


@workflow(id="validate_records")
async def validate_records(ctx: WorkflowContext, payload: Batch) -> Validation:
    def check(batch: Batch) -> list[dict[str, Any]]:
        return [record for record in batch.records if record.get("id")]

    return Validation(valid=await ctx.step.run("check", check, payload), total=len(payload.records))


@workflow(id="enrich_records")
async def enrich_records(ctx: WorkflowContext, payload: Batch) -> list[dict[str, Any]]:
    return await ctx.step.run("enrich", lambda: [{**record, "_enriched": True} for record in payload.records])


@workflow(id="prepare_records")
async def prepare_records(ctx: WorkflowContext, payload: Batch) -> Preparation:
    # The result of a child is an instance of what the child says it returns.
    checked = await ctx.step.invoke_and_wait("validate", validate_records, payload)
    enriched = await ctx.step.invoke_and_wait("enrich", enrich_records, Batch(records=checked.valid))
    return Preparation(status="prepared", total=checked.total, records=enriched)


# ------------------------------------------------------------------------------------ an orchestrator


@workflow(id="process_records")
async def process_records(ctx: WorkflowContext, payload: dict[str, Any]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = payload["records"]
    for option in payload["processing"]:
        if option == "normalize":
            lower = [{key.lower(): value for key, value in record.items()} for record in records]
            records = await ctx.step.run(option, lambda lower=lower: lower)
        elif option == "dedupe":
            unique = {record["id"]: record for record in records}
            records = await ctx.step.run(option, lambda unique=unique: list(unique.values()))
    return records


@workflow(id="orchestrate")
async def orchestrate(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    prepared = await ctx.step.invoke_and_wait("prepare", prepare_records, {"records": payload["records"]})
    wanted = {"records": prepared.records, "processing": payload["processing"]}
    processed = await ctx.step.invoke_and_wait("process", process_records, wanted)
    return {"status": "completed", "processing": payload["processing"], "records": len(processed)}


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        greeting = await hello.run(polos, Greeting(name="Alice"))
        print(greeting["text"], f"(a {len(greeting['id'])}-character id)")

        made = await pipeline.run(polos, {"source": "the archive"})
        print(*made["words"], sep="\n")
        print(f"count: {made['count']}, sampled: {made['sampled']}")

        records = [{"ID": 0, "id": number} for number in (1, 2, 3)]
        prepared = await prepare_records.run(polos, Batch(records=records))
        print(f"parent: {len(prepared.records)}/{prepared.total} valid, {prepared.status}")
        print(f"_enriched: {prepared.records[0]['_enriched']}")

        twice = [{"id": 1, "city": "Lyon"}, {"id": 2, "city": "Cork"}, {"id": 1, "city": "Lyon"}]
        done = await orchestrate.run(polos, {"records": twice, "processing": ["normalize", "dedupe"]})
        print(f"orchestrator: {done['status']}, processing {done['processing']}, {done['records']} records")


if __name__ == "__main__":
    asyncio.run(main())
