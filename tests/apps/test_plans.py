"""The statements of statistics and records read few pages, however many requests there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, Final
from uuid import UUID

import pytest

from penstock.apps import records, statistics
from penstock.postgres.pool import Database
from penstock.postgres.queries import Statement
from tests.support.plans import filled_database, pages_read

LOW, HIGH = date(2026, 1, 1), date(2026, 1, 31)
TOP: Final = UUID(int=2**128 - 1)
_MADE = "timestamptz '2026-01-01 00:00Z' + make_interval(secs => n * 51.84)"
_RUN = (
    f"(lpad(to_hex(extract(epoch FROM {_MADE})::bigint * 1000), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid"
)
# Half of the requests are those of one user.
_FILL = f"""
SELECT ensure_day(d::date, ARRAY['app_request']) FROM generate_series(date '2026-01-01', date '2026-01-30', '1 day') d;
INSERT INTO app_request
SELECT 1, {_RUN}, 'app', CASE WHEN n % 2 = 0 THEN 'busy' ELSE 'user ' || n % 500 END,
       (({_MADE}) AT TIME ZONE 'UTC')::date, 'completed', {_MADE}, {_MADE}, {_MADE}, NULL, 1, 1, 1, 0, 0, 0, 0, 0, 0, n
FROM generate_series(1, 50000) n;
INSERT INTO app_day
SELECT tenant_id, app, u, day, count(*), count(*), 0, 0, 0, 0, sum(units), count(*), count(*), 0, 0, 0, 0, 0,
       0, '{{1, 2, 3}}'
FROM app_request CROSS JOIN LATERAL (VALUES (user_id), ('')) AS v(u) GROUP BY 1, 2, 3, 4;
"""
_DAYS = {"tenant_id": 1, "app": "app", "low": LOW, "high": HIGH}
_PAGE = _DAYS | {"below": TOP, "limit": 50}
CASES: Mapping[str, tuple[Statement, dict[str, Any], int]] = {
    "days": (statistics._sql.days, _DAYS | {"user_id": "busy"}, 40),
    "days_of_all": (statistics._sql.days, _DAYS | {"user_id": ""}, 40),
    "requests_of_user": (statistics._sql.requests_of_user, _PAGE | {"user_id": "busy"}, 250),
    "requests_of_rare_user": (statistics._sql.requests_of_user, _PAGE | {"user_id": "user 1"}, 250),
    "requests_of_all": (statistics._sql.requests_of_all, _PAGE, 250),
    "lock_requests": (records._sql.lock_requests, {"tenant_id": 1, "run_ids": [TOP, UUID(int=1)]}, 150),
}


@pytest.fixture(scope="module")
async def filled(module_database_url: str) -> AsyncIterator[Database]:
    async with filled_database(module_database_url, _FILL) as database:
        yield database


@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_statement_reads_few_pages(filled: Database, name: str) -> None:
    statement, parameters, most = CASES[name]
    assert await pages_read(filled, statement, parameters) <= most
