"""What most workers do: yield every token as it comes. 10 ms a token, with no model behind it."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

import runpod


async def handle(job: dict[str, Any]) -> AsyncGenerator[str, None]:
    sys.stdout.write(f"job {job['id']}: started\n")
    sys.stdout.flush()
    for _ in range(job["input"]["max_tokens"]):
        await asyncio.sleep(0.01)
        yield "token "


if __name__ == "__main__":
    runpod.serverless.start({"handler": handle, "return_aggregate_stream": True})
