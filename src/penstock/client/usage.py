"""The calls of ``Client`` about usage."""

from __future__ import annotations

from typing import Any

from penstock.client.transport import Transport


class UsageCalls:
    """Reads usage and cost."""

    _transport: Transport

    async def usage(self, /, **wanted: Any) -> dict[str, Any]:
        """Return sums of usage. ``wanted`` has the parameters of ``GET /api/v1/usage``: ``by="day,model"``, ``limit``,
        ``time_zone``, ``since`` (for ``from``) and ``to``, and filters, each one value or a list."""
        named = {"from" if name == "since" else name: value for name, value in wanted.items() if value is not None}
        query = {name: [str(one) for one in _listed(value)] for name, value in named.items()}
        return await self._transport.call("GET", "/api/v1/usage", dict[str, Any], query=query)


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
