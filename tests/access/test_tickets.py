"""Tickets: what they allow, how long, and that they end with the key that issued them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from penstock.masking import Secret
from tests.support.databases import open_database, query
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway
from tests.support.waiting import until, within


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


async def issue(caller: HttpCaller, key: str | None = None, **fields: Any) -> str:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    reply = await caller.call("POST", "/tickets", {"scopes": ["jobs:read"], **fields}, headers=headers)
    assert reply.status == 201, reply.body
    ticket: str = reply.json["ticket"]
    return ticket


async def use(caller: HttpCaller, ticket: str, path: str = "/jobs", **headers: str) -> Any:
    """Send a request without a header, as a browser does."""
    async with caller.session.get(
        f"{caller.address}/api/v1{path}{'&' if '?' in path else '?'}ticket={ticket}",
        headers=headers,
        skip_auto_headers=["Authorization"],
    ) as response:
        return response.status, await response.read(), response.headers.copy()


@pytest.fixture
async def browser(operator: HttpCaller, module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls to the same database without a header."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield HttpCaller(session, operator.address, operator.parts, operator.server)


async def test_a_ticket_stands_in_for_the_header(operator: HttpCaller, browser: HttpCaller) -> None:
    ticket = await issue(operator, user="ada")
    for _ in range(2):  # EventSource reconnects by the same URL
        status, body, headers = await use(browser, ticket, "/identity")
        assert status == 200, body
        assert b'"ada"' in body
        assert headers["referrer-policy"] == "no-referrer"
    assert (await use(browser, ticket, "/jobs?limit=5"))[0] == 200
    assert (await use(browser, ticket, "/stats"))[0] == 200
    assert (await use(browser, ticket, "/keys"))[0] == 403


async def test_a_ticket_for_a_job_opens_its_stream_only(operator: HttpCaller, browser: HttpCaller) -> None:
    mine, other = await operator.submit(), await operator.submit()
    ticket = await issue(operator, subject={"kind": "job", "id": mine["id"]})
    assert (await use(browser, ticket, f"/jobs/{mine['id']}"))[0] == 200
    for path in (f"/jobs/{other['id']}", "/jobs", "/events", "/stats", "/identity"):
        assert (await use(browser, ticket, path))[0] == 403, path


async def test_a_ticket_for_one_use_is_valid_once(operator: HttpCaller, browser: HttpCaller) -> None:
    ticket = await issue(operator, once=True)
    assert (await use(browser, ticket))[0] == 200
    assert (await use(browser, ticket))[0] == 401


async def test_the_use_of_a_ticket_is_remembered_for_gateways_whose_clocks_are_behind(
    operator: HttpCaller, browser: HttpCaller, module_database_url: str
) -> None:
    ticket = await issue(operator, once=True, ttl_seconds=60)
    assert (await use(browser, ticket))[0] == 200
    async with open_database(module_database_url) as database:
        rows = await query(database, "SELECT expires_at - now() > interval '10 minutes' FROM penstock.ticket_use")
    assert {row[0] for row in rows} == {True}


async def test_an_expired_ticket_is_401(
    operator: HttpCaller, browser: HttpCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = await issue(operator, ttl_seconds=60)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    status, body, _ = await use(browser, ticket)
    assert status == 401
    assert b"expired" in body


@pytest.mark.parametrize(
    "change", [lambda t: t[:-2], lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"), lambda _: "v1.e30.x"]
)
async def test_a_changed_ticket_is_401(operator: HttpCaller, browser: HttpCaller, change: Any) -> None:
    assert (await use(browser, change(await issue(operator))))[0] == 401


@pytest.mark.parametrize("ticket", ["", "x", "v1", "v1..", "v2.e30.e30", "%00", "é", "v1." + "A" * 10_000])
async def test_texts_that_are_not_valid_tickets_are_refused_with_401(browser: HttpCaller, ticket: str) -> None:
    assert (await use(browser, ticket))[0] in {401, 414}


async def test_a_ticket_has_at_most_the_scopes_of_its_key(operator: HttpCaller, browser: HttpCaller) -> None:
    key = (await operator.post("/keys", {"name": "k", "scopes": ["jobs:read", "jobs:submit"]})).json
    headers = {"Authorization": f"Bearer {key['key']}"}
    refused = await operator.call("POST", "/tickets", {"scopes": ["files"]}, headers=headers)
    assert refused.outcome == (403, "scope_missing")
    ticket = await issue(operator, key["key"], scopes=["jobs:read", "jobs:submit"])
    assert (await use(browser, ticket))[0] == 200
    await operator.call("PATCH", f"/keys/{key['id']}", {"scopes": ["jobs:submit"]})

    async def narrowed() -> bool:
        return bool((await use(browser, ticket))[0] == 403)

    await until(narrowed, "the ticket lost the scope that its key lost")


async def test_a_ticket_cannot_issue_tickets(operator: HttpCaller, browser: HttpCaller) -> None:
    ticket = await issue(operator, scopes=["jobs:read", "tenant:admin"])
    reply = await browser.call("POST", f"/tickets?ticket={ticket}", {"scopes": ["jobs:read"]})
    assert reply.outcome == (403, "scope_missing")


async def test_the_stream_of_a_ticket_ends_when_its_key_is_revoked(operator: HttpCaller, browser: HttpCaller) -> None:
    key = (await operator.post("/keys", {"name": "k", "scopes": ["jobs:read", "jobs:submit"]})).json
    ticket = await issue(operator, key["key"], ttl_seconds=3600)
    async with browser.session.get(f"{browser.address}/api/v1/events?ticket={ticket}") as stream:
        await within(stream.content.readuntil(b"id: "))
        await operator.call("POST", f"/keys/{key['id']}/revoke")
        assert b"event: revoked" in await within(stream.content.read())
    assert (await use(browser, ticket))[0] == 401


async def test_a_ticket_is_not_logged(
    operator: HttpCaller, browser: HttpCaller, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = await issue(operator)
    with caplog.at_level("DEBUG"):
        await use(browser, ticket, "/jobs?nonsense=1")
        await use(browser, ticket[:-2], f"/jobs/{SUBMISSION['task_type']}")
    assert ticket[:-2] not in caplog.text
