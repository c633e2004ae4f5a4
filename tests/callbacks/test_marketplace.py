"""The marketplace gets the results of requests of apps: with its token, at its own address, and unseen by tenants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from penstock.callbacks.callback import Callback
from penstock.callbacks.endpoint import Endpoint, EndpointChange, Replay
from penstock.callbacks.marketplace import POLICY, URL, Marketplace
from penstock.callbacks.message import Delivery, Key
from penstock.callbacks.sender import Sender
from penstock.errors import BlobStoreUnavailable, IdempotencyConflict, InvalidInput, NotFound
from penstock.jobs.job import Job, MarketplaceSubmission
from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.tenants import scopes
from penstock.tenants.principal import Principal, TenantId
from tests.support.callbacks import Callbacks, Message, Receiver, managing, receiver
from tests.support.clocks import Clock
from tests.support.databases import query
from tests.support.jobs import JobCaller, submission
from tests.support.waiting import until

TOKEN = "marketplace-token"
START = UUID(int=0)


async def bodies(_tenant: TenantId, deliveries: Sequence[Delivery]) -> Mapping[Key, bytes]:
    return {one.key: json.dumps({"task_id": one.subject, "kind": one.kind}).encode() for one in deliveries}


@pytest.fixture
def marketplace(callbacks: Callbacks, hook: Receiver) -> Marketplace:
    callbacks.marketplace = Marketplace(
        url=f"{hook.url}/results", token=Secret(TOKEN), sender=Sender(POLICY), bodies=bodies
    )
    return callbacks.marketplace


async def submit(caller: JobCaller, **fields: Any) -> Job:
    """Submit a job as the request of an app."""
    wanted = MarketplaceSubmission.of(submission(**fields))
    return (await caller.service.of(caller.tenant).submit(wanted)).job


def operator(tenant: TenantId) -> Principal:
    return Principal(tenant=tenant, tenant_name="a tenant", scopes=frozenset({scopes.TENANT_ADMIN, scopes.OPERATOR}))


async def endpoint_of(callbacks: Callbacks, tenant: TenantId) -> Endpoint:
    """Return the marketplace's endpoint, as the operator sees it."""
    page = await callbacks.service.endpoints(operator(tenant), registered=False, after=START, at_most=10)
    (found,) = [one for one in page.callbacks if one.url == URL]
    return found


