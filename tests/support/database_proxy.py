"""A connection to the database that can be cut."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote, urlsplit

from penstock.postgres.pool import Database

SOCKET = ".s.PGSQL.5432"


class DatabaseProxy:
    """The connection to the server, which can be cut, mended, and made to lose a response."""

    def __init__(self, folder: Path, server_socket: str) -> None:
        self.folder = folder
        self.server_socket = server_socket
        self._listener: asyncio.Server | None = None
        self._open = False  # connections are let through
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loses_response_to: bytes | None = None
        self.lost = asyncio.Event()

    async def mend(self) -> None:
        """Let connections through."""
        self._open = True
        self._listener = await asyncio.start_unix_server(self._serve, self.folder / SOCKET)

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._open = False
        if self._listener is not None:
            self._listener.close()
            (self.folder / SOCKET).unlink(missing_ok=True)
        for end in list(self._ends):
            end.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lose_response_to(self, words: bytes) -> None:
        """Let the next message that holds these words through, and cut its connection when the response comes."""
        self.lost.clear()
        self._loses_response_to = words

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:  # cut after the connection was accepted
            writer.transport.abort()
            return
        self._ends.add(writer)
        up_reader, up_writer = await asyncio.open_unix_connection(self.server_socket)
        if writer.transport.is_closing():  # cut meanwhile
            self._ends.discard(writer)
            up_writer.transport.abort()
            return
        self._ends.add(up_writer)
        swallow = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(2**16):
                if self._loses_response_to is not None and self._loses_response_to in data:
                    self._loses_response_to = None
                    swallow.set()
                up_writer.write(data)

        async def back() -> None:
            while data := await up_reader.read(2**16):
                if swallow.is_set():
                    self.lost.set()
                    return
                writer.write(data)

        ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
        self._tasks |= {*ways}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, up_writer):
            end.transport.abort()
            self._ends.discard(end)
        await asyncio.gather(*ways, return_exceptions=True)
        self._tasks -= {*ways}


def database_over(line: DatabaseProxy, url: str) -> Database:
    """Return connections to a database that go over a line."""
    parts = urlsplit(url)
    own = f"postgresql://{parts.netloc}{parts.path}?host={quote(str(line.folder), safe='/')}&port=5432"
    return Database(own, application_name="penstock-test")
