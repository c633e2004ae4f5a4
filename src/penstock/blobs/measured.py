"""Count and hash the bytes of an upload as they pass."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from penstock.errors import InvalidInput, TooLarge


class Measured:
    """The bytes of an upload: at most ``max_bytes``, with the SHA-256 ``expected_sha256`` if it is given."""

    def __init__(self, chunks: AsyncIterator[bytes], max_bytes: int, *, expected_sha256: str | None = None) -> None:
        self._expected = expected_sha256
        self._chunks = chunks
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self.size = 0  # bytes that have passed

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes that have passed."""
        return self._digest.hexdigest()

    async def first(self, count: int) -> bytes:
        """Return at least ``count`` bytes from the beginning, or all if there are fewer."""
        begin = bytearray()
        while len(begin) < count:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._end()
                break
            self._pass(chunk)
            begin += chunk
        return bytes(begin)

    async def all(self, begin: bytes) -> AsyncIterator[bytes]:
        """Yield ``begin`` and what follows it."""
        yield begin
        del begin
        async for chunk in self._chunks:
            self._pass(chunk)
            yield chunk
        self._end()

    def _end(self) -> None:
        if self._expected is not None and self.sha256 != self._expected:
            raise InvalidInput.of("sha256", f"does not match the bytes, whose SHA-256 is {self.sha256}")

    def _pass(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise TooLarge(f"the file has more than the {self._max_bytes} bytes allowed")
        self._digest.update(chunk)
