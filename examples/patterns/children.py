"""
`ctx.step.invoke`, `invoke_and_wait`, `batch_invoke` and `batch_invoke_and_wait`: workflows that start workflows.

A result is of the type that the child says it returns. A child that fails is an error of the one who waits for it,
or, in a batch, an entry that says so.
"""

import asyncio
from typing import Any

from pydantic import BaseModel

from polos import BatchWorkflowInput, Polos, StepExecutionError, WorkflowContext, workflow


class Thumbnail(BaseModel):
    picture: str
    width: int


@workflow
async def shrink(ctx: WorkflowContext, payload: dict[str, Any]) -> Thumbnail:
    def convert(picture: str) -> int:
        if not picture.endswith(".png"):
            raise ValueError(f"{picture} is no picture")
        return 64

    width = await ctx.step.run("convert", convert, payload["picture"], max_retries=0)
    return Thumbnail(picture=payload["picture"], width=width)


@workflow
async def album(ctx: WorkflowContext, payload: dict[str, Any]) -> dict[str, Any]:
    cover = await ctx.step.invoke_and_wait("cover", shrink, {"picture": "cover.png"})
    print_order = await ctx.step.invoke("backside", shrink, {"picture": "back.png"})  # goes on by itself

    pages = [BatchWorkflowInput(id="shrink", payload={"picture": name}) for name in payload["pages"]]
    results = await ctx.step.batch_invoke_and_wait("pages", pages)
    extra = await ctx.step.batch_invoke("extra", pages[:2])

    try:
        await ctx.step.invoke_and_wait("sleeve", shrink, {"picture": "sleeve.txt"})
        sleeve = "done"
    except StepExecutionError as error:
        sleeve = error.reason
    return {
        "cover": f"{type(cover).__name__} of {cover.picture}, {cover.width} wide",
        "pages": [result.result.picture if result.success else "failed" for result in results],
        "not waited for": len({print_order.id, *(handle.id for handle in extra)}),
        "sleeve": sleeve,
    }


async def main() -> None:
    async with Polos(log_file="polos.log") as polos:
        made = await album.run(polos, {"pages": ["a.png", "b.doc", "c.png"]})
        for name, value in made.items():
            print(f"{name}: {value}")


asyncio.run(main())
