"""
The process that owns the engine, and that the demo kills.

It holds nothing that matters: started again on the same directory, it goes on. It stops gracefully on SIGTERM, and
also when its standard input ends, so that it doesn't outlive whoever started it.

    python -m examples.orders.worker DIRECTORY
"""

from __future__ import annotations

import asyncio
import os
import sys

from examples.orders.workflows import process, ship
from polos import PolosClient, Worker


async def main(data_dir: str) -> None:
    worker = Worker(PolosClient(data_dir=data_dir), deployment_id="demo", workflows=[process, ship])
    stopping: list[asyncio.Future[None]] = []

    def at_input() -> None:
        if not os.read(sys.stdin.fileno(), 1024):  # its end: whoever started this is gone
            loop.remove_reader(sys.stdin.fileno())
            stopping.append(asyncio.ensure_future(worker.shutdown()))

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), at_input)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
