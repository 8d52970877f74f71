"""
An agent on an open model that runs on this machine, behind a server that speaks as OpenAI's does.

No key is needed and nothing leaves the machine. Which server it is doesn't matter: `LOCAL_MODEL_URL` is its address,
up to and with `/v1`. `make local-model` installs one with a small model, in an environment of its own, starts it,
and runs this program against it; see the page beside it.

    LOCAL_MODEL_URL=http://127.0.0.1:8081/v1 python examples/local_model/chat.py
"""

from __future__ import annotations

import asyncio
import os

from polos import Agent, Polos

local = Agent(
    id="local",
    provider="openai",
    provider_llm_api="chat_completions",
    provider_base_url=os.environ.get("LOCAL_MODEL_URL", "http://127.0.0.1:8081/v1"),
    model=os.environ.get("LOCAL_MODEL", "local"),
    system_prompt="You answer in one short sentence.",
    max_output_tokens=60,
    temperature=0.0,
    provider_settings={"api_key": "none"},  # local servers don't look at it
)


async def main() -> None:
    async with Polos() as polos:
        answer = await local.run(polos, "What is the capital of France?", session_id="local")
        print(f"in one piece: {answer.result}")
        print(f"tokens: {answer.usage.input_tokens} in, {answer.usage.output_tokens} out")
        reply = await local.stream(polos, "And that of Italy?", session_id="local")
        pieces = [chunk async for chunk in reply.text_chunks]
        print(f"in pieces: {''.join(pieces)}")
        print(f"several: {len(pieces) > 1}, all of it: {''.join(pieces) == (await reply.result()).result}")


if __name__ == "__main__":
    asyncio.run(main())
