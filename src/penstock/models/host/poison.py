"""Inputs that bring replicas down: after the second time they are refused for a while."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Final

from penstock.models.host.calls import LiveCall
from penstock.models.replica.file_bytes import FileBytes

_DEATHS: Final = 2
_REMEMBERED: Final = 1000  # inputs
_SECONDS: Final = 600.0


class Poison:
    """Counts replicas that died, by their inputs. Costs nothing until the first one dies."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._deaths)

    def blame(self, call: LiveCall, *, alone: bool) -> None:
        """Count the death of a replica that ran this call; only half of it unless the call was ``alone`` there."""
        key = _key(call)
        count, _ = self._deaths.pop(key, (0, 0.0))
        self._deaths[key] = (count + (2 if alone else 1), time.monotonic())
        while len(self._deaths) > _REMEMBERED:
            self._deaths.popitem(last=False)

    def refuses(self, call: LiveCall) -> bool:
        """Return whether calls with this input are refused at present."""
        count, at = self._deaths.get(_key(call), (0, 0.0))
        return count >= 2 * _DEATHS and time.monotonic() - at < _SECONDS


def _key(call: LiveCall) -> bytes:
    digest = hashlib.blake2b(call.input, digest_size=16)
    for segment in call.segments:
        digest.update(segment.media_type.encode())
        digest.update(segment.data.identity if isinstance(segment.data, FileBytes) else segment.data)
    return digest.digest()
