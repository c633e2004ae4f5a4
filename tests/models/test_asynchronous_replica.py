"""An asynchronous replica whose host does not read."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from penstock.models.replica.asynchronous import AsyncReplica
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.runtime import AsyncRuntime, Call, Output, Schema, Spec
from penstock.models.replica.wire import Control


class Silent(AsyncRuntime):
    async def predict(self, call: Call) -> Output | None:
        return None


async def test_lines_that_cannot_be_sent_are_left_out() -> None:
    """A model that prints without end fills no memory."""
    data, host_data = socket.socketpair()
    control, host_control = socket.socketpair()
    with host_data, host_control, control:
        spec = Spec(name="silent", version="1", folder=Path(), options={}, schema=Schema())
        replica = AsyncReplica(Silent(spec), data, Control(control, lambda _: None), files=CallFiles(""), arena=None)
        replica._loop = asyncio.get_running_loop()
        transport, _ = await replica._loop.create_unix_connection(lambda: replica, sock=data)
        for _ in range(20_000):
            replica._log("info", "x" * 1000)
        assert 2**22 < transport.get_write_buffer_size() < 2**22 + 2**12
        transport.abort()
