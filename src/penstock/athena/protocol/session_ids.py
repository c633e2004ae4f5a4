"""Ids of calls and sessions (``sid``) in the original's format of 32 characters.

::

    iat 0007 04fa @ dx 16ade44e4d8 7a1c 80 2
    │   │    │      │  │           │    │  └ version of the format
    │   │    │      │  │           │    └ first two digits of the port
    │   │    │      │  │           └ last two bytes of the address, in hexadecimal; here at random
    │   │    │      │  └ milliseconds since 1970, in hexadecimal
    │   │    │      └ location
    │   │    └ counter
    │   └ process id
    └ kind of the service
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address
from secrets import randbits
from typing import Final

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The process of a gateway that makes session ids."""

    pid: int
    address: str = "127.0.0.1"  # IPv4; of another one the last two bytes are 0
    port: int = 0
    location: str = "dx"


class SessionIds:
    """Makes the session ids of one process: 65,536 different ones per millisecond."""

    def __init__(self, origin: Origin, first: int = 0) -> None:
        self._index = first
        octets = origin.address.split(".")
        last = octets[2:] if len(octets) == 4 and all(one.isdecimal() and int(one) < 256 for one in octets) else "00"
        self._before = f"{origin.pid & 0xFFFF:04x}"
        self._location = _short(origin.location, 2, "dx")
        self._after = "".join(f"{int(one):02x}" for one in last) + f"{origin.port:02d}"[:2] + "2"

    @classmethod
    def of_process(cls, pid: int, port: int) -> SessionIds:
        """Return the session ids of a gateway.

        Gateways in containers have equal process ids, ports and often addresses. So that their ids differ, the bytes of
        the address and the first value of the counter are drawn at random.
        """
        address = str(IPv4Address(randbits(32)))
        return cls(Origin(pid=pid, port=port, address=address), first=randbits(16))

    def next(self, sub: str, at: datetime) -> str:
        """Return a new id for a service; ``sub`` is its kind, of which the first three letters and digits count."""
        self._index = (self._index + 1) & 0xFFFF
        milliseconds = int(at.timestamp() * 1000) & 0xFFFFFFFFFFF
        return (
            f"{_short(sub, 3, 'ase')}{self._before}{self._index:04x}@{self._location}{milliseconds:011x}{self._after}"
        )


@lru_cache(maxsize=256)
def _short(text: str, length: int, default: str) -> str:
    """Return so many letters and digits of a text, filled up from the default."""
    found = _NOT_IN_NAMES.sub("", text.lower())[:length]
    return found or default if len(found) in {0, length} else found + "x" * (length - len(found))
