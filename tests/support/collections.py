"""Collections for tests: a service, items, and the distances that searches should find."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.assembly.shared import blob_service
from penstock.collections.collection import CollectionSetting, Item, Metric
from penstock.collections.service import CollectionService
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.gateways import settings_for


def collection_service(database: Database) -> CollectionService:
    return CollectionService(database, blob_service(settings_for(database.url), database))


async def collection(
    service: CollectionService,
    tenant: TenantId,
    items: Mapping[str, Sequence[float]],
    *,
    name: str = "things",
    metric: Metric = "l2",
) -> None:
    """Create a collection with these vectors by key."""
    dimension = len(next(iter(items.values())))
    await service.create(tenant, CollectionSetting(name=name, dimension=dimension, metric=metric))
    for page in _pages(items):
        await service.upsert(tenant, name, page)


def _pages(items: Mapping[str, Sequence[float]]) -> list[list[Item]]:
    every = [Item(key=key, vector=list(vector)) for key, vector in items.items()]
    return [every[start : start + 1000] for start in range(0, len(every), 1000)]


def item(key: str, *vector: float, **fields: Any) -> Item:
    return Item(key=key, vector=list(vector), **fields)


def distance(metric: Metric, one: Sequence[float], other: Sequence[float]) -> float:
    """Return the distance of two vectors of 32-bit floats, computed plainly."""
    a, b = ([struct.unpack("f", struct.pack("f", number))[0] for number in vector] for vector in (one, other))
    if metric == "l2":
        return math.dist(a, b)
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return -product if metric == "ip" else 1 - product / (math.hypot(*a) * math.hypot(*b))


def random_vectors(number: int, dimension: int, *, seed: int = 1) -> dict[str, list[float]]:
    """Return vectors by key that lie around a few centres, as embeddings do."""
    chance = random.Random(seed)
    centres = [[chance.gauss(0, 1) for _ in range(dimension)] for _ in range(max(1, number // 50))]
    return {
        f"key {index:06}": [value + chance.gauss(0, 0.4) for value in chance.choice(centres)] for index in range(number)
    }
