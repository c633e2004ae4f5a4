"""Endpoints and their deliveries, as tenants manage and read them: the wire types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType, field

from penstock.callbacks.callback import EventPatterns, Secret, Url
from penstock.callbacks.event_types import JOB_ENDED

MAX_ENDPOINTS: Final = 50  # registered by one tenant
MAX_OVERLAP_SECONDS: Final = 7 * 24 * 3600
DEFAULT_OVERLAP_SECONDS: Final = 24 * 3600.0
Description = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
MessageId = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$(?!\n)")]
Overlap = Annotated[
    float,
    Meta(
        ge=0, le=MAX_OVERLAP_SECONDS, description="For how long messages are signed with the previous secret as well."
    ),
]
DeliveryStatus = Literal["waiting", "delivered", "dead"]


class Attempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt to deliver a message."""

    at: datetime
    seconds: float
    status: int | None = None  # of the response; None: there was none
    error: str = ""
    response: str = ""  # the beginning of its body


class EndpointCreation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint to register. Without a secret it gets a new one."""

    url: Url
    events: EventPatterns = field(default_factory=lambda: list(JOB_ENDED))
    description: Description = ""
    secret: Secret | None = None

    def __repr__(self) -> str:
        return f"EndpointCreation(url={self.url!r}, events={self.events!r})"


class EndpointChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of an endpoint to change."""

    url: Url | UnsetType = UNSET
    events: EventPatterns | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new secret for an endpoint: the one given, or a generated one."""

    secret: Secret | None = None
    overlap_seconds: Overlap = DEFAULT_OVERLAP_SECONDS

    def __repr__(self) -> str:
        return f"Rotation(overlap_seconds={self.overlap_seconds})"


class Replay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deliveries that have ended, to be sent again: some by their ids, or every dead one."""

    ids: Annotated[list[MessageId], Meta(min_length=1, max_length=1000)] | None = None
    dead: bool = False


class Replayed(Struct, frozen=True, kw_only=True):
    """The number of deliveries that will be sent again."""

    replayed: int


class Endpoint(Struct, frozen=True, kw_only=True):
    """An endpoint and its state. ``signed`` is whether it has a secret, which is never shown again."""

    id: UUID
    url: str
    events: list[str]
    description: str
    registered: bool  # false: a submission named it
    signed: bool
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    previous_secret_until: datetime | None = None
    waiting: int = 0  # deliveries that have not ended
    delivered: int = 0
    dead: int = 0
    failed_attempts: int = 0
    failing_since: datetime | None = None
    resting_until: datetime | None = None


class CreatedEndpoint(Endpoint, frozen=True, kw_only=True):
    """An endpoint with its secret, which is shown only once."""

    secret: str

    def __repr__(self) -> str:
        return f"CreatedEndpoint(id={self.id})"


class EndpointPage(Struct, frozen=True, kw_only=True):
    """A page of endpoints, the oldest first. ``next`` is the ``after`` of the next page."""

    callbacks: list[Endpoint]
    next: UUID | None = None


class DeliveryView(Struct, frozen=True, kw_only=True):
    """A delivery and its attempts."""

    id: str  # of its message
    type: str
    subject: str
    time: datetime  # of the event
    status: DeliveryStatus
    next_attempt_at: datetime | None = None  # not before; null: as soon as possible
    ended_at: datetime | None = None
    attempts: list[Attempt]


class DeliveryPage(Struct, frozen=True, kw_only=True):
    """A page of deliveries, the newest event first. ``next`` is the ``before`` of the next page."""

    deliveries: list[DeliveryView]
    next: str | None = None