@pytest.mark.usefixtures("marketplace")
async def test_results_reach_the_marketplace_with_its_token(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    async with callbacks.running():
        other = await caller.submit_and_claim()
        await caller.complete(other)
        job = await submit(caller)
        await caller.complete(await caller.claim_one())
        (message,) = await hook.got(1)
    assert message.path == "/results"
    assert message.headers["authorization"] == f"Bearer {TOKEN}"
    assert message.headers["content-type"] == "application/json"
    assert message.event == {"task_id": str(job.id), "kind": "job.completed"}
    assert message.id.startswith(f"msg_{caller.tenant}_")


@pytest.mark.usefixtures("marketplace")
async def test_the_clients_own_callback_gets_its_message_too_and_no_token(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    async with callbacks.running(), receiver() as own:
        job = await submit(caller, callback=Callback(url=f"{own.url}/mine"))
        await caller.complete(await caller.claim_one())
        (message,) = await own.got(1)
        await hook.got(1)
    assert message.event["subject"] == str(job.id)
    assert "authorization" not in message.headers
    assert TOKEN not in str(message)


@pytest.mark.usefixtures("marketplace")
async def test_a_marketplace_that_fails_gets_the_same_message_again(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    hook.respond = lambda _: web.Response(status=503 if len(hook.messages) == 1 else 200)
    async with callbacks.running():
        await submit(caller)
        await caller.complete(await caller.claim_one())
        await hook.got(1)
        await until(lambda: _failed(callbacks, caller.tenant), "the failure is recorded")
        await clock.advance(timedelta(hours=1))
        callbacks.poke()
        first, second = await hook.got(2)
    assert first.id == second.id
    assert first.body == second.body


async def test_large_bodies_are_held_in_bounded_numbers(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    async def large(_tenant: TenantId, deliveries: Sequence[Delivery]) -> Mapping[Key, bytes]:
        return {one.key: json.dumps({"id": one.subject, "x": "x" * 2**18}).encode() for one in deliveries}

    callbacks.marketplace = Marketplace(url=hook.url, token=None, sender=Sender(POLICY), bodies=large)
    dispatcher, release, most = callbacks.dispatcher(), asyncio.Event(), 0

    async def respond(_message: Message) -> web.Response:
        nonlocal most
        most = max(most, dispatcher.in_flight)
        await release.wait()
        return web.Response()

    hook.respond = respond
    async with callbacks.running(dispatcher):
        jobs = [await submit(caller) for _ in range(40)]
        for _ in jobs:
            await caller.complete(await caller.claim_one())
        await callbacks.caught_up()
        await hook.got(1)
        release.set()
        await hook.got(len(jobs))
    assert {message.event["id"] for message in hook.messages} == {str(job.id) for job in jobs}
    assert most <= 8, "bodies of 2 MiB are held at most"


async def _failed(callbacks: Callbacks, tenant: TenantId) -> bool:
    return (await endpoint_of(callbacks, tenant)).failed_attempts == 1


@pytest.mark.usefixtures("marketplace")
async def test_tenants_neither_see_nor_change_the_endpoint(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    async with callbacks.running():
        await submit(caller)
        await caller.complete(await caller.claim_one())
        await hook.got(1)
    found = await endpoint_of(callbacks, caller.tenant)
    service, tenant = callbacks.service, managing(caller.tenant)
    page = await service.endpoints(tenant.principal, registered=False, after=START, at_most=10)
    assert page.callbacks == []
    refused = [
        service.endpoint(tenant.principal, found.id),
        service.change(tenant, found.id, EndpointChange(disabled=True)),
        service.remove(tenant, found.id),
        service.deliveries(tenant.principal, found.id, status=None, before=None, at_most=10),
        service.replay(tenant, found.id, Replay(dead=True)),
        service.test(tenant.principal, found.id),
    ]
    for attempt in refused:
        with pytest.raises(NotFound):
            await attempt


async def test_a_tenant_cannot_name_the_endpoint(caller: JobCaller, callbacks: Callbacks) -> None:
    with pytest.raises(InvalidInput):
        await callbacks.add(caller.tenant, URL)
    with pytest.raises(InvalidInput):
        callbacks.targets.check(Callback(url=URL), field="callback")


@pytest.mark.usefixtures("marketplace")
async def test_neither_address_nor_token_is_stored(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, database: Database
) -> None:
    async with callbacks.running():
        await submit(caller)
        await caller.complete(await caller.claim_one())
        await hook.got(1)
        await callbacks.caught_up()
    for table in ("callback_endpoint", "callback_state", "callback_ready", "callback_ended", "event", "job"):
        rows = str(await query(database, f"SELECT row_to_json(t)::text FROM {table} t"))
        assert TOKEN not in rows
        assert hook.url not in rows


async def test_results_wait_while_the_sending_process_knows_no_marketplace(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    async with callbacks.running():
        await submit(caller)
        await caller.complete(await caller.claim_one())
        await until(lambda: _rests(callbacks, caller.tenant), "the endpoint rests")
    assert hook.messages == []
    callbacks.marketplace = Marketplace(url=hook.url, token=None, sender=Sender(POLICY), bodies=bodies)
    await clock.advance(timedelta(minutes=2))
    async with callbacks.running():
        (message,) = await hook.got(1)
    assert "authorization" not in message.headers


async def test_results_wait_while_the_store_of_their_files_is_unavailable(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock, marketplace: Marketplace
) -> None:
    async def unavailable(*_: Any) -> Mapping[Key, bytes]:
        raise BlobStoreUnavailable("the bucket does not respond")

    callbacks.marketplace = replace(marketplace, bodies=unavailable)
    async with callbacks.running():
        await submit(caller)
        await caller.complete(await caller.claim_one())
        await until(lambda: _rests(callbacks, caller.tenant), "the endpoint rests")
    assert hook.messages == []
    callbacks.marketplace = replace(marketplace, sender=Sender(POLICY))
    await clock.advance(timedelta(minutes=2))
    async with callbacks.running():
        await hook.got(1)


async def _rests(callbacks: Callbacks, tenant: TenantId) -> bool:
    return (await endpoint_of(callbacks, tenant)).resting_until is not None


@pytest.mark.usefixtures("marketplace")
async def test_the_same_request_is_the_same_job_whether_or_not_there_is_a_marketplace(
    caller: JobCaller, callbacks: Callbacks
) -> None:
    plain = submission(idempotency_key="k")
    job = (await caller.service.of(caller.tenant).submit(plain)).job
    assert (await submit(caller, idempotency_key="k")).id == job.id
    with pytest.raises(IdempotencyConflict):
        await submit(caller, idempotency_key="k", callback=Callback(url="http://127.0.0.1:9/other"))
    assert callbacks.marketplace is not None
    assert TOKEN not in repr(replace(callbacks.marketplace))
