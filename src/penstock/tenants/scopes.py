"""Scopes, which are the rights of a key. Each route declares the one that it needs.

They are plain strings, because every request compares one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

JOBS_READ: Final = "jobs:read"
JOBS_SUBMIT: Final = "jobs:submit"
JOBS_WORK: Final = "jobs:work"
MODELS_CALL: Final = "models:call"
MODELS_MANAGE: Final = "models:manage"
FILES: Final = "files"
COLLECTIONS_READ: Final = "collections:read"
COLLECTIONS_WRITE: Final = "collections:write"
USAGE_READ: Final = "usage:read"
TENANT_ADMIN: Final = "tenant:admin"
OPERATOR: Final = "operator"

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        JOBS_READ: "read jobs, their results, events and statistics",
        JOBS_SUBMIT: "submit, cancel and retry jobs",
        JOBS_WORK: "claim jobs and report on them, as a worker",
        MODELS_CALL: "list models and call them",
        MODELS_MANAGE: "register, reload and remove models, and read their logs",
        FILES: "upload, read and delete files",
        COLLECTIONS_READ: "read collections and search in them",
        COLLECTIONS_WRITE: "create and delete collections, and write and delete their items",
        USAGE_READ: "read usage and cost",
        TENANT_ADMIN: "manage the tenant's keys, pause its queues, and read its audit log",
        OPERATOR: "everything, for every tenant",
    }
)
OF_TENANTS: Final = frozenset(MEANINGS) - {OPERATOR}  # the scopes that a tenant can have
ALL: Final = frozenset(MEANINGS)
ANY: Final = "any"  # declared by a route that every valid key may use
