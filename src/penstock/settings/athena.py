"""Settings of Athena Serving's protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.settings.kinds import MEBIBYTE, choice, flag, port, size
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
    penstock_athena_grpc_port: int | None = setting(
        port,
        None,
        "port of the gateway's gRPC server, at the address HTTP_HOST; 0 chooses a free one; unset: it does not start. "
        "The original listens on 5090",
    )
    penstock_athena_grpc_message_bytes: int = setting(
        size, 4 * MEBIBYTE, "largest message that the gRPC server receives"
    )
