"""The gateway's handling of sidecars that are healthy, unreachable, slow, faulty, or not sidecars at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest
from aiohttp import web

from penstock.masking import Secret
from penstock.settings import load_settings
from penstock.sidecar.infra import Infra, SidecarStatus
from penstock.sidecar.telemetry import Gpu, Report, Telemetry
from tests.support.http_servers import Handler, closed_port, hanging, responding, sending, serving
from tests.support.waiting import until

TOKEN = "token-of-these-sidecars"


def report(age: float = 0.5, host: str = "gpu-1") -> Report:
    gpus = [Gpu(index=0, name="A100")]
    telemetry = Telemetry(sampled_at=datetime(2026, 1, 1, tzinfo=UTC), host=host, gpus=gpus)
    return Report(age_seconds=age, telemetry=telemetry)


def sidecar_with(value: Report) -> Handler:
    """Return the handler of a sidecar that requires the token."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"code": "unauthorized"}, status=401)
        return web.Response(body=msgspec.json.encode(value), content_type="application/json")

    return respond


@asynccontextmanager
async def infra(
    *urls: str, token: str | None = TOKEN, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Infra]:
    settings = load_settings(None).replace(
        infra_sidecar_urls=urls, infra_sidecar_token=None if token is None else Secret(token)
    )
    found = Infra(settings, clock=clock)
    try:
        yield found
    finally:
        await found.close()
        await found.close()


async def seen(handler: Handler, *, token: str | None = TOKEN) -> SidecarStatus:
    """Return the status of one sidecar with this handler."""
    async with serving(handler) as server, infra(server.address, token=token) as found:
        (status,) = (await found.status()).sidecars
        assert TOKEN.encode() not in msgspec.json.encode(status)
        return status


async def test_without_sidecars_the_status_is_empty() -> None:
    async with infra() as found:
        status = await found.status()
    assert (status.configured, status.sidecars) == (False, [])


async def test_a_valid_report_keeps_its_age_by_its_own_clock() -> None:
    async with serving(sidecar_with(report(age=1.5))) as server, infra(server.address) as found:
        (status,) = (await found.status()).sidecars
        assert server.paths == ["/status"]
    assert (status.name, status.url) == (server.address.removeprefix("http://"), server.address)
    assert (status.reachable, status.error) == (True, None)
    assert status.age_seconds is not None
    assert 1.5 <= status.age_seconds < 10
    assert status.latency_ms is not None
    assert status.telemetry == report().telemetry


async def test_a_password_in_the_url_is_masked_and_replaced_by_the_token() -> None:
    async with (
        serving(sidecar_with(report())) as server,
        infra(server.address.replace("://", "://admin:pass-word@") + "?key=pass-word") as found,
    ):
        status = await found.status()
    assert status.sidecars[0].reachable
    assert status.sidecars[0].name == server.address.removeprefix("http://")
    assert b"pass-word" not in msgspec.json.encode(status)
    assert b"admin" not in msgspec.json.encode(status)


async def test_a_wrong_or_missing_token_is_an_error_line() -> None:
    for token in ("another", None):
        status = await seen(sidecar_with(report()), token=token)
        assert (status.reachable, status.error) == (False, "HTTP status 401: it does not accept INFRA_SIDECAR_TOKEN")
        assert (status.telemetry, status.age_seconds, status.latency_ms) == (None, None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"[]",
        b"null",
        b"{}",
        b'{"age_seconds": -1, "telemetry": {"sampled_at": "2026-01-01T00:00:00Z", "host": "x"}}',
        b'{"age_seconds": 1e999, "telemetry": {"sampled_at": "2026-01-01T00:00:00Z", "host": "x"}}',
        b'{"age_seconds": 1, "telemetry": {"sampled_at": "2026-01-01T00:00:00", "host": "x"}}',
        b'{"age_seconds": 1, "telemetry": {"sampled_at": "2026-01-01T00:00:00Z", "host": "\\ud800"}}',
        b'{"age_seconds": 1, "telemetry": {"sampled_at": "2026-01-01T00:00:00Z", "host": "\xff"}}',
        b'{"age_seconds": 1, "telemetry": {"sampled_at": "2026-01-01T00:00:00Z", "host": "x", "gpus": [{"index": 1'
        + 40 * b"0"
        + b"}]}}",
        b'{"age_seconds": 1, "more": ' + 100_000 * b"[" + 100_000 * b"]" + b"}",
    ],
)
async def test_malformed_reports_are_an_error_line(body: bytes) -> None:
    status = await seen(sending(body, "application/json"))
    assert (status.reachable, status.error) == (False, "the response is not a sidecar's")


