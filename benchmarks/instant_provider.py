"""A provider that responds to every request at once: completions, and transcripts for forms. ``python -m … PORT``."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

_BODY = (
    b'{"model": "instant", "text": "Hello there.", "segments": [{"start": 0, "end": 1, "text": "Hello there."}], '
    b'"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}], '
    b'"usage": {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """Reads requests up to their Content-Length or last chunk, and responds to each."""

    def __init__(self) -> None:
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (head := self._data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._data, 0, head)
            if length is not None:
                end = head + 4 + int(length[1])
            else:
                last = self._data.find(b"\r\n0\r\n\r\n", head)
                end = last + 7 if last >= 0 else len(self._data) + 1
            if len(self._data) < end:
                return
            del self._data[:end]
            self._transport.write(_ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
