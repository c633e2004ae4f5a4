"""Callbacks for tests: a receiver, the duties that send to it, and the endpoints of a tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook

from penstock.access.audit import Sender as ManagingSender
from penstock.access.instance import Instance
from penstock.access.secret_file import SecretSource
from penstock.callbacks.announcing import ENDPOINTS
from penstock.callbacks.dispatcher import LEASE, CallbackDispatcher
from penstock.callbacks.duties import Sending
from penstock.callbacks.endpoint import CreatedEndpoint, DeliveryView, Endpoint, EndpointCreation
from penstock.callbacks.fan_out import CallbackFanOut
from penstock.callbacks.marketplace import Marketplace
from penstock.callbacks.retention import CallbackRetention
from penstock.callbacks.sealing import Sealing
from penstock.callbacks.sender import Sender
from penstock.callbacks.service import CallbackService
from penstock.callbacks.targets import CallbackTargets
from penstock.jobs import callbacks as job_callbacks
from penstock.jobs.events import JobExpansion
from penstock.jobs.names import Names
from penstock.outbound.policy import Policy
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.tenants import scopes
from penstock.tenants.principal import Principal, TenantId
from tests.support.databases import query
from tests.support.http_servers import Handler, running
from tests.support.waiting import until, within

_BEHIND: Final = """
SELECT (SELECT count(*) FROM event) - (SELECT count(*) FROM event_position)
     + (SELECT count(*) FROM callback_cursor c
        WHERE position < (SELECT max(position) FROM event_position WHERE tenant_id = c.tenant_id))
"""
LOOPBACK: Final = Policy(public=True, also=[ip_network("127.0.0.0/8")])


@dataclass(slots=True)
class Message:
    """A message that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = msgspec.json.decode(self.body)
        return event

    def verify(self, secret: str) -> None:
        """Raise WebhookVerificationError unless the message was signed with the secret."""
        Webhook(secret).verify(self.body, self.headers)


@dataclass(slots=True)
class Receiver:
    """A server that records messages. ``respond`` is called with each, and decides the response."""

    url: str = ""
    messages: list[Message] = field(default_factory=list)
    respond: Callable[[Message], Awaitable[web.StreamResponse] | web.StreamResponse] = lambda _: web.Response()

    async def got(self, count: int, what: str = "the messages") -> list[Message]:
        """Wait until it has received this many messages."""
        await until(lambda: len(self.messages) >= count, f"{what}: {count}, but {len(self.messages)}")
        return self.messages

    @property
    def types(self) -> list[str]:
        return [message.event["type"] for message in self.messages]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        message = Message(request.path, headers, await request.read())
        self.messages.append(message)
        response = self.respond(message)
        return response if isinstance(response, web.StreamResponse) else await response


@asynccontextmanager
async def receiver(handler: Handler | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver on this machine."""
    found = Receiver()
    async with running(handler or found.handle) as found.url:
        yield found


class Callbacks:
    """The objects of callbacks on one database, as the processes of one installation have them."""

    marketplace: Marketplace | None = None

    def __init__(self, database: Database, folder: Path, *, policy: Policy = LOOPBACK) -> None:
        self.database = database
        self.policy = policy
        self.instance = Instance(database, SecretSource(None, folder))
        self.sealing = Sealing(self.instance)
        self.wakeups = Wakeups(database)
        self.service = CallbackService(database, self.wakeups, sealing=self.sealing, policy=policy)
        self.targets = CallbackTargets(database, self.sealing, policy, marketplace=True)

    def sending(
        self, *, timeout: timedelta = timedelta(seconds=15), resolver: AbstractResolver | None = None
    ) -> Sending:
        return Sending(
            sender=Sender(self.policy, timeout=timeout, resolver=resolver),
            sealing=self.sealing,
            expansions=lambda tenant: {"job": JobExpansion(Names(self.database, tenant))},
            details={"job": job_callbacks.details},
            marketplace=self.marketplace,
        )

    def dispatcher(
        self,
        *,
        lease: timedelta = LEASE,
        database: Database | None = None,
        wakeups: Wakeups | None = None,
        **sending: Any,
    ) -> CallbackDispatcher:
        found = self.sending(**sending)
        return CallbackDispatcher(
            database or self.database,
            wakeups or self.wakeups,
            sender=found.sender,
            sealing=found.sealing,
            details=found.details,
            marketplace=found.marketplace,
            lease=lease,
        )

    def fan_out(self) -> CallbackFanOut:
        return CallbackFanOut(self.database, self.wakeups, self.sending().expansions)

    def retention(self) -> CallbackRetention:
        return CallbackRetention(self.database, keep_delivered=timedelta(days=7), keep_jobs=timedelta(days=30))

    async def add(self, tenant: TenantId, url: str, *events: str, secret: str | None = None) -> CreatedEndpoint:
        """Register an endpoint."""
        creation = EndpointCreation(url=url, events=list(events) or ["*"], secret=secret)
        return await self.service.create(managing(tenant), creation)

    async def endpoint(self, tenant: TenantId, created: Endpoint) -> Endpoint:
        return await self.service.endpoint(managing(tenant).principal, created.id)

    async def deliveries(self, tenant: TenantId, created: Endpoint, **where: Any) -> list[DeliveryView]:
        """Return the newest hundred deliveries, the newest event first."""
        where = {"status": None, "before": None, "at_most": 100} | where
        return (await self.service.deliveries(managing(tenant).principal, created.id, **where)).deliveries

    async def caught_up(self) -> None:
        """Wait until every event has become deliveries, or was passed over."""

        async def done() -> bool:
            return await query(self.database, _BEHIND) == [(0,)]

        await until(done, "the cursors are at the end")

    def poke(self) -> None:
        """Wake the dispatchers, which is necessary after the clock was moved."""
        self.wakeups.announce(ENDPOINTS)

    @asynccontextmanager
    async def running(self, dispatcher: CallbackDispatcher | None = None) -> AsyncIterator[CallbackDispatcher]:
        """Run the duties, as a housekeeper does."""
        dispatcher = dispatcher or self.dispatcher()
        fan_out = self.fan_out()
        self.wakeups.start()
        await within(self.wakeups.listening.wait())
        self.wakeups.subscribe("events", lambda _keys: fan_out.wake())
        tasks = [asyncio.create_task(duty.run()) for duty in (fan_out, dispatcher)]
        try:
            yield dispatcher
        finally:
            await fan_out.stop()
            await dispatcher.stop()
            await asyncio.gather(*tasks)
            await self.wakeups.stop()


def managing(tenant: TenantId) -> ManagingSender:
    """Return a sender that may manage the callbacks of a tenant."""
    principal = Principal(tenant=tenant, tenant_name=f"tenant {tenant}", scopes=frozenset({scopes.TENANT_ADMIN}))
    return ManagingSender(principal=principal, address="127.0.0.1")
