"""The telemetry of the sidecars on GPU hosts: requested together, cached for two seconds, and never trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct

from penstock.cached import Cached
from penstock.errors import PenstockError
from penstock.masking import Secret, mask_url
from penstock.settings import Settings
from penstock.sidecar.fetching import TIMEOUT_SECONDS, SourceFailed, fetch, place, too_slow
from penstock.sidecar.telemetry import Number, Report, Telemetry
from penstock.telemetry import logs
from penstock.tenants import scopes
from penstock.web.reading import decode
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

if TYPE_CHECKING:
    import aiohttp

log = logs.get(__name__)

_KEPT_SECONDS: Final = 2.0
_REPORT: Final = msgspec.json.Decoder(Report)

Age = Annotated[float, Meta(description="seconds since the sidecar measured this; grows while it is away")]


class SidecarStatus(Struct, frozen=True, kw_only=True):
    """One sidecar. While it cannot be reached, its last valid telemetry stays, with its current age."""

    name: str  # host:port
    url: str
    reachable: bool  # it responded with telemetry
    latency_ms: Number | None = None
    age_seconds: Age | None = None
    error: str | None = None
    telemetry: Telemetry | None = None


class InfraStatus(Struct, frozen=True, kw_only=True):
    """The telemetry of AI servers, as their sidecars report it."""

    configured: bool
    sidecars: list[SidecarStatus]


class Infra:
    """All configured sidecars."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        token = settings.infra_sidecar_token
        self._sidecars = [_Sidecar(url, token, clock) for url in settings.infra_sidecar_urls]
        self._session: aiohttp.ClientSession | None = None
        self._refreshed = Cached(self._refresh, keep=_KEPT_SECONDS, clock=clock)

    async def status(self) -> InfraStatus:
        """Return the state of every sidecar, at most two seconds old. Takes at most three seconds and never raises."""
        if self._sidecars:
            await self._refreshed()
        return InfraStatus(configured=bool(self._sidecars), sidecars=[one.status() for one in self._sidecars])

    async def close(self) -> None:
        """Cancel running requests and close the connections; may be repeated."""
        await self._refreshed.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _refresh(self) -> None:
        import aiohttp  # noqa: PLC0415  (slow to import; a gateway without sidecars needs none)

        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        session = self._session
        await asyncio.gather(*(one.refresh(session) for one in self._sidecars))


class InfraRoutes:
    """The route ``GET /api/v1/infra/status``."""

    def __init__(self, infra: Infra) -> None:
        self._infra = infra

    @route(
        "GET",
        "/api/v1/infra/status",
        name="infraStatus",
        tag="System",
        scope=scopes.OPERATOR,
        summary="Get the telemetry of AI servers",
        responses={
            200: ResponseSpec(
                description="Each configured sidecar", type=InfraStatus, example={"configured": False, "sidecars": []}
            )
        },
    )
    async def status(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._infra.status())


class _Sidecar:
    """One sidecar and its last response."""

    def __init__(self, url: str, token: Secret | None, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._token = None if token is None else token.reveal()
        self._report: Report | None = None
        self._reported_at = 0.0
        self._latency_ms: float | None = None
        self._error: str | None = None

    async def refresh(self, session: aiohttp.ClientSession) -> None:
        """Request the sidecar's telemetry; never raises."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                self._report, self._latency_ms = await self._request(session)
            self._reported_at, self._error = self._clock(), None
        except TimeoutError:
            self._latency_ms, self._error = None, too_slow(TIMEOUT_SECONDS)
        except SourceFailed as error:
            self._latency_ms, self._error = None, str(error)
        except Exception as error:  # one sidecar's response must not hide the others
            log.exception("sidecar_request_failed", sidecar=place(self._url))
            self._latency_ms, self._error = None, f"it could not be requested ({type(error).__name__})"

    def status(self) -> SidecarStatus:
        """Return the sidecar's state at this moment."""
        report = self._report
        age = None if report is None else round(report.age_seconds + self._clock() - self._reported_at, 3)
        return SidecarStatus(
            name=place(self._url),
            url=mask_url(self._url),
            reachable=self._error is None,
            latency_ms=self._latency_ms,
            age_seconds=age,
            error=self._error,
            telemetry=None if report is None else report.telemetry,
        )

    async def _request(self, session: aiohttp.ClientSession) -> tuple[Report, float]:
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        reply = await fetch(session, self._url, "/status", headers=headers)
        if reply.status == 401:
            raise SourceFailed("HTTP status 401: it does not accept INFRA_SIDECAR_TOKEN")
        if reply.status != 200:
            raise SourceFailed(f"HTTP status {reply.status}")
        if self._token is not None and self._token.encode() in reply.body:
            raise SourceFailed("the response repeats the token: this is not a sidecar")
        try:
            return decode(reply.body, _REPORT), reply.latency_ms
        except PenstockError:
            raise SourceFailed("the response is not a sidecar's") from None
