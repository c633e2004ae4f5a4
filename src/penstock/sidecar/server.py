"""The process ``penstock sidecar``: a small HTTP server that only tells.

``GET /healthz`` is open; ``GET /status`` needs INFRA_SIDECAR_TOKEN and answers a ``Report``.
"""

from __future__ import annotations

import asyncio
import hmac
import signal
from collections.abc import Mapping

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from penstock.errors import FieldProblem, SettingsError, Unauthorized
from penstock.masking import Secret
from penstock.settings import Settings
from penstock.sidecar.sampler import Sampler, sources
from penstock.telemetry import logs
from penstock.web.listening import listeners

log = logs.get(__name__)

_TITLES = {404: ("not_found", "Not found"), 405: ("method_not_allowed", "Method not allowed")}


async def run(settings: Settings) -> None:
    """Measure and tell until SIGTERM or SIGINT.

    Raises SettingsError without INFRA_SIDECAR_TOKEN, and when the address cannot be listened on.
    """
    token = _required_token(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn raises the signal again when it has stopped; that ends nothing
    sockets = listeners(settings.sidecar_http_host, settings.sidecar_http_port, "SIDECAR_HTTP_PORT")
    async with sources(settings) as found:
        sampler = Sampler(found, interval=settings.sidecar_interval)
        sampling = asyncio.create_task(sampler.run())
        log.info("sidecar_started", host=settings.sidecar_http_host, port=sockets[0].getsockname()[1])
        try:
            await uvicorn.Server(configuration(application(sampler, token))).serve(sockets=sockets)
        finally:
            await sampler.stop()
            await sampling
    log.info("sidecar_stopped")


def application(sampler: Sampler, token: Secret) -> Starlette:
    """The app around a running sampler."""
    expected = b"bearer " + token.reveal().encode()

    async def health(_request: Request) -> Response:
        return _json({"status": "ok"})

    async def status(request: Request) -> Response:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        given = f"{scheme.lower()} {secret.strip()}".encode("latin-1")
        if not hmac.compare_digest(given, expected):
            raise Unauthorized("the right token is needed: send Authorization: Bearer <INFRA_SIDECAR_TOKEN>")
        return _json(await sampler.report())

    app = Starlette(
        routes=[Route("/healthz", health), Route("/status", status)],  # GET and HEAD
        exception_handlers={HTTPException: _refused, Unauthorized: _unauthorized},
    )
    app.router.redirect_slashes = False
    return app


def configuration(app: Starlette) -> uvicorn.Config:
    """How uvicorn serves the sidecar."""
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=5,
    )


def _required_token(settings: Settings) -> Secret:
    if settings.infra_sidecar_token is None:
        problem = FieldProblem(
            field="INFRA_SIDECAR_TOKEN", detail="a sidecar tells what runs on this host only to whoever brings a token"
        )
        raise SettingsError([problem])
    return settings.infra_sidecar_token


async def _unauthorized(_request: Request, error: Exception) -> Response:
    return _problem(
        401, "unauthorized", "Not authenticated", str(error), {"www-authenticate": 'Bearer realm="penstock"'}
    )


async def _refused(_request: Request, error: Exception) -> Response:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    code, title = _TITLES.get(status, ("bad_request", "Bad request"))
    return _problem(status, code, title, "there are only /healthz and /status here, to be read by GET", headers)


def _problem(status: int, code: str, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """RFC 9457 problem details, as the gateway's."""
    kind = f"urn:penstock:problem:{code}"
    body = {"type": kind, "title": title, "status": status, "code": code, "detail": detail}
    return _json(body, status, headers, "application/problem+json")


def _json(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None, kind: str = "application/json"
) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, headers=headers, media_type=kind)
