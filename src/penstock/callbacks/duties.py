"""The duties of this room in a housekeeper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from penstock.callbacks.dispatcher import CallbackDispatcher
from penstock.callbacks.fan_out import CallbackFanOut, Expansions
from penstock.callbacks.marketplace import Marketplace
from penstock.callbacks.message import Details
from penstock.callbacks.retention import CallbackRetention
from penstock.callbacks.sealing import Sealing
from penstock.callbacks.sender import Sender
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What a housekeeper needs to send callbacks. ``expansions`` and ``details`` come from rooms with events."""

    sender: Sender
    sealing: Sealing
    expansions: Expansions
    details: Mapping[str, Details]
    marketplace: Marketplace | None = None
    keep_delivered: timedelta = timedelta(days=7)
    keep_jobs: timedelta = timedelta(days=30)
    concurrency: int = 16  # requests to one endpoint at a time


def duties(database: Database, wakeups: Wakeups, sending: Sending) -> Sequence[Periodic]:
    """Return the duties. Any number of housekeepers may run them."""
    return (
        CallbackFanOut(database, wakeups, sending.expansions),
        CallbackDispatcher(
            database,
            wakeups,
            sender=sending.sender,
            sealing=sending.sealing,
            details=sending.details,
            marketplace=sending.marketplace,
            concurrency=sending.concurrency,
        ),
        CallbackRetention(database, keep_delivered=sending.keep_delivered, keep_jobs=sending.keep_jobs),
    )
