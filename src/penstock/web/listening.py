"""Sockets to listen on, with an error that names the setting when they cannot be had."""

from __future__ import annotations

import contextlib
import socket

from penstock.errors import FieldProblem, SettingsError

_BACKLOG = 2048  # connections that may wait to be accepted


def listeners(host: str, port: int, variable: str) -> list[socket.socket]:
    """A socket for every address that ``host`` means, listening; ``variable`` names the setting of the port.

    Raises SettingsError. Whoever gets them closes them.
    """
    found: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
            ):
                # With its protocol named: event loops then send at once, without waiting for company (TCP_NODELAY).
                one = undo.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
                one.listen(_BACKLOG)
                found.append(one)
        except OSError as error:
            detail = f"cannot listen on {host} port {port}: {error.strerror or error}"
            raise SettingsError([FieldProblem(field=variable, detail=detail)]) from error
        undo.pop_all()
    return found
