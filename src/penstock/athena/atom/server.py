"""The gRPC server of a gateway: its port, its limits, and the services for health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from penstock.errors import FieldProblem, SettingsError
from penstock.telemetry import logs

log = logs.get(__name__)

if TYPE_CHECKING:  # the class is generic in its stubs only
    Method = Callable[[bytes, grpc.aio.ServicerContext[Any, Any]], Awaitable[bytes]]

_MAX_CALLS: Final = 10_000  # RPCs at the same time; more are refused with RESOURCE_EXHAUSTED
_MAX_STREAMS: Final = 1000  # of them, on one connection
_MAX_METADATA_BYTES: Final = 16 * 1024
_KEEPALIVE: Final = timedelta(minutes=2)  # between the server's pings of a connection that is idle
_KEEPALIVE_TIMEOUT: Final = timedelta(seconds=20)
_MIN_PING: Final = timedelta(seconds=10)  # between pings of a client; a client that sends more is disconnected
_LAST_CALLS: Final = timedelta(seconds=1)  # for responses that are being sent when the server stops


class GrpcServer:
    """Serves methods, by service and name, that take and return encoded messages.

    ``drain`` waits for what is in progress, and ``stop`` ends it. Both may be repeated.
    """

    def __init__(
        self,
        host: str,
        port: int,
        services: Mapping[str, Mapping[str, Method]],
        *,
        check: grpc.aio.ServerInterceptor,
        max_message_bytes: int,
        variable: str,
    ) -> None:
        self._host = host
        self._port = port
        self._services = services
        self._check = check
        self._max_message_bytes = max_message_bytes
        self._variable = variable  # the setting of the port
        self._server: grpc.aio.Server | None = None
        self._health = HealthServicer()
        self.port = 0  # on which it listens

    async def start(self) -> None:
        """Listen. Raises SettingsError if the address cannot be used."""
        server = grpc.aio.server(
            interceptors=[self._check], options=self._options(), maximum_concurrent_rpcs=_MAX_CALLS
        )
        for name, methods in self._services.items():
            handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
                method: grpc.unary_unary_rpc_method_handler(handle) for method, handle in methods.items()
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        add_HealthServicer_to_server(self._health, server)
        names = (*self._services, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        host = f"[{self._host.strip('[]')}]" if ":" in self._host else self._host
        try:
            self.port = server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError:
            detail = f"cannot listen on {self._host} port {self._port}: is it in use?"
            raise SettingsError([FieldProblem(field=self._variable, detail=detail)]) from None
        await server.start()
        self._server = server
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        log.info("grpc_started", host=self._host, port=self.port)

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def drain(self, ended: Awaitable[object], grace: timedelta) -> None:
        """Report that the server stops, and wait for ``ended`` for at most ``grace``."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
        try:
            await asyncio.wait_for(ended, grace.total_seconds())
        except TimeoutError:
            log.warning("grpc_sessions_cut")

    async def stop(self) -> None:
        """Stop listening, and end what is still in progress."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_LAST_CALLS.total_seconds())
            log.info("grpc_stopped")

    def _options(self) -> Sequence[tuple[str, Any]]:
        return [
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", -1),  # models bound their outputs
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ("grpc.keepalive_time_ms", _milliseconds(_KEEPALIVE)),
            ("grpc.keepalive_timeout_ms", _milliseconds(_KEEPALIVE_TIMEOUT)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(_MIN_PING)),
        ]


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