async def test_other_wrong_responses_are_an_error_line_too() -> None:
    assert (await seen(sending(b"{}", "application/json", 500))).error == "HTTP status 500"
    assert (await seen(responding({"echo": TOKEN}))).error == "the response repeats the token: this is not a sidecar"
    large = report(host="x" * 2**22)
    assert (await seen(sidecar_with(large))).error == "the response has more than 4 MiB"

    async def bomb(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"not gzip", headers={"Content-Encoding": "gzip"})

    assert (await seen(bomb)).error is not None


async def test_a_hanging_sidecar_does_not_delay_the_others_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.sidecar.infra.TIMEOUT_SECONDS", 2.0)  # enough for the others on a busy machine
    async with (
        serving(hanging) as stuck,
        serving(sidecar_with(report())) as good,
        infra(stuck.address, good.address, closed_port(), "http://a..b") as found,
    ):
        status = await asyncio.wait_for(found.status(), 30)
    assert [one.error for one in status.sidecars] == [
        "no response within 2 s",
        None,
        "cannot connect: Connection refused",
        "UnicodeError",
    ]


async def test_an_unreachable_sidecar_keeps_its_last_telemetry_and_its_age_grows() -> None:
    handlers = [sidecar_with(report(age=1.0)), sending(b"", "text/plain", 503), sending(b"{}", "application/json")]

    async def respond(request: web.Request) -> web.StreamResponse:
        return await handlers.pop(0)(request)

    now = 100.0
    async with serving(respond) as server, infra(server.address, clock=lambda: now) as found:
        (first,) = (await found.status()).sidecars
        now = 102.0
        (kept,) = (await found.status()).sidecars
        now = 110.0
        (second,) = (await found.status()).sidecars
        now = 130.0
        (third,) = (await found.status()).sidecars
    assert first.reachable
    assert kept == msgspec.structs.replace(first, age_seconds=3.0)
    assert (second.reachable, second.error, second.latency_ms) == (False, "HTTP status 503", None)
    assert third.error == "the response is not a sidecar's"
    assert second.telemetry == first.telemetry == third.telemetry
    assert (first.age_seconds, second.age_seconds, third.age_seconds) == (1.0, 11.0, 31.0)


async def test_callers_share_one_refresh_for_two_seconds_even_if_one_is_cancelled() -> None:
    let_go = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await let_go.wait()
        return await sidecar_with(report())(request)

    async with serving(slow) as server, infra(server.address) as found:
        callers = [asyncio.create_task(found.status()) for _ in range(10)]
        await until(lambda: bool(server.paths), "the request has arrived")
        callers[0].cancel()
        let_go.set()
        statuses = await asyncio.gather(*callers[1:])
        again = await found.status()
    assert all(status.sidecars[0].reachable for status in [*statuses, again])
    assert server.paths == ["/status"]


async def test_closing_cancels_running_requests() -> None:
    async with serving(hanging) as stuck, infra(stuck.address) as found:
        request = asyncio.create_task(found.status())
        await until(lambda: bool(stuck.paths), "the request has arrived")
        await found.close()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait_for(stuck.left.wait(), 10)
