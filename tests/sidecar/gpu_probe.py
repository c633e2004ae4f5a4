"""Read the GPUs for each line, the seconds to wait. A separate program, as a library is loaded only once."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from penstock.sidecar.fetching import SourceFailed
from penstock.sidecar.gpus import GpuReader


async def main() -> None:
    reader = GpuReader()
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            async with asyncio.timeout(float(line)):
                state: object = await reader.read()
        except (TimeoutError, SourceFailed) as error:
            state = {"error": str(error) or type(error).__name__}
        sys.stdout.write(msgspec.json.encode(state).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
