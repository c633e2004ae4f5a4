"""The audit log: each action that manages something, recorded in the transaction that performs it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import Raw, Struct

from penstock.tenants.principal import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The sender of a management request, and its address."""

    principal: Principal
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action to record. ``before`` and ``after`` hold the fields that changed, without secrets."""

    name: str  # "key.create"
    subject: str  # the id or name of what was managed
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def change(name: str, subject: str, before: dict[str, Any], after: dict[str, Any]) -> Action:
    """Return an action that changed some fields; fields that stayed as they were are left out."""
    differing = [field for field in after if before.get(field) != after[field]]
    return Action(
        name=name,
        subject=subject,
        before={field: before.get(field) for field in differing},
        after={field: after[field] for field in differing},
    )


class Recorded(Struct, frozen=True, kw_only=True):
    """One action in the log."""

    id: int
    at: datetime
    key_id: str | None  # of the sender; null for AI_SERVICE_TOKEN
    user_id: str | None  # the end user that the sender stated
    address: str
    action: str
    subject: str
    before: Raw | None = None
    after: Raw | None = None


class AuditPage(Struct, frozen=True, kw_only=True):
    """Some recorded actions, the newest first. ``next`` is the ``before`` of the next page."""

    actions: list[Recorded]
    next: int | None = None
