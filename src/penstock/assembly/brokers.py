"""The brokers that the settings name, with what a process announces and receives over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from penstock.brokers.broker import Broker
from penstock.brokers.rabbitmq import RabbitAddress, RabbitMQ
from penstock.brokers.redis import Redis, RedisAddress
from penstock.events.rabbitmq import EventExchange
from penstock.events.recent import RecentRows
from penstock.events.redis import EventStreams
from penstock.events.relay import Destination, Relay
from penstock.jobs import ready_queues
from penstock.jobs.claims import ClaimQueue
from penstock.jobs.events import JobExpansion
from penstock.jobs.names import Names
from penstock.jobs.results import Results
from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.settings.brokers import BrokerSettings
from penstock.tenants.principal import TenantId

_MAX_TENANTS: Final = 1000  # whose names are remembered


class Brokers:
    """The connections of one process. Raises SettingsError if a package is not installed."""

    def __init__(self, settings: BrokerSettings) -> None:
        address = RabbitAddress.from_settings(settings)
        self.rabbitmq = None if address is None else RabbitMQ(address)
        redis = RedisAddress.from_settings(settings)
        self.redis = None if redis is None else Redis(redis)
        self._result_ttl = settings.penstock_result_ttl

    @property
    def all(self) -> Sequence[Broker]:
        return [broker for broker in (self.rabbitmq, self.redis) if broker is not None]

    @property
    def results(self) -> Results | None:
        """The completed jobs that Redis has."""
        return None if self.redis is None else Results(self.redis, keep=self._result_ttl)

    @property
    def recent_rows(self) -> RecentRows | None:
        """The newest rows of events, which Redis has."""
        return None if self.redis is None else RecentRows(self.redis)

    def duties(self, database: Database) -> list[Periodic]:
        """Return the duties of a housekeeper."""
        destinations: list[Destination] = []
        if self.rabbitmq is not None:
            destinations.append(EventExchange(self.rabbitmq))
        if self.redis is not None:
            destinations.append(EventStreams(self.redis))
        tenants = lru_cache(_MAX_TENANTS)(lambda tenant: {"job": JobExpansion(Names(database, TenantId(tenant)))})
        return [Relay(database, destination, tenants) for destination in destinations]

    def parts(self, wakeups: Wakeups, claims: ClaimQueue | None = None) -> list[Part]:
        """Return the connections, and the announcements of ready jobs; with ``claims``, those are received too."""
        parts = []
        if self.rabbitmq is not None:
            parts.append(ready_queues.part(self.rabbitmq, wakeups, claims))
        return [*parts, *(Part(start=broker.start, stop=broker.stop) for broker in self.all)]
