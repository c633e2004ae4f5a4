"""Filters of jobs, for lists and for retries and cancels by filter: the wire types."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from penstock.failures import Category
from penstock.jobs.fields import MaxAttempts, Moment, Name, Priority, Reference, Tag
from penstock.jobs.states import Status


class _SingleFilters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The filters that take one value."""

    owner_service: Name | None = None
    owner_ref: Reference | None = None
    user_id: Name | None = None
    key_id: Name | None = None
    task_type: Name | None = None
    model_profile: Name | None = None
    priority: Priority | None = None
    worker_id: Name | None = None
    error_category: Category | None = None
    idempotency_key: Name | None = None
    concurrency_key: Name | None = None
    max_attempts: MaxAttempts | None = None
    attempt: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    created_after: Moment | None = None  # inclusive
    created_before: Moment | None = None  # exclusive
    finished_after: Moment | None = None  # inclusive
    finished_before: Moment | None = None  # exclusive


class JobFilter(_SingleFilters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The jobs that a list, a retry or a cancel selects. Every field that is set must match."""

    status: Annotated[list[Status], Meta(min_length=1)] | None = None  # any of these
    tags: Annotated[list[Tag], Meta(min_length=1, max_length=32)] | None = None  # all of these


class ListQuery(JobFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list: the filter, and the page."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Annotated[str, Meta(max_length=100)] | None = None


class BulkRequest(_SingleFilters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A retry or cancel by filter: the filter's fields, and whether only to count.

    ``status`` and ``tags`` take one value or a list, as they do in the query of a list.
    """

    status: Annotated[list[Status], Meta(min_length=1)] | Status | None = None
    # Not a Tag: msgspec 0.22 crashes when it frees a decoder for a union of a list and a string with a pattern.
    tags: Annotated[list[Tag], Meta(min_length=1, max_length=32)] | str | None = None
    dry_run: bool = False


class BulkResponse(Struct, frozen=True, kw_only=True):
    """The number of jobs that were changed or, with ``dry_run``, would be."""

    count: int
    dry_run: bool
