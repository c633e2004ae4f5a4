"""Callbacks of jobs: the events that they send, and what their messages contain about a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from penstock.callbacks.callback import Callback
from penstock.callbacks.event_types import JOB_ENDED
from penstock.callbacks.message import Delivery, Key
from penstock.callbacks.targets import CallbackTargets
from penstock.errors import InvalidInput
from penstock.jobs.sql import reading
from penstock.jobs.sql.rows import Connection
from penstock.tenants.principal import TenantId

ENDED: Final = JOB_ENDED
_MAX_RESULT_BYTES: Final = 64 * 2**10  # of a result within a message


def events_of(callback: Callback | None) -> Sequence[str]:
    """Return the types of events that a job's callback wants; without one, those that the marketplace gets."""
    return ENDED if callback is None or callback.events is None else callback.events


def check_callback(targets: CallbackTargets | None, callback: Callback, field: str) -> None:
    """Raise InvalidInput, which names the field, for a callback that cannot be used."""
    if targets is None:
        raise InvalidInput.of(field, "is not possible in this process")
    targets.check(callback, field=field)


async def details(
    connection: Connection, tenant: TenantId, deliveries: Sequence[Delivery]
) -> Mapping[Key, Mapping[str, Any]]:
    """Return the data that messages about ended jobs have beyond their events.

    It identifies the job for its owner and has the result of a completed job, unless that is large or the job has been
    retried or dropped since.
    """
    ended = [one for one in deliveries if one.kind in ENDED]
    if not ended:
        return {}
    jobs = await reading.described(connection, tenant, [UUID(one.subject) for one in ended], at_most=_MAX_RESULT_BYTES)
    return {one.key: _details(one, jobs[UUID(one.subject)]) for one in ended if UUID(one.subject) in jobs}


def _details(delivery: Delivery, job: reading.Described) -> dict[str, Any]:
    found: dict[str, Any] = {"owner_ref": job.owner_ref, "user_id": job.user_id, "tags": job.tags}
    if delivery.kind == "job.completed" and delivery.at == job.finished_at and job.result_bytes is not None:
        found |= {"result_bytes": job.result_bytes} if job.result is None else {"result": job.result}
    return found
