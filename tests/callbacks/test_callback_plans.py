"""The hot statements read few pages, however many deliveries and endpoints there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

import pytest

from penstock.callbacks import deliveries, store
from penstock.postgres.pool import Database
from penstock.postgres.queries import Statement
from tests.support.plans import filled_database, pages_read

BUSY, FAILING = UUID(int=1), UUID(int=2)
NO_TENANTS: list[int] = []
_FILL = """
INSERT INTO callback_endpoint (tenant_id, id, url, events, description, since, created_at)
SELECT 1, ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid, 'http://h/', '{*}', '', 0, clock()
FROM generate_series(1, 10000) n;
INSERT INTO callback_state (tenant_id, endpoint_id, due_at, epoch, quick, waiting)
SELECT 1, id, clock() + CASE WHEN id < '00000000-0000-0000-0000-000000000003' THEN interval '-1 s'
                             ELSE interval '1 h' END,
       1, id = '00000000-0000-0000-0000-000000000001', 1
FROM callback_endpoint;
INSERT INTO callback_ready (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data)
SELECT 1, '00000000-0000-0000-0000-000000000001', n, 1, 1, 'job.created', '/', 's' || n, clock(), '{}'
FROM generate_series(1, 20000) n;
INSERT INTO callback_later (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, due_at, tries,
                            attempts, data)
SELECT 1, '00000000-0000-0000-0000-000000000002', n, 1, 1, 'job.created', '/', 's' || n, clock(),
       clock() + make_interval(secs => n - 10), 1, '[]', '{}'
FROM generate_series(1, 20000) n;
INSERT INTO callback_ended (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, ended_at, status,
                            attempts, data)
SELECT 1, '00000000-0000-0000-0000-000000000001', -n, 1, 1, 'job.created', '/', 's' || n, clock(), clock(),
       CASE WHEN n % 100 = 0 THEN 'dead' ELSE 'delivered' END, '[]', '{}'
FROM generate_series(1, 20000) n;
"""
CASES: Mapping[str, tuple[Statement, dict[str, Any], int]] = {
    "lease": (
        deliveries._sql.lease,
        {"quick": False, "full": NO_TENANTS, "limit": 10, "lease_seconds": 30.0, "holder": 1},
        100,
    ),
    "free_abandoned": (deliveries._sql.free_abandoned, {"holder": 1}, 50),
    "next_due": (deliveries._sql.next_due, {}, 20),
    "read_endpoint": (deliveries._sql.read_endpoint, {"tenant_id": 1, "endpoint_id": BUSY, "epoch": 1}, 20),
    "read_ready": (
        deliveries._sql.read_ready,
        {"tenant_id": 1, "endpoint_id": BUSY, "position": 10_000, "place": 1, "limit": 50, "max_bytes": 10**6},
        200,
    ),
    "read_later": (
        deliveries._sql.read_later,
        {"tenant_id": 1, "endpoint_id": FAILING, "limit": 50, "max_bytes": 10**6},
        200,
    ),
    "record": (
        deliveries._sql.record,
        {
            "tenant_ids": [1] * 20,
            "endpoint_ids": [BUSY] * 10 + [FAILING] * 10,
            "epochs": [1] * 20,
            "positions": [*range(15_000, 15_010), *range(15_000, 15_010)],
            "places": [1] * 20,
            "results": ["delivered", "dead", "again", "behind"] * 5,
            "delays": [5.0] * 20,
            "tries": [1] * 20,
            "attempts": [b"[]"] * 20,
        },
        1200,
    ),
    "release": (
        deliveries._sql.release,
        {"tenant_id": 1, "endpoint_id": FAILING, "epoch": 1, "arrivals": 0, "rest_seconds": None, "failures": 1,
         "quick": False},
        60,
    ),
    "deliveries": (
        store._sql.deliveries,
        {"tenant_id": 1, "endpoint_id": BUSY, "status": "dead", "position": 2**62, "place": 0, "at_most": 10},
        100,
    ),
    "replay": (
        store._sql.replay,
        {"tenant_id": 1, "endpoint_id": BUSY, "positions": [-5, -6], "places": [1, 1], "dead_limit": 0},
        120,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
async def filled(module_database_url: str) -> AsyncIterator[Database]:
    async with filled_database(module_database_url, _FILL) as database:
        yield database


@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_statement_reads_few_pages(filled: Database, name: str) -> None:
    statement, parameters, most = CASES[name]
    assert await pages_read(filled, statement, parameters) <= most
