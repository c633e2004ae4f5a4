"""Routes that list, pause and resume queues, and that set the limits of tenants."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.access.http.keys import sender_of
from penstock.access.key import TENANT_PATTERN
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, ScopeMissing
from penstock.jobs.controls import QueueList, QueueSelection, TenantLimits
from penstock.jobs.http.allowed import may_use
from penstock.jobs.http.base import JobRoutes
from penstock.jobs.key_rules import KeyRuleChange
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import PathParameter, ResponseSpec, route

_selection = msgspec.json.Decoder(QueueSelection)
_limits = msgspec.json.Decoder(TenantLimits)
_rule = msgspec.json.Decoder(KeyRuleChange)

_NAME: Final = PathParameter(name="name", description=f"the tenant's name: {TENANT_PATTERN}")
_QUEUE: Final[dict[str, Any]] = {"task_type": "transcribe", "model_profile": "whisperx"}
_QUEUES: Final[dict[str, Any]] = {
    "queues": [{**_QUEUE, "pending": 12, "running": 4, "paused": True, "paused_at": "2026-11-29T12:00:00Z"}],
}
_LIMITS_BYTES: Final = 4 * 2**20  # of the limits of a thousand queues, or keys, with the longest names
_RULE: Final[dict[str, Any]] = {"max_running": 2, "exceptions": {"customer 7": 5}}
_LIMITS: Final[dict[str, Any]] = {"weight": 2.0, "max_running": 20, "queues": [{**_QUEUE, "max_running": 4}]}


class ControlRoutes(JobRoutes):
    """Handlers that change what workers may take."""

    @route(
        "GET",
        "/api/v1/queues",
        name="listQueues",
        tag="Queues",
        scope=scopes.JOBS_READ,
        summary="List the tenant's queues: their jobs, pauses and limits",
        responses={200: ResponseSpec(description="The queues, by name", type=QueueList, example=_QUEUES)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def queues(self, request: Request) -> Response:
        request.query({})
        sender = request.principal
        found = await self._service.controls.queues(sender.tenant)
        shown = [queue for queue in found.queues if may_use(sender, queue.task_type, queue.model_profile)]
        return json_response(msgspec.structs.replace(found, queues=shown))

    @route(
        "POST",
        "/api/v1/queues/pause",
        name="pauseQueue",
        tag="Queues",
        scope=scopes.TENANT_ADMIN,
        summary="Pause a queue, or without names all queues of the tenant",
        description="Workers take none of its jobs from now on. Running jobs continue, and submits are accepted. "
        "`all_tenants` pauses the queue for every tenant; this needs the scope `operator`.",
        request=QueueSelection,
        request_example=_QUEUE,
        responses={200: ResponseSpec(description="The tenant's queues", type=QueueList, example=_QUEUES)},
        errors=(*BODY_ERRORS, ScopeMissing, DatabaseUnavailable),
    )
    async def pause(self, request: Request) -> Response:
        selected = await self._selected(request)
        await self._service.controls.pause(sender_of(request), selected)
        return json_response(await self._service.controls.queues(request.principal.tenant))

    @route(
        "POST",
        "/api/v1/queues/resume",
        name="resumeQueue",
        tag="Queues",
        scope=scopes.TENANT_ADMIN,
        summary="Resume what was paused, named in the same way",
        request=QueueSelection,
        request_example=_QUEUE,
        responses={200: ResponseSpec(description="The tenant's queues", type=QueueList, example={"queues": []})},
        errors=(*BODY_ERRORS, ScopeMissing, NotFound, DatabaseUnavailable),
    )
    async def resume(self, request: Request) -> Response:
        selected = await self._selected(request)
        await self._service.controls.resume(sender_of(request), selected)
        return json_response(await self._service.controls.queues(request.principal.tenant))

    @route(
        "PUT",
        "/api/v1/queues/key-rule",
        name="setKeyRule",
        tag="Queues",
        scope=scopes.TENANT_ADMIN,
        summary="Limit how many jobs of a queue with the same concurrency key run at a time",
        description="`exceptions` give another number for some keys; `rule: null` removes the rule. A rule holds once "
        "the response has arrived: running jobs continue; jobs beyond it wait, in order, while others overtake them. "
        "`all_tenants` sets a rule for the queue of each tenant; this needs the scope `operator`. Where both concern a "
        "key, the smaller number holds.",
        request=KeyRuleChange,
        request_example={**_QUEUE, "rule": _RULE},
        responses={
            200: ResponseSpec(
                description="The tenant's queues",
                type=QueueList,
                example={"queues": [{**_QUEUES["queues"][0], "key_rule": _RULE}]},
            )
        },
        errors=(*BODY_ERRORS, ScopeMissing, DatabaseUnavailable),
        max_body_bytes=_LIMITS_BYTES,
    )
    async def set_key_rule(self, request: Request) -> Response:
        request.query({})
        wanted = await request.read(_rule)
        if wanted.all_tenants:
            request.principal.require(scopes.OPERATOR)
        await self._service.key_rules.set(sender_of(request), wanted)
        return json_response(await self._service.controls.queues(request.principal.tenant))

    @route(
        "GET",
        "/api/v1/tenants/{name}/limits",
        name="getTenantLimits",
        tag="Queues",
        scope=scopes.OPERATOR,
        summary="Get a tenant's share of the workers, and the limits of its running jobs",
        path_parameters=(_NAME,),
        responses={200: ResponseSpec(description="The limits", type=TenantLimits, example=_LIMITS)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def limits(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.controls.limits(request.path("name")))

    @route(
        "PUT",
        "/api/v1/tenants/{name}/limits",
        name="setTenantLimits",
        tag="Queues",
        scope=scopes.OPERATOR,
        summary="Replace a tenant's share of the workers, and the limits of its running jobs",
        description="A limit that is left out is removed; the weight is 1 by default. Running jobs above a new "
        "limit continue.",
        path_parameters=(_NAME,),
        request=TenantLimits,
        request_example=_LIMITS,
        responses={200: ResponseSpec(description="The limits", type=TenantLimits, example=_LIMITS)},
        errors=(*BODY_ERRORS, NotFound, DatabaseUnavailable),
        max_body_bytes=_LIMITS_BYTES,
    )
    async def set_limits(self, request: Request) -> Response:
        request.query({})
        wanted = await request.read(_limits)
        return json_response(await self._service.controls.set_limits(sender_of(request), request.path("name"), wanted))

    async def _selected(self, request: Request) -> QueueSelection:
        request.query({})
        selected = await request.read(_selection)
        if selected.all_tenants:
            request.principal.require(scopes.OPERATOR)
        return selected
