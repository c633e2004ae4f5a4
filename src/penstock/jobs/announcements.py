"""Wake-ups about jobs: their topics, and the announcements that follow a change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID

from penstock.events.tail import EVENTS
from penstock.jobs.sql.rows import Mailed, TenantQueue
from penstock.jobs.sql.store import EndedAttempt
from penstock.postgres.wakeups import Wakeups
from penstock.tenants.principal import TenantId

READY: Final = "jobs.ready"  # how many jobs of each tenant's queue became ready
FINISHED: Final = "jobs.finished"  # the ids (UUID.hex) of jobs that finished
MAIL: Final = "flows.mail"  # the ids (UUID.hex) of runs of flows that got mail
CANCELLED: Final = "jobs.cancelled"  # a running job was cancelled and is to stop; no keys
FLOW: Final = "flow"  # the task type of runs
_SEPARATOR: Final = "\x1f"


def announce(
    wakeups: Wakeups,
    *,
    ready: Counter[TenantQueue] | None = None,
    finished: Sequence[UUID] = (),
    cancelled: bool = False,
) -> None:
    """Announce that jobs changed. Each change has stored an event, so readers of events are woken too."""
    if ready:
        wakeups.announce(READY, keys_of(ready))
    if finished:
        wakeups.announce(FINISHED, {job_id.hex: 1 for job_id in finished})
    if cancelled:
        wakeups.announce(CANCELLED)
    wakeups.announce(EVENTS, urgent=False)


def announce_ended(
    wakeups: Wakeups, ended: Sequence[EndedAttempt], offer: Callable[[TenantId, int], None] | None = None
) -> None:
    """Announce ended attempts: wake workers for jobs that are ready again or that a limit held back, and waiters for
    jobs that have finished.

    ``offer`` passes on the places under limits; without it, they are announced to all processes.
    """
    if ended:
        ready = Counter(e.queue for e in ended if e.ready)
        places = Counter(e.queue[0] for e in ended if e.limited)
        if offer is None:
            ready.update({any_queue(tenant): count for tenant, count in places.items()})
        else:
            for tenant, count in places.items():
                offer(tenant, count)
        announce(
            wakeups,
            ready=ready,
            finished=[e.job_id for e in ended if e.status.finished],
        )


def announce_mail(wakeups: Wakeups, tenant: TenantId, mailed: Mailed) -> None:
    """Announce that runs of flows got mail: wake workers for those that are ready again, and the others' runners."""
    if mailed.woken:
        announce(wakeups, ready=Counter((tenant, FLOW, profile) for profile in mailed.woken))
    if mailed.runs:
        wakeups.announce(MAIL, {run_id.hex: 1 for run_id in mailed.runs})


def any_queue(tenant: TenantId) -> TenantQueue:
    """Return what stands for all queues of a tenant: jobs that waited for its limits may run now."""
    return (tenant, "", "")


def keys_of(counts: Mapping[TenantQueue, int]) -> dict[str, int]:
    """Return the keys of READY for counts of jobs by queue."""
    return {_SEPARATOR.join(map(str, queue)): count for queue, count in counts.items()}


def queues_of(keys: Iterable[tuple[str, int]]) -> Iterator[tuple[TenantQueue, int]]:
    """Return the queue and the count in each key of READY."""
    for key, count in keys:
        tenant, task_type, model_profile = key.split(_SEPARATOR)
        yield (TenantId(int(tenant)), task_type, model_profile), count
