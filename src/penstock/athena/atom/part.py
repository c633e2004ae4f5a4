"""The part of the gRPC server in a gateway. It imports the packages of gRPC only where the settings state a port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from penstock.athena.atom.packages import require
from penstock.athena.authentication import Authentication
from penstock.athena.services import Services
from penstock.part import Part
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.athena.atom.atom import Atom

PORT: Final = "PENSTOCK_ATHENA_GRPC_PORT"


def atom(settings: Settings, authentication: Authentication, services: Services) -> Atom | None:
    """Return the gRPC server; None if the settings state no port. Raises SettingsError if a package is missing."""
    port = settings.penstock_athena_grpc_port
    if port is None:
        return None
    require(PORT)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are logged here, in one form
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # forks are followed by exec, and need no pause of threads
    from penstock.athena.atom.atom import Atom  # noqa: PLC0415 - it needs the extra ``athena``

    return Atom(settings, authentication, services, port=port, variable=PORT)


def part(server: Atom | None) -> Part:
    return Part() if server is None else Part(start=server.start, stop=server.stop)
