"""Rules for addresses that may be connected to, and for servers' URLs. Pure; imports no HTTP client.

An address has many spellings, some of which only an HTTP client accepts, so URLs are read as our HTTP client does.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_HOST_LENGTH = 253  # letters, by the rules of the domain name system
_MAX_LABEL_LENGTH = 63
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Addresses outside of the link-local range at which clouds serve secrets to any process on their machines.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")))
# Not reachable from the whole internet, and unknown to older Pythons (IANA's registries of special addresses).
_SPECIAL = [ipaddress.ip_network(one) for one in ("192.0.0.0/24", "fec0::/10", "3fff::/20", "5f00::/16", "100::/64")]


class AddressRefused(OSError):
    """A host leads to an address that may not be connected to."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The addresses that may be connected to.

    By default these include this machine and private networks, because model servers run there. ``public`` allows only
    addresses that are reachable from the whole internet, and those in ``also``. Link-local, multicast, unspecified and
    reserved addresses are never allowed. With ``networks``, an address must also lie in one of them.
    """

    public: bool = False
    networks: Sequence[Network] = field(default=())
    also: Sequence[Network] = field(default=())

    def refusal(self, address: Address) -> str | None:
        """Return why an address may not be connected to; None if it may."""
        inner = _unwrapped(address)
        if (
            inner.is_link_local
            or inner.is_multicast
            or inner.is_unspecified
            or (inner.is_reserved and not inner.is_loopback)
            or inner in _METADATA
        ):
            return "is link-local, multicast or reserved"
        special = not inner.is_global or _lies_in(inner, _SPECIAL)
        if self.public and special and not _lies_in(inner, self.also):
            return "is not on the public internet"
        if self.networks and not _lies_in(inner, self.networks):
            return "is outside of the allowed networks"
        return None

    def check(self, host: str, address: str) -> None:
        """Raise AddressRefused when ``host``, which leads to ``address``, may not be connected to."""
        try:
            reason = self.refusal(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            reason = "is not an address"
        if reason is not None:
            raise AddressRefused(f"{host} may not be connected to: its address {reason}")


def check_url(url: Any, policy: Policy | None = None) -> str | None:
    """Return what is wrong with a server's URL (scheme, host, credentials, a refused address), or None."""
    if not isinstance(url, str):
        return "is required: where the server is, such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "must be a URL such as http://127.0.0.1:8000"
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        return "must be a URL that begins with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user or password: credentials go into headers"
    if parts.fragment:
        return "must not hold a fragment (#…)"
    if any(character.isspace() or ord(character) < 32 for character in url):
        return "must not hold spaces"
    try:
        real = URL(url).raw_host or ""  # as the HTTP client reads it: full-width letters become plain ones
    except ValueError:  # includes UnicodeError, raised for empty and overlong labels
        return "must be a URL whose host is a name or an address"
    if len(real) > _MAX_HOST_LENGTH or any(len(label) > _MAX_LABEL_LENGTH for label in real.split(".")):
        return "must be a URL whose host is a name or an address"
    literal = _literal(host) or _literal(real)
    if literal is not None:
        reason = (policy or Policy()).refusal(literal)
        if reason is not None:
            return f"may not be connected to: its address {reason}"
    return None


def networks_of(stated: Any) -> list[Network]:
    """Return networks from a list of CIDRs. Raises ValueError, which says what is allowed."""
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise ValueError('must be a list of networks such as ["10.0.0.0/8"]')
    try:
        return [ipaddress.ip_network(one, strict=False) for one in stated]
    except ValueError:
        raise ValueError('must hold networks such as "10.0.0.0/8" or "fd00::/8"') from None


def _lies_in(address: Address, allowed: Sequence[Network]) -> bool:
    return any(address in one for one in allowed if one.version == address.version)


def _literal(host: str) -> Address | None:
    """Return the address that a host spells, in any form that the system accepts."""
    bare = host.strip("[]").rstrip(".").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(bare)) if bare[:1].isdigit() else None
    except OSError:
        return None


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address
