"""The line in which a plugin states its address: ``1|1|tcp|127.0.0.1:50055|grpc``.

It is that of HashiCorp's go-plugin: the version of the handshake, the version of the application, the network, the
address, the protocol, and optionally a certificate and further fields.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

VERSION: Final = "1"
COOKIE: Final = ("BASIC_PLUGIN", "hello")  # an environment variable: a plugin may refuse to start without it
_LINE: Final = re.compile(r"\d{1,4}\|\d{1,4}\|")
_SHOWN: Final = 200  # characters of a line in a message


class WrongHandshake(ValueError):
    """A plugin listens in a way that is not supported."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a plugin listens: a port of this machine, or a socket in the file system."""

    port: int | None = None
    path: str | None = None

    @property
    def target(self) -> str:
        """The address in the form of gRPC."""
        return f"unix:{self.path}" if self.path is not None else f"127.0.0.1:{self.port}"


def parse(line: str) -> Address | None:
    """Return the address in a handshake; None for a line that is not one. Raises WrongHandshake."""
    if not _LINE.match(line):
        return None
    fields = line.strip().split("|")
    shown = line.strip()[:_SHOWN]
    if len(fields) < 5:
        raise WrongHandshake(f"its handshake must be 1|1|tcp|127.0.0.1:PORT|grpc, not {shown}")
    core, application, network, address, protocol, *more = fields
    if (core, application) != (VERSION, VERSION):
        raise WrongHandshake(f"it uses version {core} of the handshake and {application} of the plugin, not 1 and 1")
    if protocol != "grpc":
        raise WrongHandshake(f"it uses the protocol {protocol[:_SHOWN]}, not grpc")
    if more and more[0]:
        raise WrongHandshake("it requires TLS, which is not supported")
    if network == "unix" and address.startswith("/"):
        return Address(path=address)
    if network == "tcp" and (port := _port(address)) is not None:
        return Address(port=port)
    raise WrongHandshake(f"it must listen on a port of this machine, or on a socket in the file system, not on {shown}")


def _port(address: str) -> int | None:
    """Return the port of an address of this machine."""
    host, _, port = address.rpartition(":")
    try:
        here = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return None
    return int(port) if here and port.isdecimal() and 0 < int(port[:6]) < 2**16 else None
