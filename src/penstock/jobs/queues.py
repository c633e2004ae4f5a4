"""The queues that workers serve: a small record that claims maintain, and warnings about jobs of other queues."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Final

from penstock import durations
from penstock.errors import DatabaseUnavailable, InvalidInput
from penstock.jobs.sql import queues as statements
from penstock.jobs.sql.rows import Queue
from penstock.jobs.work import ClaimRequest
from penstock.postgres.pool import Database
from penstock.suggestions import did_you_mean
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

_Kind = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # task types, profiles and tenants of a claim
Known = Callable[[str], Collection[str]]  # model profiles that this process knows for a task type
Explain = Callable[[Queue], str | None]  # why this process does not serve a queue

_NOTE_SECONDS: Final = 60.0  # how often one process notes claims of one kind
_READ_SECONDS: Final = 1.0  # the least time between two reads of the record
_SERVED_WITHIN: Final = timedelta(hours=1)  # a queue that no worker has claimed from for longer causes a warning
_MAX_PAIRS: Final = 200  # of one claim; if it names more, its types are noted with any profile
_MAX_QUEUES: Final = 5000  # remembered by one process
_MAX_NAMED: Final = 20  # queues in one message


class ServedNotes:
    """The writer of the record for the claims of one tenant's workers, or of those that serve all tenants (None).

    ``note`` costs a claim one lookup in a dictionary; the record is written in the background.
    """

    def __init__(self, database: Database, tenant: TenantId | None) -> None:
        self._database = database
        self._tenant = tenant
        self._note_at: dict[_Kind, float] = {}  # by kind of claim, monotonic
        self._notes: set[asyncio.Task[None]] = set()

    def note(self, request: ClaimRequest) -> None:
        """Note that a worker claims from these queues, unless this process did so within the last minute."""
        kind = (tuple(request.task_types), tuple(request.model_profiles), tuple(request.tenants))
        now = time.monotonic()
        if now < self._note_at.get(kind, 0.0):
            return
        if len(self._note_at) >= 1000:
            self._note_at.clear()
        self._note_at[kind] = now + _NOTE_SECONDS
        task = asyncio.create_task(self._write(kind))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def stop(self) -> None:
        """Wait until all notes are written."""
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def _write(self, kind: _Kind) -> None:
        task_types, model_profiles, tenants = kind
        try:
            async with self._database.acquire() as connection:
                await statements.note_served(connection, self._tenant, _pairs(task_types, model_profiles), tenants)
        except DatabaseUnavailable:
            self._note_at.pop(kind, None)  # the next claim tries again
        except Exception:  # claims do not need the record, and it is written again in a minute
            log.exception("served_queues_not_recorded", tenant_id=self._tenant)


class ServedQueues:
    """The record as read for one tenant: the queues that its own workers, or those of all tenants, claim from.

    ``warnings`` reads the record only for queues that are not known to be served, once a second at most.
    """

    def __init__(self, database: Database, tenant: TenantId) -> None:
        self._database = database
        self._tenant = tenant
        self._served: dict[Queue, float] = {}  # when a worker last claimed from it, monotonic
        self._warnings: dict[Queue, str | None] = {}  # the time of the last read of the record
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def warnings(self, queues: Iterable[Queue], known: Known, explain: Explain = lambda _: None) -> list[str]:
        """Return a sentence about each of these queues that no worker serves; none when the database is unavailable.

        ``explain`` returns why this process does not serve a queue, if it knows.
        """
        missing = [queue for queue in dict.fromkeys(queues) if not self._is_served(queue)]
        if not missing:
            return []
        try:
            await self._refresh()
        except DatabaseUnavailable:
            return []
        found = [self._warning(queue, known, explain) for queue in missing[:_MAX_NAMED]]
        return [warning for warning in found if warning is not None]

    async def check(self, queues: Sequence[Queue], known: Known, field: Callable[[int], str]) -> None:
        """Raise InvalidInput for the first queue that no worker has ever served and this process does not know.

        ``field`` returns the name of the field of the queue with an index.
        """
        for index, queue in enumerate(queues):
            if self._seen(queue) is not None or queue[1] in known(queue[0]):
                continue
            await self._refresh()
            if self._seen(queue) is None:
                raise InvalidInput.of(field(index), self._refusal(queue, known))

    async def _refresh(self) -> None:
        """Read the record, unless that was done within the last second."""
        async with self._reading:
            if time.monotonic() < self._read_at:
                return
            async with self._database.acquire() as connection:
                ages = await statements.served(connection, self._tenant, limit=_MAX_QUEUES)
            now = time.monotonic()
            self._served = {queue: now - age for queue, age in ages.items()}
            self._warnings.clear()
            self._read_at = now + _READ_SECONDS

    def _seen(self, queue: Queue) -> float | None:
        """Return when a worker last claimed from a queue, by its names or by a claim of any queue; None: never."""
        task_type, model_profile = queue
        places = (queue, (task_type, ""), ("", model_profile), ("", ""))
        return max((self._served[place] for place in places if place in self._served), default=None)

    def _is_served(self, queue: Queue) -> bool:
        seen = self._seen(queue)
        return seen is not None and time.monotonic() - seen <= _SERVED_WITHIN.total_seconds()

    def _warning(self, queue: Queue, known: Known, explain: Explain) -> str | None:
        if queue not in self._warnings:
            if len(self._warnings) >= _MAX_QUEUES:
                self._warnings.clear()
            self._warnings[queue] = self._describe(queue, known, explain)
        return self._warnings[queue]

    def _describe(self, queue: Queue, known: Known, explain: Explain) -> str | None:
        if self._is_served(queue):
            return None
        name, seen = "/".join(queue), self._seen(queue)
        if seen is not None:
            age = durations.text(timedelta(minutes=(time.monotonic() - seen) // 60))
            return f"no worker has served the queue {name} for {age}"
        reason = explain(queue)
        if reason is not None:
            return f"no worker has served the queue {name}: {reason}"
        return f"no worker has served the queue {name}{self._suggestion(queue, known)}"

    def _suggestion(self, queue: Queue, known: Known) -> str:
        """Suggest a similar profile of the same task type or, failing that, a similar task type."""
        task_type, model_profile = queue
        profiles = [profile for kind, profile in self._served if kind == task_type and profile]
        same_task = did_you_mean(model_profile, [*known(task_type), *profiles])
        return same_task or did_you_mean(task_type, dict.fromkeys(kind for kind, _ in self._served if kind))

    def _refusal(self, queue: Queue, known: Known) -> str:
        task_type, model_profile = queue
        served = ["/".join((kind or "*", profile or "*")) for kind, profile in self._served]
        names = list(dict.fromkeys([*(f"{task_type}/{name}" for name in known(task_type)), *served]))
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        there_are = f"there are: {', '.join(names[:_MAX_NAMED])}{more}" if names else "there are none yet"
        return (
            f"no worker has served the queue {task_type}/{model_profile}, and PENSTOCK_STRICT_QUEUES is set; "
            f"{there_are}{self._suggestion(queue, known)}"
        )


def _pairs(task_types: Sequence[str], model_profiles: Sequence[str]) -> list[Queue]:
    """Return the queues of a claim; an empty name means any."""
    types, profiles = task_types or ("",), model_profiles or ("",)
    if len(types) * len(profiles) > _MAX_PAIRS:
        profiles = ("",)
    return list(itertools.product(dict.fromkeys(types), dict.fromkeys(profiles)))
