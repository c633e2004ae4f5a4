"""``utils.XsfCall``: the one method of the original's RPC, which carries all operations."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from penstock.athena.atom.operations import Call, Operations
from penstock.athena.atom.senders import sender
from penstock.athena.protocol.forms import xsf
from penstock.errors import PenstockError
from penstock.telemetry import logs

log = logs.get(__name__)

SERVICE = "utils.XsfCall"


class XsfCalls:
    """Reads calls, runs their operations, and writes the responses."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def call(self, message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Serve one call. What is not a call at all ends in a status of gRPC, everything else in a response."""
        try:
            request = xsf.decode_request(message)
        except PenstockError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        deadline = _deadline(context.time_remaining())
        call = Call(request=request, sender=sender(), size=len(message), deadline=deadline)
        try:
            response = xsf.encode_response(await self._operations.run(call))
        except Exception:  # a mistake in Penstock; its details appear only in the log
            log.exception("grpc_call_failed", operation=request.operation[:100])
            await context.abort(grpc.StatusCode.INTERNAL, "the service failed to process this request")
        return response


def _deadline(left: float | None) -> float | None:
    """Return the time at which an RPC ends, by the clock of the event loop; None: it has no deadline."""
    return None if left is None else asyncio.get_running_loop().time() + left
