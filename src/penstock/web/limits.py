"""The limits of the HTTP server: every buffer has a bound in bytes, and every wait a bound in time."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

_RESERVED_FILES: Final = 256  # descriptors that stay free for the database, replicas and logs


def _default_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 10_000 if soft == resource.RLIM_INFINITY else max(64, min(10_000, soft - _RESERVED_FILES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one server. ``docs/operations.md`` lists the defaults for operators."""

    # Heads
    head_bytes: int = 64 * 1024  # request line and headers; more is refused with 431
    headers: int = 100
    path_bytes: int = 8 * 1024  # path and query; more is refused with 414
    head_timeout: timedelta = timedelta(seconds=15)  # from the first byte of a head, or from connecting, to its end

    # Bodies. Routes bound their sizes.
    body_rate: int = 1024  # the minimum in bytes per second, while the handler reads
    body_window: timedelta = timedelta(seconds=30)  # the length of the windows in which the rate is measured
    body_buffer_bytes: int = 256 * 1024  # received and not yet read by a handler; above this, reading the socket pauses
    bodies_bytes: int = 512 * 2**20  # of all bodies that handlers hold as a whole, and large messages; then they wait
    bodies_timeout: timedelta = timedelta(seconds=10)  # of that wait; then the response is 503

    # Responses
    write_buffer_bytes: int = 256 * 1024  # handed to the socket and not yet sent; above this, no chunk is produced
    drain_rate: int = 1024  # the minimum in bytes per second at which a client takes bytes that wait for it
    drain_window: timedelta = timedelta(seconds=30)  # the length of the windows in which the rate is measured
    ping: timedelta = timedelta(seconds=15)  # of silence on an event stream, before a comment is sent
    queued_bytes: int = 256 * 2**20  # of all stalled responses together; above this, the longest stalled one is cut

    # Connections
    idle_timeout: timedelta = timedelta(seconds=75)  # between two requests
    idle_connections: int = 5_000  # connections without a request; above this, the longest idle is closed
    idle_connections_per_address: int = 1_000
    connections: int = field(default_factory=_default_connections)  # in all; further ones are closed at once
    linger: timedelta = timedelta(seconds=2)  # how long a refused request's remaining bytes are read and dropped
    linger_bytes: int = 4 * 2**20
