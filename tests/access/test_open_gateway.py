"""A gateway without a token is open to this machine until the first key exists."""

from __future__ import annotations

import asyncio

from tests.support.databases import open_database, query
from tests.support.gateways import running_gateway
from tests.support.waiting import until, within


async def test_the_first_key_must_be_an_operators(database_url: str) -> None:
    async with running_gateway(database_url) as caller:
        reply = await caller.post("/keys", {"name": "first", "scopes": ["jobs:read"]})
        assert (reply.status, reply.fields) == (422, ["scopes"])
        assert (await caller.get("/jobs")).status == 200, "the gateway is still open"


async def test_the_first_key_closes_every_open_gateway(database_url: str) -> None:
    async with running_gateway(database_url) as here, running_gateway(database_url) as there:
        assert (await here.get("/jobs")).status == 200
        assert (await there.get("/jobs")).status == 200
        assert (await there.get("/jobs", Authorization="Bearer anything")).status == 200
        key = (await here.post("/keys", {"name": "first", "scopes": ["operator"]})).json["key"]

        async def closed() -> bool:
            return (await there.get("/jobs")).status == 401

        await until(closed, "the other gateway is closed")
        assert (await there.get("/jobs", Authorization=f"Bearer {key}")).status == 200
        assert (await there.get("/jobs", Authorization="Bearer anything")).status == 401


async def test_a_ticket_without_a_key_ends_with_the_first_key(database_url: str) -> None:
    async with running_gateway(database_url) as caller:
        ticket = (await caller.post("/tickets", {"scopes": ["jobs:read"], "ttl_seconds": 3600})).json["ticket"]
        assert (await caller.get(f"/jobs?ticket={ticket}")).status == 200
        await caller.post("/keys", {"name": "first", "scopes": ["operator"]})

        async def refused() -> bool:
            return (await caller.get(f"/jobs?ticket={ticket}")).status == 401

        await until(refused, "the ticket is refused", seconds=3)


async def test_a_gateway_stays_closed_when_its_database_goes_back_to_before_the_first_key(database_url: str) -> None:
    async with running_gateway(database_url) as caller, open_database(database_url) as database:
        await caller.post("/keys", {"name": "first", "scopes": ["operator"]})
        watch = caller.parts.access.watch
        await until(lambda: watch.any_key is True, "the gateway is closed")
        await query(database, "DELETE FROM penstock.api_key RETURNING id")
        await watch.once()
        assert (await caller.get("/jobs")).status == 401


async def test_the_first_key_ends_the_streams_that_were_opened_without_one(database_url: str) -> None:
    async with running_gateway(database_url) as caller:
        ticket = (await caller.post("/tickets", {"scopes": ["jobs:read"], "ttl_seconds": 3600})).json["ticket"]
        paths = ("/events", f"/events?ticket={ticket}")
        streams = [asyncio.create_task(caller.get(path)) for path in paths]  # each is read to its end
        await until(lambda: len(caller.in_progress) == 2, "both streams are open")
        await caller.post("/keys", {"name": "first", "scopes": ["operator"]})
        for reply in await within(asyncio.gather(*streams), 5):
            assert reply.status == 200
            assert b"event: revoked" in reply.body
            assert b"there is a key now" in reply.body
