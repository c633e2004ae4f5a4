"""Receive calls from the host, and the parts of sessions; calls that belong together form one group."""

from __future__ import annotations

import socket
from collections.abc import Callable

from penstock.models.replica import frames
from penstock.models.replica.runtime import Call
from penstock.models.replica.sessions import Session
from penstock.models.replica.wire import ReplicaWire, call_of, part_of

_READ_BYTES = 2**18

_batch_header = frames.header_decoder(frames.BatchHeader)


class Reader:
    """Reads a socket into one buffer: allocating one of this size for each read would cost three system calls."""

    def __init__(self, connection: socket.socket) -> None:
        self._receive_into = connection.recv_into
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)

    def read(self) -> bytes:
        """Wait for bytes; nothing when the host has gone."""
        try:
            size = self._receive_into(self._buffer)
        except OSError:
            return b""
        return bytes(self._view[:size])


class Groups:
    """Turns bytes into groups of calls, and delivers parts to the sessions among them.

    ``abandon`` is called with a session whose caller has left. A session that has ended must be forgotten.
    """

    def __init__(self, wire: ReplicaWire, abandon: Callable[[Session], None] = Session.abandon) -> None:
        self._wire = wire
        self._abandon = abandon
        self._decoder = frames.Decoder()
        self._group: list[Call] = []
        self._missing = 0
        self._sessions: dict[int, Session] = {}

    def feed(self, data: bytes) -> list[list[Call]]:
        """Return the groups that ``data`` completes. Raises ProtocolError."""
        groups: list[list[Call]] = []
        wire = self._wire
        for frame in self._decoder.feed(data):
            if frame.kind != frames.CALL:
                self._other(frame)
                continue
            call = call_of(frame, wire)
            if isinstance(call, Session):
                self._sessions[call.id] = call
            if not self._missing:
                groups.append([call])
                continue
            self._group.append(call)
            self._missing -= 1
            if not self._missing:
                groups.append(self._group)
        return groups

    def forget(self, session: Session) -> None:
        """Forget a session that has ended; what still arrives for it is ignored."""
        self._sessions.pop(session.id, None)

    def abandon_all(self) -> None:
        """End the waits of all sessions: the host sends no more."""
        for session in list(self._sessions.values()):
            self._abandon(session)

    def _other(self, frame: frames.Frame) -> None:
        if frame.kind == frames.BATCH:
            self._missing = frames.decode_header(_batch_header, frame.header).count
            self._group = []
            return
        session = self._sessions.get(frame.id)
        if frame.kind not in (frames.PART, frames.END, frames.CANCEL):
            raise frames.ProtocolError(f"kind {frame.kind} on the data channel")
        if session is None:
            return  # it has ended meanwhile
        match frame.kind:
            case frames.PART:
                session.deliver(part_of(frame), frames.chunk_size(len(frame.body)))
            case frames.END:
                session.end_parts()
            case _:
                self._abandon(session)
