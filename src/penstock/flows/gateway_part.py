"""The part of flows in a gateway. Gateways read the schemas of flows from the database, and execute no code of them."""

from __future__ import annotations

from penstock.flows.http.changing import ChangeRoutes
from penstock.flows.http.events import RunEventRoutes
from penstock.flows.http.reading import ReadRoutes
from penstock.flows.http.starting import StartRoutes
from penstock.flows.service import FlowService
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.part import Part
from penstock.web.route import routes_of


def part(flows: FlowService, submit: SubmitRoutes) -> Part:
    """The routes of flows."""
    topics = (StartRoutes(flows, submit), ReadRoutes(flows), RunEventRoutes(flows), ChangeRoutes(flows, submit))
    return Part(routes=[route for topic in topics for route in routes_of(topic)])
