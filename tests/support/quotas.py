"""Quotas for tests: a tenant with a key, quotas set by the operator, and several gateways on one database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.quotas import store
from penstock.quotas.rules import Rule
from penstock.usage.sql import rollup
from tests.support.gateways import SUBMISSION, HttpCaller, Reply, running_gateway

TOKEN = "operators-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantCaller:
    """Sends requests with a key of one tenant."""

    caller: HttpCaller
    tenant: str
    key: str
    key_id: str

    def at(self, other: HttpCaller) -> TenantCaller:
        """Return the same sender at another gateway."""
        return TenantCaller(caller=other, tenant=self.tenant, key=self.key, key_id=self.key_id)

    async def call(self, method: str, path: str, value: Any = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.caller.call(method, path, value, headers={"Authorization": f"Bearer {self.key}", **named})

    async def submit(self, **fields: Any) -> Reply:
        return await self.call("POST", "/jobs", SUBMISSION | fields)

    async def set_quota(self, measure: str, limit: int, per: str | None = None, **fields: Any) -> dict[str, Any]:
        """Set a quota as the operator, and make it known to this gateway."""
        setting = {"measure": measure, "limit": limit, **fields} | ({"per": per} if per else {})
        reply = await self.caller.call("PUT", "/quotas", setting, headers={"Penstock-Tenant": self.tenant})
        assert reply.status == 200, reply.body
        await self.know()
        quota: dict[str, Any] = reply.json
        return quota

    async def know(self) -> None:
        """Let this gateway read what has changed."""
        await self.caller.parts.quotas.watch.once()

    async def step(self, *, idle: bool = False) -> None:
        """Let this gateway report what was used and, if it was ``idle`` for long, give back what it does not use."""
        slices = self.caller.parts.quotas.slices
        if idle:
            for one in slices._all():
                one.retire()
        await slices.once()

    async def rules(self) -> Sequence[Rule]:
        """Return this tenant's quotas as the gateway reads them."""
        ids = {quota["id"] for quota in (await self.quotas()).values()}
        async with self.caller.parts.database.acquire() as connection:
            return [rule for rule in await store.rules(connection) if str(rule.id) in ids]

    async def quotas(self, user: str = "") -> dict[str, dict[str, Any]]:
        """Return the tenant's quotas by measure."""
        reply = await self.call("GET", "/quotas" + (f"?user={user}" if user else ""))
        assert reply.status == 200, reply.body
        return {quota["measure"]: quota for quota in reply.json["quotas"]}


@asynccontextmanager
async def gateways(url: str, number: int, **changes: Any) -> AsyncIterator[list[HttpCaller]]:
    """Run some gateways on one database, in this process."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_gateway(url, ai_service_token=Secret(TOKEN), **changes))
            for _ in range(number)
        ]


async def new_tenant(caller: HttpCaller, *, time_zone: str = "UTC") -> TenantCaller:
    """Create a tenant with a key that has the scopes of a user."""
    name = f"t{uuid4().hex[:12]}"
    reply = await caller.call("POST", "/tenants", {"name": name, "time_zone": time_zone})
    assert reply.status == 201, reply.body
    created = await caller.call(
        "POST",
        "/keys",
        {
            "name": "k",
            "scopes": ["jobs:submit", "jobs:read", "jobs:work", "models:call", "files", "usage:read", "tenant:admin"],
        },
        headers={"Penstock-Tenant": name},
    )
    assert created.status == 201, created.body
    return TenantCaller(caller=caller, tenant=name, key=created.json["key"], key_id=created.json["id"])


async def run_job(tenant: TenantCaller, *, user: str = "", **used: Any) -> None:
    """Submit a job and complete it with that usage."""
    reply = await tenant.submit(user_id=user)
    assert reply.status == 201, reply.body
    (job,) = (await tenant.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 1})).json["jobs"]
    call = {"provider": "far", "model": "m"} | used
    done = await tenant.call(
        "POST", f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": 1, "usage": [call]}
    )
    assert done.status == 200, done.body


async def counted(tenant: TenantCaller, database: Database) -> None:
    """Roll usage up, and let the gateway check its budgets."""
    async with database.acquire() as connection:
        while await rollup.roll_up(connection):
            pass
    slices = tenant.caller.parts.quotas.slices
    for one in slices._all():
        one.synced_at -= 1
    await slices.once()
