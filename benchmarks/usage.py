"""Reading usage with ten million attempts in the ledger."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from benchmarks.figures import Figure, Spread
from benchmarks.ground import fresh_database
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT
from penstock.usage.http import wanted_of
from penstock.usage.report import make

DAYS, MODELS, USERS, TENANTS = 90, 8, 50, 4
ATTEMPTS = 10_000_000
_NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
_PER_ROW = ATTEMPTS // (DAYS * 24 * MODELS * USERS) + 1

# One tenant has ten million attempts: each of its users uses each model in each hour. Three others have as many.
_FILL = f"""
INSERT INTO tenant (id, name) SELECT n, 'tenant ' || n FROM generate_series(2, {TENANTS}) n;
INSERT INTO usage_dims (tenant_id, key, broad, series_id, submitter_id, key_id, user_id, owner_service, task_type,
                        model_profile, provider, model, version, app, price)
SELECT t.id, sha256(format('%s %s %s', t.id, m, u)::bytea), u = 0, 0, u, 'key', 'user ' || u, 'shop', 'chat', 'profile',
       'far', 'model ' || m, '1', '', 'price'
FROM tenant t, generate_series(1, {MODELS}) m, generate_series(0, {USERS}) u;
INSERT INTO usage_sum
SELECT d.tenant_id, d.broad, 'hour', h, d.id, n * {_PER_ROW}, n * {_PER_ROW}, 0, 0, 0, n * 5000, n * 900, 0,
       n * 7000000, n * 20000, n * 4000, n * 12500000000
FROM generate_series(timestamptz '{_NOW - timedelta(days=DAYS)}', timestamptz '{_NOW}', interval '1 hour') h,
     (SELECT *, CASE WHEN broad THEN {USERS} ELSE 1 END AS n FROM usage_dims) d;
INSERT INTO usage_sum
SELECT tenant_id, broad, u.unit, date_trunc(u.unit, starts_at, 'UTC'), dims_id, sum(attempts), sum(calls), 0, 0, 0,
       sum(prompt_tokens), sum(completion_tokens), 0, sum(model_us), sum(bytes_in), sum(bytes_out), sum(cost)
FROM usage_sum CROSS JOIN (VALUES ('day'), ('month')) AS u(unit) GROUP BY 1, 2, 3, 4, 5;
INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, model, attempts, calls)
SELECT 1 + n % {TENANTS}, timestamptz '{_NOW}' - interval '1 second', 0, 0, 'model ' || n % 8, 1, 1
FROM generate_series(1, 500) n;
"""
_MANY_GROUPS = "30 days, by day, model and user: 12,000 groups"
_QUERIES = {
    "a month, by day and model": "by=day,model&from=2026-11-01&to=2026-12-01",
    "a month, by user and model": "by=user,model&from=2026-11-01&to=2026-12-01",
    _MANY_GROUPS: "by=day,model,user&from=2026-10-15&to=2026-11-14",
    "a month of a zone, by day": "by=day&from=2026-11-01&to=2026-12-01&time_zone=Europe/Berlin",
    "three months, by month and user": "by=month,user&from=2026-09-01&to=2026-12-01",
    "a day, by hour and model": "by=hour,model&from=2026-11-29&to=2026-11-30",
}


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure the median of each report of one tenant."""
    async with fresh_database(server) as url:
        database = Database(url, application_name="penstock-bench")
        await database.open()
        try:
            await _fill(database)
            return [await _report(database, name, text) for name, text in _QUERIES.items()]
        finally:
            await database.close()


async def _fill(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("SET enable_seqscan = on")
        await connection.execute(_FILL, timeout=600)
        await connection.execute("VACUUM ANALYZE", timeout=600)
        await connection.execute("RESET ALL")


async def _report(database: Database, name: str, text: str) -> Figure:
    query = {key: [value] for key, _, value in (part.partition("=") for part in text.split("&"))}
    wanted = wanted_of(query, _NOW)
    samples: list[float] = []
    groups = 0
    for number in range(60):
        began = time.perf_counter()
        report = await make(database, [DEFAULT_TENANT], wanted, currency="")
        if number >= 10:
            samples.append(time.perf_counter() - began)
        groups = len(report.groups)
    spread = Spread.of(samples)
    return Figure(
        scenario=f"usage of {ATTEMPTS // 10**6} M attempts: {name}, p50",
        value=spread.p50,
        unit="ms",
        promise=None if name == _MANY_GROUPS else 20,
        at_most=True,
        note=f"{spread}; {groups} groups returned",
    )
