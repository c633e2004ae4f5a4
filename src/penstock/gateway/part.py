"""The gateway's own part: its health and its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.blobs.objects.stores import ObjectStores
from penstock.brokers.broker import Broker
from penstock.flows.attention import Attention
from penstock.flows.service import FlowService
from penstock.gateway.measures import measures
from penstock.gateway.system import SystemRoutes
from penstock.jobs.service import JobService
from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.web.route import routes_of


def part(
    database: Database, jobs: JobService, flows: FlowService, *, brokers: Sequence[Broker], stores: ObjectStores
) -> Part:
    """Return the routes for health and metrics, which include counts of jobs, brokers and the store of files."""
    measured = measures(database, jobs, flows, stores)
    attention = Attention(flows.catalogue.trouble)
    system = SystemRoutes(database, brokers=brokers, stores=stores, measures=measured, attention=attention)
    return Part(routes=routes_of(system))
