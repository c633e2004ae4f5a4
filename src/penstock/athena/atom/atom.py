"""The gRPC server with all that it serves."""

from __future__ import annotations

from datetime import timedelta

from penstock.athena.atom import calls, toolbox
from penstock.athena.atom.exchanges import Exchanges
from penstock.athena.atom.opening import Opening
from penstock.athena.atom.operations import Operations
from penstock.athena.atom.senders import SenderCheck
from penstock.athena.atom.server import GrpcServer
from penstock.athena.authentication import Authentication
from penstock.athena.protocol.requests import Limits
from penstock.athena.services import Services
from penstock.settings import Settings


class Atom:
    """Serves Athena's RPC on one port."""

    def __init__(
        self, settings: Settings, authentication: Authentication, services: Services, *, port: int, variable: str
    ) -> None:
        message_bytes = settings.penstock_athena_grpc_message_bytes
        limits = Limits(max_data_bytes=max(Limits().max_data_bytes, message_bytes))
        self._grace: timedelta = settings.penstock_shutdown_grace
        self.exchanges = Exchanges(settings.penstock_athena_grpc_idle)
        operations = Operations(Opening(services), self.exchanges, services, limits)
        self.server = GrpcServer(
            settings.http_host,
            port,
            {
                calls.SERVICE: {"call": calls.XsfCalls(operations).call},
                toolbox.SERVICE: {"cmdserver": toolbox.ToolBox(self.exchanges).cmdserver},
            },
            check=SenderCheck(authentication),
            max_message_bytes=message_bytes,
            variable=variable,
        )

    async def start(self) -> None:
        """Listen. Raises SettingsError if the address cannot be used."""
        await self.server.start()

    async def stop(self) -> None:
        """Let calls and sessions end by themselves for a while, then end them."""
        self.exchanges.draining = True
        await self.server.drain(self.exchanges.none_left(), self._grace)
        await self.exchanges.stop()
        await self.server.stop()
