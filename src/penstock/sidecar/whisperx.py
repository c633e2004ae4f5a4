"""Check whether a WhisperX server responds."""

from __future__ import annotations

import aiohttp

from penstock.masking import mask_url
from penstock.sidecar.fetching import fetch
from penstock.sidecar.telemetry import HealthCheck


class WhisperxReader:
    """Requests the health page of one server, or its root page if it has none."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url
        self._session = session

    async def read(self) -> HealthCheck:
        """Return the health of the server. Raises SourceFailed when it does not respond."""
        reply = await fetch(self._session, self.url, "/health")
        if reply.status == 404:
            reply = await fetch(self._session, self.url, "/")
        return HealthCheck(
            url=mask_url(self.url),
            reachable=True,
            status=reply.status,
            latency_ms=reply.latency_ms,
            error=f"HTTP status {reply.status}" if reply.status >= 400 else None,
        )
