"""The use cases of apps and their requests."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from penstock.apps import catalogue
from penstock.apps.catalogue import AppProblem, Published
from penstock.apps.manifest import AppManifest
from penstock.apps.views import AppHealth, AppSummary, AppView, CallRequest
from penstock.errors import AppUnavailable, InvalidInput, NotFound, TooLarge
from penstock.flows.flow_catalogue import KnownFlow
from penstock.flows.service import FlowService
from penstock.flows.views import FlowRequest, FlowVersion, RunTree
from penstock.jobs.fields import APP_OWNER
from penstock.jobs.job import JobSubmission, MarketplaceSubmission
from penstock.masking import MASK
from penstock.models.checking import Checker
from penstock.models.replica.secrets import is_secret
from penstock.postgres.pool import Database
from penstock.suggestions import did_you_mean
from penstock.tenants.principal import Principal

_REMEMBER_SECONDS: Final = 1.0  # for which calls of an app need not read it again


@dataclass(frozen=True, slots=True)
class _Callable:
    """An app that can be called, with its flow; both were read at this (monotonic) time."""

    manifest: AppManifest
    flow: KnownFlow
    checker: Checker | None  # of the schema that the app states
    read_at: float


class AppService:
    """Apps, which belong to the operator, and the requests of each tenant, which are runs of their flows."""

    def __init__(self, database: Database, flows: FlowService) -> None:
        self._database = database
        self._flows = flows
        self._callable: dict[str, _Callable] = {}  # as many as there ever were apps

    async def apps(self, sender: Principal) -> list[AppSummary]:
        """Return the apps that a sender may use."""
        async with self._database.acquire() as connection:
            found = await catalogue.every(connection)
        return [_summary(app, "", sender) for app in found if sender.may_use_app(app.name)]

    async def app(self, sender: Principal, name: str) -> AppView:
        """Return an app with the schemas of its flow. Raises NotFound."""
        app = await self._find(sender, name)
        manifest = app.manifest
        stated = AppManifest(name=app.name) if manifest is None else manifest
        flow = None if manifest is None else await self._flow_of(manifest)
        summary = _summary(app, "" if flow is None else flow.description, sender)
        return AppView(
            **{field: getattr(summary, field) for field in AppSummary.__struct_fields__},
            flow=_named(flow),
            input_schema=stated.request_schema or ({} if flow is None else flow.input_schema),
            output_schema=stated.result_schema or ({} if flow is None else flow.output_schema),
            examples=[] if flow is None else flow.examples,
            max_input_bytes=None if manifest is None else manifest.limits.max_input_bytes,
            ttl_seconds=None if manifest is None else _seconds(manifest.ttl),
            timeout_seconds=_seconds(stated.timeout),
            result_retention_seconds=None
            if stated.result_retention is None
            else stated.result_retention.total_seconds(),
            price_unit="" if manifest is None else manifest.price.unit,
            services=[] if manifest is None else manifest.services,
            variables=_variables(manifest) if manifest is not None and sender.operator else {},
        )

    async def health(self, sender: Principal, name: str) -> AppHealth:
        """Return whether requests of an app run. Raises NotFound."""
        app = await self._find(sender, name)
        flow = None if app.manifest is None else await self._flow_of(app.manifest)
        runs = app.alive and flow is not None and flow.alive
        return AppHealth(
            status="unavailable" if not runs else "degraded" if app.problems else "ok",
            app=app.name,
            version=app.version,
            flow=_named(flow),
            problems=_problems(app, sender),
        )

    async def submission(
        self, sender: Principal, name: str, call: CallRequest
    ) -> tuple[JobSubmission, InvalidInput | TooLarge | None]:
        """Return a request as the job that runs it, and why its input is refused, if it is.

        Raises NotFound, AppUnavailable and, without a user, InvalidInput.
        """
        app = self._remembered(name) if sender.may_use_app(name) else None
        if app is None:
            app = await self._load(sender, name)
        manifest, flow = app.manifest, app.flow
        user = call.user_id or sender.user
        if not user:
            raise InvalidInput.of("user_id", "is required: the end user on whose behalf the request is made")
        request = FlowRequest(
            input=call.input,
            owner_service=f"{APP_OWNER}{name}",
            user_id=user,
            priority=call.priority,
            ttl_seconds=_ttl_seconds(manifest),
            idempotency_key=call.idempotency_key,
            tags=call.tags,
            callback=call.callback,
        )
        run = self._flows.catalogue.submission_of(flow, request)
        submission = MarketplaceSubmission.of(replace(run, chosen=run.chosen | {"flow", "ttl_seconds"}))
        return submission, self._refusal(app, call.input)

    def _refusal(self, app: _Callable, given: Raw) -> InvalidInput | TooLarge | None:
        """Return why an app refuses an input, or None if it takes it."""
        limit, size = app.manifest.limits.max_input_bytes, len(bytes(given))
        if limit is not None and size > limit:
            return TooLarge(f"input has {size} bytes; the app {app.manifest.name} allows {limit}")
        refusal = self._flows.catalogue.refusal(app.flow, given)
        if refusal is None and app.checker is not None:
            try:
                app.checker.check(msgspec.json.decode(given), prefix="input", json=bytes(given))
            except InvalidInput as error:
                return error
        return refusal

    async def request(self, sender: Principal, name: str, task_id: UUID, *, from_no: int, limit: int) -> RunTree:
        """Return a request of an app with a page of its steps. Raises NotFound."""
        await self.require(sender, name)
        absent = NotFound(f"the app {name} has no request {task_id}")
        try:
            tree = await self._flows.tree(sender.tenant, task_id, from_no=from_no, limit=limit)
        except NotFound:
            raise absent from None
        if tree.run.owner_service != f"{APP_OWNER}{name}" or tree.run.parent_id is not None:
            raise absent
        return tree

    async def is_known(self, name: str) -> bool:
        """Return whether a worker has published an app, regardless of who may use it."""
        async with self._database.acquire() as connection:
            return await catalogue.find(connection, name) is not None

    async def require(self, sender: Principal, name: str) -> None:
        """Raise NotFound for an app that there is not, or that the sender may not use."""
        await self._find(sender, name)

    def _remembered(self, name: str) -> _Callable | None:
        app = self._callable.get(name)
        return app if app is not None and time.monotonic() - app.read_at < _REMEMBER_SECONDS else None

    async def _load(self, sender: Principal, name: str) -> _Callable:
        """Return an app with its flow, and remember it for a moment. Raises NotFound and AppUnavailable."""
        began = time.monotonic()
        manifest = (await self._find(sender, name)).manifest
        if manifest is None:
            raise AppUnavailable(f"the app {name} cannot be used: its app.toml has mistakes")
        flow = await self._flows.catalogue.known(manifest.flow_name, manifest.flow_version)
        if flow is None:
            raise AppUnavailable(f"no worker has the flow {manifest.flow or manifest.name} of the app {name}")
        before, schema = self._callable.get(name), manifest.request_schema
        if before is not None and before.manifest.request_schema == schema:
            checker = before.checker
        else:
            checker = None if schema is None else Checker(schema, owner="app")
        app = self._callable[name] = _Callable(manifest, flow, checker, began)
        return app

    async def _find(self, sender: Principal, name: str) -> Published:
        async with self._database.acquire() as connection:
            app = await catalogue.find(connection, name) if sender.may_use_app(name) else None
            if app is not None:
                return app
            known = [one.name for one in await catalogue.every(connection) if sender.may_use_app(one.name)]
        raise NotFound(f"there is no app {name[:100]!r} here{did_you_mean(name, known)}")

    async def _flow_of(self, manifest: AppManifest) -> FlowVersion | None:
        return await self._flows.catalogue.find(manifest.flow_name, manifest.flow_version)


def _summary(app: Published, description: str, sender: Principal) -> AppSummary:
    manifest = app.manifest
    return AppSummary(
        name=app.name,
        version=app.version,
        title=(manifest.title if manifest is not None else "") or app.name,
        description=(manifest.description if manifest is not None else "") or description,
        alive=app.alive,
        problems=_problems(app, sender),
    )


def _problems(app: Published, sender: Principal) -> list[AppProblem]:
    """Return the mistakes in an app's files, which may show what is in them: for operators."""
    return list(app.problems) if sender.operator else []


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _ttl_seconds(manifest: AppManifest) -> float | None:
    """Return the seconds within which a worker must begin a request: no longer than it may take as a whole."""
    limits = [limit.total_seconds() for limit in (manifest.ttl, manifest.timeout) if limit is not None]
    return min(limits, default=None)


def _named(flow: FlowVersion | None) -> str:
    return "" if flow is None else f"{flow.name}@{flow.version}"


def _variables(manifest: AppManifest) -> dict[str, str]:
    return {name: MASK if is_secret(name) and value else value for name, value in manifest.defaults().items()}
