"""Detect that a client has left while its socket is not being read."""

from __future__ import annotations

import asyncio
import select
from typing import Final

_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)  # 0 where the system cannot report it


def has_left(transport: asyncio.Transport) -> bool:
    """Return whether the client has closed its side, which the system reports even if unread bytes precede the end."""
    socket = transport.get_extra_info("socket")
    if socket is None or transport.is_closing():
        return False
    poll = select.poll()
    poll.register(socket.fileno(), _HUNG_UP)
    return bool(poll.poll(0))
