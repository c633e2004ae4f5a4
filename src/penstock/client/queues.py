"""The calls that list, pause and resume queues, and set the limits of tenants."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from penstock.client.transport import Transport

_QUEUES: Final = "/api/v1/queues"


class QueueCalls:
    """The part of ``Client`` about queues. All return the JSON that the description of the API explains."""

    _transport: Transport

    async def queues(self) -> dict[str, Any]:
        """Return the tenant's queues: their jobs, pauses and limits."""
        return await self._transport.call("GET", _QUEUES, dict[str, Any])

    async def pause_queue(
        self, task_type: str | None = None, model_profile: str | None = None, *, all_tenants: bool = False
    ) -> dict[str, Any]:
        """Let no worker take jobs of a queue or, without names, of any queue of the tenant. Running jobs continue."""
        return await self._change("pause", task_type, model_profile, all_tenants)

    async def resume_queue(
        self, task_type: str | None = None, model_profile: str | None = None, *, all_tenants: bool = False
    ) -> dict[str, Any]:
        """Resume what ``pause_queue`` paused with the same arguments; raises NotFound if that is not paused."""
        return await self._change("resume", task_type, model_profile, all_tenants)

    async def limit_keys(
        self,
        task_type: str,
        model_profile: str,
        max_running: int | None,
        *,
        exceptions: dict[str, int] | None = None,
        all_tenants: bool = False,
    ) -> dict[str, Any]:
        """Limit how many jobs of a queue with the same concurrency key run at a time; None removes the rule.

        ``exceptions`` give another number for some keys. They replace those of an earlier rule.
        """
        rule = None if max_running is None else {"max_running": max_running, "exceptions": exceptions or {}}
        body = {"task_type": task_type, "model_profile": model_profile, "rule": rule, "all_tenants": all_tenants}
        return await self._transport.call("PUT", f"{_QUEUES}/key-rule", dict[str, Any], body=body)

    async def tenant_limits(self, tenant: str) -> dict[str, Any]:
        """Return a tenant's share of the workers and the limits of its running jobs; for operators."""
        return await self._transport.call("GET", _limits(tenant), dict[str, Any])

    async def set_tenant_limits(
        self,
        tenant: str,
        *,
        weight: float = 1.0,
        max_running: int | None = None,
        queues: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, Any]:
        """Replace a tenant's share of the workers and the limits of its running jobs; for operators.

        ``queues`` are limits by task type and model profile. What is left out is not limited.
        """
        limited = [
            {"task_type": task_type, "model_profile": model_profile, "max_running": most}
            for (task_type, model_profile), most in (queues or {}).items()
        ]
        body = {"weight": weight, "max_running": max_running, "queues": limited}
        return await self._transport.call("PUT", _limits(tenant), dict[str, Any], body=body)

    async def _change(
        self, verb: str, task_type: str | None, model_profile: str | None, all_tenants: bool
    ) -> dict[str, Any]:
        body = {"task_type": task_type, "model_profile": model_profile, "all_tenants": all_tenants}
        return await self._transport.call("POST", f"{_QUEUES}/{verb}", dict[str, Any], body=body, repeatable=False)


def _limits(tenant: str) -> str:
    return f"/api/v1/tenants/{quote(tenant, safe='')}/limits"
