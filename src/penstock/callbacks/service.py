"""The use cases of managing endpoints and their deliveries. Each change is one transaction, with its audit row."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Raw
from uuid_utils.compat import uuid7

from penstock.access import store as access_store
from penstock.access.audit import Action, Sender, change
from penstock.callbacks import event_types, marketplace, signing, store
from penstock.callbacks.announcing import ENDPOINTS, SUBMITTED
from penstock.callbacks.callback import check_address, check_events, check_secret
from penstock.callbacks.endpoint import (
    MAX_ENDPOINTS,
    CreatedEndpoint,
    DeliveryPage,
    DeliveryStatus,
    Endpoint,
    EndpointChange,
    EndpointCreation,
    EndpointPage,
    Replay,
    Rotation,
)
from penstock.callbacks.message import parse_message_id
from penstock.callbacks.sealing import Sealing, place_of
from penstock.errors import InvalidInput, NotFound, Overloaded, WrongState
from penstock.events import store as event_log
from penstock.events.tail import EVENTS
from penstock.outbound.policy import Policy
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.tenants.principal import Principal, TenantId

_MAX_REPLAYED: Final = 10_000  # dead deliveries that one request sends again


class CallbackService:
    """Manages the endpoints of tenants."""

    def __init__(self, database: Database, wakeups: Wakeups, *, sealing: Sealing, policy: Policy) -> None:
        self._database = database
        self._wakeups = wakeups
        self._sealing = sealing
        self._policy = policy

    async def create(self, sender: Sender, creation: EndpointCreation) -> CreatedEndpoint:
        """Register an endpoint; returns it with its secret, which cannot be read later.

        Raises InvalidInput, Overloaded and DatabaseUnavailable.
        """
        check_address(creation.url, self._policy, field="url")
        check_events(creation.events, field="events")
        if creation.secret is not None:
            check_secret(creation.secret, field="secret")
        tenant, endpoint_id = sender.principal.tenant, uuid7()
        secret = creation.secret or signing.generate()
        instance = await self._sealing.secret()
        async with self._database.acquire() as connection, connection.transaction():
            began = await store.begin(connection, tenant)
            if await store.number_of(connection, tenant) >= MAX_ENDPOINTS:
                raise Overloaded(f"this tenant has {MAX_ENDPOINTS} callbacks; remove some first")
            await store.create(
                connection,
                tenant,
                endpoint_id,
                url=creation.url,
                events=creation.events,
                description=creation.description,
                sealed=instance.seal(secret.encode(), place=place_of(endpoint_id)),
                secret_id=instance.id,
            )
            created = await _existing(connection, sender.principal, endpoint_id)
            action = Action(name="callback.create", subject=str(endpoint_id), after=_described(created))
            await _record(connection, sender, action)
        if began:
            self._wakeups.announce(SUBMITTED)
        return CreatedEndpoint(**msgspec.structs.asdict(created), secret=secret)

    async def endpoints(self, reader: Principal, *, registered: bool, after: UUID, at_most: int) -> EndpointPage:
        """Return the endpoints that a tenant registered, or those that its submissions named."""
        async with self._database.acquire() as connection:
            found = await store.endpoints(
                connection,
                reader.tenant,
                registered=registered,
                after=after,
                at_most=at_most,
                hidden=_hidden_from(reader),
            )
        return EndpointPage(callbacks=found, next=found[-1].id if len(found) == at_most else None)

    async def endpoint(self, reader: Principal, endpoint_id: UUID) -> Endpoint:
        """Return an endpoint; raises NotFound."""
        async with self._database.acquire() as connection:
            return await _existing(connection, reader, endpoint_id)

    async def change(self, sender: Sender, endpoint_id: UUID, wanted: EndpointChange) -> Endpoint:
        """Change an endpoint, disable it, or enable it; raises NotFound, InvalidInput and WrongState."""
        if wanted.url is not UNSET:
            check_address(wanted.url, self._policy, field="url")
        if wanted.events is not UNSET:
            check_events(wanted.events, field="events")
        tenant = sender.principal.tenant
        async with self._database.acquire() as connection, connection.transaction():
            before = await self._locked(connection, sender.principal, endpoint_id)
            fields = {
                name: value
                for name in ("url", "events", "description")
                if (value := getattr(wanted, name)) is not UNSET
            }
            if fields and not before.registered:
                raise WrongState("submissions name this callback: it can only be disabled and enabled")
            if fields:
                await store.change(connection, tenant, msgspec.structs.replace(before, **fields))
            if wanted.disabled is True:
                await store.disable(connection, tenant, endpoint_id, reason="on request")
            elif wanted.disabled is False:
                await store.enable(connection, tenant, endpoint_id)
            after = await _existing(connection, sender.principal, endpoint_id)
            await _record(
                connection, sender, change("callback.change", str(endpoint_id), _described(before), _described(after))
            )
        self._wakeups.announce(ENDPOINTS, {endpoint_id.hex: 1})
        return after

    async def rotate(self, sender: Sender, endpoint_id: UUID, rotation: Rotation) -> CreatedEndpoint:
        """Give an endpoint another secret, and return it; messages are signed with both for a while."""
        if rotation.secret is not None:
            check_secret(rotation.secret, field="secret")
        tenant = sender.principal.tenant
        secret = rotation.secret or signing.generate()
        instance = await self._sealing.secret()
        place = place_of(endpoint_id)
        async with self._database.acquire() as connection, connection.transaction():
            before = await self._locked(connection, sender.principal, endpoint_id)
            if not before.registered:
                raise WrongState("submissions name this callback with its secret: state another one there")
            sealed, secret_id = await store.lock_endpoint(connection, tenant, endpoint_id) or (None, None)
            previous = self._sealing.plain(sealed, secret_id, place) if rotation.overlap_seconds else None
            await store.rotate(
                connection,
                tenant,
                endpoint_id,
                sealed=instance.seal(secret.encode(), place=place),
                previous_sealed=None if previous is None else instance.seal(previous, place=place),
                secret_id=instance.id,
                overlap_seconds=rotation.overlap_seconds,
            )
            after = await _existing(connection, sender.principal, endpoint_id)
            await _record(connection, sender, Action(name="callback.rotate", subject=str(endpoint_id)))
        return CreatedEndpoint(**msgspec.structs.asdict(after), secret=secret)

    async def remove(self, sender: Sender, endpoint_id: UUID) -> None:
        """Remove an endpoint and its deliveries; raises NotFound and WrongState."""
        tenant = sender.principal.tenant
        async with self._database.acquire() as connection, connection.transaction():
            before = await self._locked(connection, sender.principal, endpoint_id)
            if not before.registered:
                raise WrongState("submissions name this callback: disable it instead")
            await store.remove(connection, tenant, endpoint_id)
            action = Action(name="callback.remove", subject=str(endpoint_id), before=_described(before))
            await _record(connection, sender, action)

    async def test(self, reader: Principal, endpoint_id: UUID) -> None:
        """Send an endpoint a message of the type ``callback.test``; raises NotFound and WrongState."""
        async with self._database.acquire() as connection, connection.transaction():
            found = await _existing(connection, reader, endpoint_id)
            if not found.registered:
                raise WrongState("submissions name this callback: only registered ones can be tested")
            _require_enabled(found)
            await event_log.record(connection, reader.tenant, str(endpoint_id), kind=event_types.TEST, data=Raw(b"{}"))
        self._wakeups.announce(EVENTS)

    async def deliveries(
        self, reader: Principal, endpoint_id: UUID, *, status: DeliveryStatus | None, before: str | None, at_most: int
    ) -> DeliveryPage:
        """Return the deliveries of an endpoint, the newest event first; raises NotFound and InvalidInput."""
        tenant = reader.tenant
        key = store.FIRST if before is None else _key(before, tenant, field="before")
        async with self._database.acquire() as connection:
            await _existing(connection, reader, endpoint_id)
            found = await store.deliveries(connection, tenant, endpoint_id, status=status, before=key, at_most=at_most)
        return DeliveryPage(deliveries=found, next=found[-1].id if len(found) == at_most else None)

    async def replay(self, sender: Sender, endpoint_id: UUID, replay: Replay) -> int:
        """Send deliveries that have ended again; returns how many. Raises NotFound, InvalidInput and WrongState."""
        if (replay.ids is None) == (not replay.dead):
            raise InvalidInput.of("ids", "state either ids or dead")
        tenant = sender.principal.tenant
        keys = [_key(one, tenant, field=f"ids[{place}]") for place, one in enumerate(replay.ids or ())]
        async with self._database.acquire() as connection, connection.transaction():
            found = await _existing(connection, sender.principal, endpoint_id)
            _require_enabled(found)
            number = await store.replay(
                connection, tenant, endpoint_id, keys=sorted(set(keys)), dead_limit=_MAX_REPLAYED if replay.dead else 0
            )
            action = Action(name="callback.replay", subject=str(endpoint_id), after={"deliveries": number})
            await _record(connection, sender, action)
        self._wakeups.announce(ENDPOINTS, {endpoint_id.hex: 1})
        return number

    async def _locked(self, connection: asyncpg.Connection, reader: Principal, endpoint_id: UUID) -> Endpoint:
        if await store.lock_endpoint(connection, reader.tenant, endpoint_id) is None:
            raise NotFound(f"there is no callback {endpoint_id}")
        return await _existing(connection, reader, endpoint_id)


async def _existing(connection: asyncpg.Connection, reader: Principal, endpoint_id: UUID) -> Endpoint:
    found = await store.endpoint(connection, reader.tenant, endpoint_id, hidden=_hidden_from(reader))
    if found is None:
        raise NotFound(f"there is no callback {endpoint_id}")
    return found


def _hidden_from(reader: Principal) -> str | None:
    """Return the URL of endpoints that a reader does not see: the marketplace's, which belongs to the operator."""
    return None if reader.operator else marketplace.URL


def _require_enabled(found: Endpoint) -> None:
    if found.disabled_at is not None:
        raise WrongState(f"this callback is disabled ({found.disabled_reason}); enable it first")


def _key(message: str, tenant: TenantId, *, field: str) -> tuple[int, int]:
    """Return the position and place in a message's id; raises InvalidInput."""
    parsed = parse_message_id(message)
    if parsed is None or parsed[0] != tenant:
        raise InvalidInput.of(field, "must be the id of a delivery of this callback")
    return parsed[1], parsed[2]


async def _record(connection: asyncpg.Connection, sender: Sender, action: Action) -> None:
    await access_store.record(connection, sender.principal.tenant, sender.principal, sender.address, action)


def _described(endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields of an endpoint that the audit log records."""
    return {
        "url": endpoint.url,
        "events": endpoint.events,
        "description": endpoint.description,
        "disabled": endpoint.disabled_at is not None,
    }
