"""Filters of jobs, as query parameters and in bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.jobs.filters import JobFilter, ListQuery
from penstock.web.reading import convert, moment
from penstock.web.route import Parameter

LISTS = frozenset({"status", "tags"})  # parameters that may be repeated

FILTERS: dict[str, bool] = {name: name in LISTS for name in JobFilter.__struct_fields__}

MOMENTS = ("created_after", "created_before", "finished_after", "finished_before")

FILTER_MEANINGS = {
    "status": "any of these; may be repeated",
    "tags": "all of these; may be repeated",
    "created_after": "at this time or later, with its offset: 2026-01-30T09:00:00Z",
    "created_before": "before this time",
    "finished_after": "at this time or later",
    "finished_before": "before this time",
    "error_category": "of the last attempt",
    "worker_id": "of the worker that holds it, or held it last",
}

FILTER_PARAMETERS = tuple(
    Parameter(
        name=field.encode_name,
        type=field.type,
        description=FILTER_MEANINGS.get(field.name, "exactly this"),
        repeated=field.name in {"status", "tags"},
    )
    for field in msgspec.structs.fields(ListQuery)
)


def filter_of(query: Mapping[str, Sequence[str]]) -> JobFilter:
    """Return the filter in query parameters, which may hold other parameters too; raises InvalidInput."""
    return convert(values_of({name: value for name, value in query.items() if name in FILTERS}), JobFilter)


def values_of(query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        name: [part for one in value for part in one.split(",") if part]
        if name in LISTS
        else moment(value[0], name)
        if name in MOMENTS
        else value[0]
        for name, value in query.items()
    }
