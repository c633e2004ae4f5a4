"""The part of this room in a gateway: the routes of collections."""

from __future__ import annotations

from penstock.collections.http.collections import CollectionRoutes
from penstock.collections.http.items import ItemRoutes
from penstock.collections.service import CollectionService
from penstock.part import Part
from penstock.web.route import routes_of


def part(service: CollectionService) -> Part:
    return Part(routes=[*routes_of(CollectionRoutes(service)), *routes_of(ItemRoutes(service))])
