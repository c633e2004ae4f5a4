"""The part of this room in a gateway: the routes that manage callbacks."""

from __future__ import annotations

from penstock.callbacks.http import CallbackRoutes
from penstock.callbacks.service import CallbackService
from penstock.part import Part
from penstock.web.route import routes_of


def part(service: CallbackService) -> Part:
    return Part(routes=routes_of(CallbackRoutes(service)))
