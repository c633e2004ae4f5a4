"""Tickets, as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta, Struct

from penstock.access.key import ScopeList, Text

MAX_SECONDS: Final = 3600


class TicketSubject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one thing that a ticket is about."""

    kind: Literal["job"]
    id: UUID


class TicketCreation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to issue a ticket. ``subject`` limits it to one job; ``once`` to one use."""

    scopes: ScopeList
    user: Text | None = None
    subject: TicketSubject | None = None
    ttl_seconds: Annotated[int, Meta(ge=1, le=MAX_SECONDS)] = 60
    once: bool = False


class Ticket(Struct, frozen=True, kw_only=True):
    """An issued ticket: send it as the query parameter ``ticket``."""

    ticket: str
    expires_at: datetime
