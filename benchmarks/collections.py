"""Collections: writing items, and searching them exactly and by an index, with pgvector and without."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

import asyncpg

from benchmarks.figures import Figure, Spread
from penstock.assembly.shared import blob_service
from penstock.collections.collection import CollectionSetting, Item, Search
from penstock.collections.duties import CollectionIndexes
from penstock.collections.service import CollectionService
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.migrate import migrate
from penstock.postgres.pool import Database
from penstock.settings import load_settings
from penstock.tenants.principal import DEFAULT_TENANT

ITEMS: Final = 20_000
DIMENSION: Final = 128
_SEARCHES: Final = 100
_PAGE: Final = 1000
_NAME: Final = "benchmark"


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure one collection: first as it is written, then with its index, at last without pgvector."""
    await migrate(server.url)
    database = Database(server.url, application_name="penstock-bench")
    await database.open()
    try:
        service = CollectionService(database, blob_service(load_settings(None), database))
        return await _measure(service, database, server)
    finally:
        await database.close()


async def _measure(service: CollectionService, database: Database, server: EmbeddedServer) -> list[Figure]:
    tenant, chance = DEFAULT_TENANT, random.Random(1)
    centres = [[chance.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(ITEMS // 10)]

    def vector() -> list[float]:
        return [value + chance.gauss(0, 0.5) for value in chance.choice(centres)]

    await service.create(tenant, CollectionSetting(name=_NAME, dimension=DIMENSION, metric="l2"))
    items = [Item(key=f"{index:06}", vector=vector()) for index in range(ITEMS)]
    figures = [_rate("write items, without an index", await _write(service, items))]
    wanted = [vector() for _ in range(_SEARCHES)]
    exact, truth = await _search(service, wanted, exact=True)
    figures.append(_search_figure("search all items, pgvector", exact))
    begun = time.perf_counter()
    while await CollectionIndexes(database).once():
        pass
    built = time.perf_counter() - begun
    figures.append(Figure(scenario=f"build the index of {ITEMS:,} items", value=built, unit="s", group="collections"))
    indexed, found = await _search(service, wanted, exact=False)
    recall = sum(len(a & b) for a, b in zip(truth, found, strict=True)) / sum(map(len, truth))
    figures.append(_search_figure("search by the index", indexed, note=f"finds {100 * recall:.1f} % of the 10 nearest"))
    figures.append(_rate("write items again, with an index", await _write(service, items[:2000])))
    admin = await asyncpg.connect(server.url)
    await admin.execute("DROP EXTENSION vector CASCADE")
    plain, _ = await _search(service, wanted[:20], exact=True)
    await admin.execute("CREATE EXTENSION vector SCHEMA penstock")
    await admin.close()
    figures.append(_search_figure("search all items, without pgvector", plain))
    await service.remove(tenant, _NAME)
    return figures


async def _write(service: CollectionService, items: Sequence[Item]) -> float:
    """Return the items that are written per second, in requests of a thousand."""
    begun = time.perf_counter()
    for start in range(0, len(items), _PAGE):
        await service.upsert(DEFAULT_TENANT, _NAME, items[start : start + _PAGE])
    return len(items) / (time.perf_counter() - begun)


async def _search(
    service: CollectionService, wanted: Sequence[list[float]], *, exact: bool
) -> tuple[list[float], list[set[str]]]:
    """Search one after the other; return the seconds of each, and the keys that it found."""
    seconds: list[float] = []
    keys: list[set[str]] = []
    for vector in wanted:
        begun = time.perf_counter()
        found = await service.search(DEFAULT_TENANT, _NAME, Search(vector=vector, k=10, exact=exact))
        seconds.append(time.perf_counter() - begun)
        keys.append({match.key for match in found.matches})
    return seconds, keys


def _rate(scenario: str, value: float) -> Figure:
    return Figure(scenario=scenario, value=value, unit="items/s", group="collections")


def _search_figure(scenario: str, seconds: Sequence[float], *, note: str = "") -> Figure:
    spread = Spread.of(seconds)
    words = f"{spread}; {note}" if note else str(spread)
    return Figure(scenario=scenario, value=spread.p50, unit="ms", note=words, group="collections")
