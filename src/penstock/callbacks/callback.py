"""A callback, as a submission names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from penstock.callbacks import event_types, signing
from penstock.errors import InvalidInput
from penstock.outbound.policy import Policy, check_url

_PLAIN: Final = r"^[^\x00-\x1f\x7f]*$(?!\n)"
MAX_URL_LENGTH: Final = 2000
Url = Annotated[
    str, Meta(min_length=1, max_length=MAX_URL_LENGTH, pattern=_PLAIN, description="Where messages are sent by POST.")
]
EventPattern = Annotated[str, Meta(min_length=1, max_length=100, pattern=_PLAIN)]
EventPatterns = Annotated[
    list[EventPattern],
    Meta(min_length=1, max_length=20, description="Types of events to send: `job.completed`, `job.*`, `*`."),
]
Secret = Annotated[
    str,
    Meta(
        max_length=200, description=f"The secret that signs messages: `{signing.PREFIX}` and 24 to 64 bytes in base64."
    ),
]


class Callback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to send the events of one job, and which ones: by default only the one with which it ends.

    Without a secret the messages have no signature.
    """

    url: Url
    events: EventPatterns | None = None
    secret: Secret | None = None

    def __repr__(self) -> str:
        return f"Callback(url={self.url!r}, events={self.events!r})"


def check_callback(callback: Callback, policy: Policy, *, field: str) -> None:
    """Raise InvalidInput, which names the field within ``field``, for a callback that cannot be used."""
    check_address(callback.url, policy, field=f"{field}.url")
    if callback.events is not None:
        check_events(callback.events, field=f"{field}.events")
    if callback.secret is not None:
        check_secret(callback.secret, field=f"{field}.secret")


def check_address(url: str, policy: Policy, *, field: str) -> None:
    problem = check_url(url, policy)
    if problem is not None:
        raise InvalidInput.of(field, problem)


def check_events(events: Sequence[str], *, field: str) -> None:
    for index, one in enumerate(events):
        problem = event_types.problem(one)
        if problem is not None:
            raise InvalidInput.of(f"{field}[{index}]", problem)


def check_secret(secret: str, *, field: str) -> None:
    try:
        signing.parse(secret)
    except ValueError as error:
        raise InvalidInput.of(field, str(error)) from None
