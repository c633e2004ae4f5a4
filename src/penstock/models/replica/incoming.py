"""Receive calls from the host; calls that belong together form one group."""

from __future__ import annotations

import socket

from penstock.models.replica import frames
from penstock.models.replica.runtime import Call
from penstock.models.replica.wire import ReplicaWire, call_of

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
    """Turns bytes into groups of calls."""

    def __init__(self, wire: ReplicaWire) -> None:
        self._wire = wire
        self._decoder = frames.Decoder()
        self._group: list[Call] = []
        self._missing = 0

    def feed(self, data: bytes) -> list[list[Call]]:
        """Return the groups that ``data`` completes."""
        groups: list[list[Call]] = []
        wire = self._wire
        for frame in self._decoder.feed(data):
            if frame.kind == frames.BATCH:
                self._missing = frames.decode_header(_batch_header, frame.header).count
                self._group = []
                continue
            call = call_of(frame, wire)
            if not self._missing:
                groups.append([call])
                continue
            self._group.append(call)
            self._missing -= 1
            if not self._missing:
                groups.append(self._group)
        return groups
