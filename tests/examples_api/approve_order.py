"""The other program: approves an order, or rejects it."""

import asyncio
import sys

from polos import PolosClient


async def main(run: str, *, reject: bool) -> None:
    client = PolosClient(project_id="examples", api_url="http://localhost:8080")
    answer = {"approved": not reject, "approver": "grace", "reason": "too much" if reject else None}
    await client.resume("order_processing", run, "approve_order", answer)
    print("rejected" if reject else "approved")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], reject="--reject" in sys.argv))
