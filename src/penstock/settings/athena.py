"""Settings of Athena Serving's protocol."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from penstock.settings.kinds import (
    DAY,
    HOUR,
    MEBIBYTE,
    SECOND,
    choice,
    count,
    duration,
    flag,
    integer,
    port,
    several,
    size,
)
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class AthenaSettings:
    """Athena Serving."""

    penstock_athena_bodies: Literal["document", "loader"] = setting(
        choice("document", "loader"),
        "document",
        "form of the responses over HTTP: that of the protocol's document, or that of version 3 of the original loader",
    )
    penstock_athena_queue: bool = setting(
        flag,
        True,
        "calls of a model whose places are all taken wait; off: they fail at once with code 10110, as in the original",
    )
    penstock_athena_read_timeout: timedelta = setting(
        duration(SECOND / 10, DAY),
        timedelta(seconds=15),
        "longest wait for a WebSocket's next message while its session may get one; then it is closed",
    )
    penstock_athena_session_timeout: timedelta = setting(
        duration(SECOND / 10, DAY), timedelta(seconds=180), "longest time of a session over WebSocket"
    )
    penstock_athena_handshake_timeout: timedelta = setting(
        duration(SECOND / 10, DAY), timedelta(seconds=4), "longest time until a request has become a WebSocket"
    )
    penstock_athena_close_wait: timedelta = setting(
        duration(timedelta(0), DAY),
        timedelta(seconds=5),
        "time for the client to confirm the close of a WebSocket, and to retry a session whose connection was cut",
    )
    penstock_athena_enable_retry: bool = setting(
        flag, False, "keep every session whose connection was cut for a retry, not only where the client asks for it"
    )
    penstock_athena_ignored_codes: tuple[int, ...] = setting(
        several(integer(1)), (10101,), "comma-separated codes of errors that are not sent over WebSocket"
    )
    penstock_athena_message_bytes: int = setting(size, 16 * MEBIBYTE, "largest message over WebSocket")
    penstock_athena_sessions: int = setting(
        count, 100, "most sessions at the same time of one WebSocket with stream_mode=multiplex"
    )
    penstock_athena_grpc_port: int | None = setting(
        port,
        None,
        "port of the gateway's gRPC server, at the address HTTP_HOST; 0 chooses a free one; unset: it does not start. "
        "The original listens on 5090",
    )
    penstock_athena_grpc_message_bytes: int = setting(
        size, 4 * MEBIBYTE, "largest message that the gRPC server receives"
    )
    penstock_athena_grpc_idle: timedelta = setting(
        duration(SECOND, HOUR),
        timedelta(seconds=60),
        "how long a call or session over gRPC is kept without a message or poll of its client",
    )
