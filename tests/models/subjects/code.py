"""Python models that do what the shared suite asks: plain, asynchronous, and streaming."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator, Iterator

from penstock import File


class Plain:
    """All operations but streaming."""

    def __init__(self) -> None:
        self.kept = bytearray()

    def predict(
        self, op: str, text: str = "", seconds: float = 0, n: int = 0, blob: File | None = None
    ) -> dict[str, str | File]:
        if op == "sleep":
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.002)
        return self.quick(op, text, blob)

    def quick(self, op: str, text: str, blob: File | None) -> dict[str, str | File]:
        """Run an operation that takes no time."""
        match op:
            case "raise":
                raise RuntimeError("this is what went wrong")
            case "exit":
                os._exit(9)
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()
            case "grow":
                self.kept = bytearray(300 * 2**20)
                time.sleep(60)
            case "print":
                print(text)
            case "blob" if blob is not None:
                return {"blob": File(blob.data[::-1], "image/x-mirrored")}
        return {"text": text if op == "echo" else "done"}


class Asynchronous(Plain):
    """Do the same on an event loop."""

    async def predict(  # type: ignore[override]
        self, op: str, text: str = "", seconds: float = 0, n: int = 0, blob: File | None = None
    ) -> dict[str, str | File]:
        if op == "sleep":
            await asyncio.sleep(seconds)
        return self.quick(op, text, blob)


class Streaming:
    """Counts."""

    def predict(self, op: str, n: int) -> Iterator[int]:
        yield from range(n)


class AsynchronousStreaming:
    """Counts on an event loop."""

    async def predict(self, op: str, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
