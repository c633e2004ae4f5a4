"""The part of flows in a gateway. Gateways read the schemas of flows from the database, and execute no code of them."""

from __future__ import annotations

from penstock.flows.http import FlowRoutes
from penstock.flows.service import FlowService
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.part import Part
from penstock.web.route import routes_of


def part(flows: FlowService, submit: SubmitRoutes) -> Part:
    """The routes of flows."""
    return Part(routes=routes_of(FlowRoutes(flows, submit)))
