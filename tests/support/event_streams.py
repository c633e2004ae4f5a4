"""Event streams of a gateway, read as EventSource reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from tests.support.gateways import HttpCaller


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    type: str
    cloud: dict[str, Any]


class Stream:
    """An open event stream, read as EventSource reads it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments = 0

    async def next(self) -> Event | None:
        """Return the next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        while line := (await asyncio.wait_for(self.response.content.readline(), 60)).decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif line != "\n":
                fields[name] = value
            elif "data" in fields:
                return Event(fields["id"], fields["event"], msgspec.json.decode(fields["data"]))
        return None

    async def rest(self) -> list[Event]:
        """Return all events until the stream ends."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@asynccontextmanager
async def stream(caller: HttpCaller, path: str, **headers: str) -> AsyncIterator[Stream]:
    async with caller.session.get(f"{caller.address}/api/v1{path}", headers=headers) as response:
        assert response.status == 200, await response.text()
        yield Stream(response)
