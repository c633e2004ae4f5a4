"""The child jobs that the steps of a turn issue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct
from uuid_utils.compat import uuid7

from penstock.flows.kernel.records import Step, StepKind, Target
from penstock.flows.sql.store import Block, Child
from penstock.jobs.announcements import FLOW
from penstock.jobs.job import JobSubmission
from penstock.jobs.names import Names
from penstock.jobs.work import ClaimedJob

MAP: Final = "map"  # the model profile of maps, which every runner serves
_DEFAULT_LIMIT: Final = 256  # child jobs of a map at a time
_MAX_LIMIT: Final = 4096
_BLOCK: Final = 64  # items of a map whose ends are counted together
_NULL: Final = Raw(b"null")


class MapInput(Struct, frozen=True, kw_only=True):
    """The input of the job that is a map. Its items are in blocks of their own."""

    target: Target
    count: int
    limit: int
    fail_fast: bool
    priority: int  # of the items


async def children_of(
    steps: Sequence[Step], run: ClaimedJob, names: Names, *, max_attempts: int
) -> tuple[dict[int, Child], list[Block]]:
    """Return the child jobs of steps, by the number of the step, and the blocks of their maps."""
    calls = [step for step in steps if step.target is not None]
    if not calls:
        return {}, []
    submissions = [_submission(step, run) for step in calls]
    if any(not names.has_lane(submission) for submission in submissions):
        await names.resolve_lanes(submissions)
    children: dict[int, Child] = {}
    blocks: list[Block] = []
    for step, submission in zip(calls, submissions, strict=True):
        child = _child(step, submission, names, max_attempts)
        children[step.no] = child
        if step.kind is StepKind.MAP:
            blocks += blocks_of(child, step.items or [], msgspec.json.decode(child.input, type=MapInput).limit)
    return children, blocks


def submission_of(target: Target, run: ClaimedJob, *, priority: int, value: Raw) -> JobSubmission:
    """Return a child job as its run submits it."""
    return JobSubmission(
        owner_service=run.owner_service,
        task_type=target.task_type,
        model_profile=target.model_profile,
        input=value,
        priority=priority if target.priority is None else target.priority,
        max_attempts=target.max_attempts,
        timeout_seconds=target.timeout_seconds,
        concurrency_key=target.concurrency_key,
    )


def child_of(submission: JobSubmission, names: Names, *, max_attempts: int, gate: str) -> Child:
    """Return a child job with everything that the statement needs. Its lane is known."""
    series_id, lane_id = names.lane_of(submission)
    return Child(
        id=uuid7(),
        series_id=series_id,
        lane_id=lane_id,
        queue=(submission.task_type, submission.model_profile),
        input=submission.input,
        max_attempts=submission.max_attempts or max_attempts,
        timeout_seconds=submission.timeout_seconds,
        concurrency_key=submission.concurrency_key,
        gate=gate,
    )


def blocks_of(child: Child, items: Sequence[Raw], limit: int) -> Iterator[Block]:
    """Cut the items of a map into blocks, so that four or more of them run at a time."""
    size = max(1, min(_BLOCK, limit // 4))
    for first in range(0, len(items), size):
        some = items[first : first + size]
        yield Block(job_id=child.id, first=first, items=len(some), inputs=Raw(msgspec.json.encode(some)))


def _submission(step: Step, run: ClaimedJob) -> JobSubmission:
    target = step.target
    if target is None:
        raise ValueError(f"step {step.no} has no target")
    if step.kind is StepKind.CALL:
        return submission_of(target, run, priority=run.priority, value=step.input or _NULL)
    limit = max(1, min(step.limit or _DEFAULT_LIMIT, _MAX_LIMIT))
    given = MapInput(
        target=target,
        count=len(step.items or ()),
        limit=limit,
        fail_fast=step.fail_fast,
        priority=run.priority if target.priority is None else target.priority,
    )
    return submission_of(
        Target(task_type=FLOW, model_profile=MAP),
        run,
        priority=given.priority,
        value=Raw(msgspec.json.encode(given)),
    )


def _child(step: Step, submission: JobSubmission, names: Names, max_attempts: int) -> Child:
    gate = MAP if step.kind is StepKind.MAP else "run" if submission.task_type == FLOW else ""
    return child_of(submission, names, max_attempts=max_attempts, gate=gate)
