"""A process that records 200 requests a second, and says of each that it has: `python recording_process.py URL`."""

import asyncio
import sys
import time

from local_gateway.storage.store import Store
from local_gateway.storage.writer import StoreWriter
from tests.gateway.usage_samples import paid

REQUEST_SECONDS = 1 / 200


async def main(url: str) -> None:
    writer = StoreWriter(lambda create: Store(url, create=create), keep_usage=1e6)
    writer.start(lambda snapshot: None)
    while True:
        record = paid("k1", 1.0)
        writer.record(record)
        sys.stdout.write(f"{time.monotonic()} {record.id}\n")
        sys.stdout.flush()
        await asyncio.sleep(REQUEST_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
