"""Listening sockets. The error for an address that cannot be used names its setting."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

from penstock.errors import FieldProblem, SettingsError

_BACKLOG = 2048  # connections that may wait to be accepted
_ABSENT = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}  # a name has an IPv6 address too, and this machine has no IPv6


def listeners(host: str, port: int, variable: str) -> list[socket.socket]:
    """Return a listening socket for every address of ``host``; ``variable`` names the setting of the port.

    The caller closes them. Raises SettingsError.
    """
    found: list[socket.socket] = []
    absent: OSError | None = None
    with contextlib.ExitStack() as undo:
        try:
            addresses = socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(addresses):  # /etc/hosts may list one twice
                try:
                    found.append(undo.enter_context(_listening(family, address)))
                except OSError as error:
                    if error.errno not in _ABSENT:
                        raise
                    absent = error
            if not found and absent is not None:
                raise absent
        except OSError as error:
            detail = f"cannot listen on {host} port {port}: {error.strerror or error}"
            raise SettingsError([FieldProblem(field=variable, detail=detail)]) from error
        undo.pop_all()
    return found


def _listening(family: int, address: Any) -> socket.socket:
    # Event loops set TCP_NODELAY only on sockets whose protocol is stated.
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(_BACKLOG)
    except OSError:
        one.close()
        raise
    return one
