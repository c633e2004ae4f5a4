"""``utils.ToolBox``: questions about the server itself."""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from penstock.athena.atom.exchanges import Exchanges
from penstock.athena.atom.senders import sender
from penstock.athena.protocol.forms.request import parsed
from penstock.athena.protocol.messages.xsf_pb2 import Request, Response
from penstock.errors import PenstockError
from penstock.telemetry import metrics
from penstock.tenants import scopes

SERVICE: Final = "utils.ToolBox"
_COMMANDS: Final = "health, status, metrics or help"
_fields: Final = msgspec.json.Decoder(dict[str, str])


class ToolBox:
    """Runs the commands of ``cmdserver``. All but ``health`` and ``help`` need the scope ``operator``."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._began = time.monotonic()

    async def cmdserver(self, message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Return what the command in the query asks for, as text."""
        try:
            given = parsed(Request, message)
            query, headers = _fields.decode(given.query or "{}"), _fields.decode(given.headers or "{}")
        except (PenstockError, msgspec.MsgspecError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "query and headers must be JSON objects of strings")
        if headers.get("method", "GET").upper() != "GET":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the method must be GET")
        command = query.get("cmd", "help")
        if command in {"status", "metrics"} and scopes.OPERATOR not in sender().request.principal.scopes:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this needs a key with the scope operator")
        return Response(body=self._run(command)).SerializeToString()

    def _run(self, command: str) -> str:
        match command:
            case "health":
                return "health status: " + ("stopping" if self._exchanges.draining else "ok")
            case "status":
                return "\n".join(f"{name}: {value}" for name, value in self._status().items())
            case "metrics":
                return metrics.exposition().decode()
        return f"cmd must be {_COMMANDS}"

    def _status(self) -> dict[str, object]:
        return {
            "version": version("penstock"),
            "pid": os.getpid(),
            "uptime": f"{time.monotonic() - self._began:.0f}s",
            "in progress": len(self._exchanges),
            "most": self._exchanges.most,
        }
