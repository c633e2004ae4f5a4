"""The queues that a key may use."""

from __future__ import annotations

from uuid import UUID

import msgspec

from penstock.errors import Forbidden, NotFound
from penstock.events.event import Event
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import Job, JobPage
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.jobs.work import ClaimRequest
from penstock.tenants.principal import Principal


def may_use(sender: Principal, task_type: str, model_profile: str) -> bool:
    """Return whether a sender may submit to a queue, claim from it and read its jobs."""
    usable = sender.usable_queues
    return usable is None or f"{task_type}/{model_profile}" in usable


def require_queue(sender: Principal, task_type: str, model_profile: str, *, prefix: str = "") -> None:
    """Raise Forbidden, which names the queue, unless a sender may use it."""
    if not may_use(sender, task_type, model_profile):
        raise Forbidden(
            f"{prefix}model_profile: this key may not use the queue {task_type}/{model_profile}; "
            f"it may use: {_named(sender)}"
        )


def visible(sender: Principal, page: JobPage) -> JobPage:
    """Return a page without the jobs of queues that a sender may not use; it may become empty."""
    if sender.usable_queues is None:
        return page
    jobs = [job for job in page.jobs if may_use(sender, job.task_type, job.model_profile)]
    return msgspec.structs.replace(page, jobs=jobs)


def reads(sender: Principal, job: Job) -> bool:
    return may_use(sender, job.task_type, job.model_profile)


async def require_job(sender: Principal, jobs: TenantJobs, job_id: UUID) -> None:
    """Raise NotFound for a job of a queue that a sender may not use."""
    if sender.usable_queues is not None and not reads(sender, await jobs.get(job_id)):
        raise NotFound(f"there is no job {job_id}")


def queues_of(sender: Principal) -> list[tuple[str, str]] | None:
    """Return the queues that a sender may use; None: all."""
    usable = sender.usable_queues
    if usable is None:
        return None
    named = (queue.partition("/") for queue in sorted(usable))
    return [(task_type, model_profile) for task_type, _, model_profile in named]


def selected(sender: Principal, where: JobFilter) -> list[JobFilter]:
    """Restrict a filter to the queues that a sender may use: return one for each of these queues."""
    queues = queues_of(sender)
    if queues is None:
        return [where]
    return [
        msgspec.structs.replace(where, task_type=task_type, model_profile=model_profile)
        for task_type, model_profile in queues
        if where.task_type in {None, task_type} and where.model_profile in {None, model_profile}
    ]


def receives(sender: Principal, event: Event) -> bool:
    """Return whether a sender may see an event. One that names no queue is for senders that may use all."""
    queue = (event.data.get("task_type"), event.data.get("model_profile"))
    usable = sender.usable_queues
    return usable is None or "/".join(map(str, queue)) in usable


def narrowed(sender: Principal, claim: ClaimRequest) -> ClaimRequest:
    """Restrict a claim to the queues that its sender may use.

    Raises Forbidden if it requests none of these, or if one claim cannot select them: a claim selects all pairs of its
    task types and model profiles.
    """
    usable = sender.usable_queues
    if usable is None:
        return claim
    pairs = {(one.partition("/")[0], one.partition("/")[2]) for one in usable}
    wanted = {
        (task_type, model_profile)
        for task_type, model_profile in pairs
        if (not claim.task_types or task_type in claim.task_types)
        and (not claim.model_profiles or model_profile in claim.model_profiles)
    }
    task_types = sorted({task_type for task_type, _ in wanted})
    model_profiles = sorted({model_profile for _, model_profile in wanted})
    if not wanted or len(task_types) * len(model_profiles) != len(wanted):
        raise Forbidden(
            f"this key may claim only from the queues {_named(sender)}: state task_types and model_profiles whose "
            "pairs are all among them"
        )
    return msgspec.structs.replace(claim, task_types=task_types, model_profiles=model_profiles)


def _named(sender: Principal) -> str:
    return ", ".join(sorted(sender.usable_queues or ())) or "none"
