"""Parse the addresses of brokers in settings."""

from __future__ import annotations


def split(node: str, port: int) -> tuple[str, int]:
    """Return the host and the port of ``host`` or ``host:port``; the host of an IPv6 address has no brackets."""
    host, separator, own = node.rpartition(":")
    if not separator or own.endswith("]"):
        return node.strip("[]"), port
    return host.strip("[]"), int(own)
