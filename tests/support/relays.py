"""Relays of events."""

from __future__ import annotations

from penstock.events.relay import Destination, Relay
from penstock.jobs.events import JobExpansion
from penstock.jobs.names import Names
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId


def relay_to(destination: Destination, database: Database) -> Relay:
    """Return a relay of the events of all tenants, as the housekeeper has it."""
    return Relay(database, destination, lambda tenant: {"job": JobExpansion(Names(database, TenantId(tenant)))})
