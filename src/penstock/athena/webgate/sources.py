"""Data of a message that lies elsewhere: ``dataSrc`` of a data object names where, and ``url`` the address."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from penstock.athena.protocol.data import TYPES, DataType
from penstock.errors import InvalidInput
from penstock.outbound import addresses
from penstock.outbound.policy import AddressRefused, Policy, check_url

SOURCE: Final = "dataSrc"
_URL: Final = "url"
_SECONDS: Final = 30.0
_MAX_FETCHED: Final = 8  # data objects of one message
_READ_BYTES: Final = 1 << 16
_HELD_AT_ONCE: Final = 1 << 20  # bytes of data for which memory is taken together
_COPIES: Final = 2  # the data, and its base64 in the message

Hold = Callable[[int], None]  # counts bytes of memory; raises Overloaded if there are not so many


class Sources:
    """Fetches data by HTTP, from addresses that the policy allows; at most ``max_bytes`` for one message."""

    def __init__(self, policy: Policy, *, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fill(self, message: dict[str, Any], types: Mapping[str, DataType], *, hold: Hold) -> None:
        """Put the data that a message names into it; ``types`` are those of data objects, by name.

        ``hold`` is called before bytes are read. Raises what it raises, and InvalidInput that names the field.
        """
        payload = message.get("payload")
        named = {
            name: one
            for name, one in (payload.items() if isinstance(payload, dict) else ())
            if isinstance(one, dict) and one.get(SOURCE) not in (None, "client")
        }
        if len(named) > _MAX_FETCHED:
            raise InvalidInput.of("payload", f"names {len(named)} addresses; at most {_MAX_FETCHED} are fetched")
        left = self._max_bytes
        for name, one in named.items():
            data = await self._fetched(f"payload.{name}", one, left, hold)
            left -= len(data)
            kind = next((kind for kind in TYPES if kind in one), types.get(name, DataType.OTHER).value)
            one[kind] = b64encode(data).decode()
            del one[SOURCE], one[_URL]

    async def _fetched(self, field: str, one: Mapping[str, Any], max_bytes: int, hold: Hold) -> bytes:
        if one[SOURCE] != "http":
            raise InvalidInput.of(
                f"{field}.{SOURCE}", "must be http or client; for an object in S3, state a presigned URL with http"
            )
        problem = check_url(one.get(_URL), self._policy)
        if problem is not None:
            raise InvalidInput.of(f"{field}.{_URL}", problem)
        try:
            return await self._read(str(one[_URL]), max_bytes, hold)
        except _CannotFetch as error:
            raise InvalidInput.of(f"{field}.{_URL}", str(error)) from None

    async def _read(self, url: str, max_bytes: int, hold: Hold) -> bytes:
        if self._session is None:
            self._session = addresses.session(self._policy, seconds=_SECONDS, headers={"User-Agent": "Penstock"})
        found = bytearray()
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise _CannotFetch(f"cannot be fetched: status {response.status}")
                held = 0
                while data := await response.content.read(_READ_BYTES):
                    if len(found) + len(data) > held:
                        hold(_HELD_AT_ONCE * _COPIES)
                        held += _HELD_AT_ONCE
                    found += data
                    if len(found) > max_bytes:
                        raise _CannotFetch(f"has more than the {max_bytes} bytes that may be fetched")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, AddressRefused) as error:
            raise _CannotFetch(f"cannot be fetched ({type(error).__name__})") from None
        return bytes(found)


class _CannotFetch(Exception):
    """Data cannot be fetched, for the reason given."""
