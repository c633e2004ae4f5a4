"""Apps: calls accepted over HTTP, the time that an app adds to its stages, and statistics of ten million requests."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from asyncio.subprocess import Process
from contextlib import AbstractAsyncContextManager
from datetime import date, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from benchmarks.callbacks import receiver
from benchmarks.create import poster, timed
from benchmarks.figures import Figure, Spread
from benchmarks.ground import SUBMISSION, fresh_database, gateway, process
from benchmarks.raw_http import Caller
from penstock.apps.statistics import Statistics, WantedRequests
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT

REQUESTS: Final = int(os.environ.get("BENCH_REQUESTS", "10000000"))
DAYS, USERS, ENDED = 90, 1000, date(2026, 11, 30)
_TURNS: Final = 5
_CALLS: Final = 4000  # in a turn
_CALLERS: Final = 64
_LOOPBACK: Final = "127.0.0.0/8"
_FLOW: Final = """
from penstock.flows import flow, run

@flow(name="bench", version="1")
async def bench(text: str) -> str:
    await run.call(run.queue("noop", "none"), {"text": text})
    return text
"""
# Half of the requests are those of one user.
_FILL: Final = f"""
SELECT ensure_day(d::date, ARRAY['app_request'])
FROM generate_series(date '{ENDED - timedelta(days=DAYS)}', date '{ENDED}', '1 day') d;
INSERT INTO app_request
SELECT 1, (lpad(to_hex(extract(epoch FROM at)::bigint * 1000), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid,
       'bench', CASE WHEN n % 2 = 0 THEN 'busy' ELSE 'user ' || n % {USERS} END, (at AT TIME ZONE 'UTC')::date,
       'completed', at, at + interval '50 ms', at + interval '1 s', NULL, 1.5, 1, 1, 0, 10, 5, 0, 900000, 0, n
FROM (SELECT n, timestamptz '{ENDED} 00:00Z' - make_interval(secs => n * {DAYS * 86400 / REQUESTS}) AS at
      FROM generate_series(1, {REQUESTS}) n) r;
INSERT INTO app_day
SELECT tenant_id, app, u, day, count(*), count(*), 0, 0, sum(50000), sum(950000), sum(units), count(*), count(*), 0,
       sum(10), sum(5), 0, sum(900000), 0, array_append(array_fill(0, ARRAY[39]), count(*)::int)
FROM app_request CROSS JOIN LATERAL (VALUES (user_id), ('')) AS v(u) GROUP BY 1, 2, 3, 4;
"""


async def run(server: EmbeddedServer) -> list[Figure]:
    """Run all scenarios of apps."""
    return [*await _calls(server), await _overhead(server), *await _statistics(server)]


async def _calls(server: EmbeddedServer) -> list[Figure]:
    """Compare calls of an app to creates of plain jobs, by turns at one gateway."""
    call = {"user_id": "ada", "input": {"text": "x" * 480}}
    async with fresh_database(server) as url, gateway(url) as address:
        lines = [await Caller.connect(address) for _ in range(_CALLERS)]
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            _write_app(Path(folder))
            async with _worker(url, folder):
                await _published(address)
        plain = [poster(line, "/api/v1/jobs", msgspec.json.encode(SUBMISSION)) for line in lines]
        body = msgspec.json.encode(call)
        ours = [poster(line, "/api/v1/apps/bench/call", body, expected=202) for line in lines]
        run_body = msgspec.json.encode({"user_id": "ada", "input": call["input"]})
        starts = [poster(line, "/api/v1/flows/bench", run_body) for line in lines]
        rates: dict[str, list[float]] = {"plain": [], "starts": [], "ours": []}
        spreads = []
        for _ in range(_TURNS):
            rates["plain"].append((await timed(plain, _CALLS))[0])
            rates["starts"].append((await timed(starts, _CALLS))[0])
            rate, spread = await timed(ours, _CALLS)
            rates["ours"].append(rate)
            spreads.append(spread)
        for line in lines:
            line.close()

    def ratio(to: str) -> float:
        return sorted(one / other for one, other in zip(rates["ours"], rates[to], strict=True))[_TURNS // 2]

    def median(name: str) -> float:
        return sorted(rates[name])[_TURNS // 2]

    return [
        _figure(
            f"calls of an app over HTTP, one gateway process, {_CALLERS} callers",
            median("ours"), "/s", 500, note=str(spreads[_TURNS // 2]),
        ),
        _figure(
            "calls of an app to creates of plain jobs", ratio("plain"), "×", None,
            note=f"median of {_TURNS}, by turns at one gateway; creates {median('plain'):,.0f}/s",
        ),
        _figure(
            "calls of an app to starts of its flow", ratio("starts"), "×", None,
            note=f"the same; starts {median('starts'):,.0f}/s",
        ),
    ]  # fmt: skip


async def _overhead(server: EmbeddedServer) -> Figure:
    """Measure from the call to its callback, one at a time, with a stage that does nothing."""
    samples = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        _write_app(Path(folder))
        variables = {"PENSTOCK_DATA_DIR": folder, "PENSTOCK_FETCH_NETWORKS": _LOOPBACK}
        async with (
            fresh_database(server) as url,
            receiver() as (hook, received),
            gateway(url, **variables) as address,
            process("-m", "penstock", "housekeeper", DATABASE_URL=url, **variables),
            process("-m", "benchmarks.noop_worker", DATABASE_URL=url, BENCH_STAY="1"),
            _worker(url, folder),
        ):
            await _published(address)
            line = await Caller.connect(address)
            body = msgspec.json.encode({"user_id": "ada", "input": {"text": "x"}, "callback": {"url": hook}})
            post = poster(line, "/api/v1/apps/bench/call", body, expected=202)
            for number in range(1, 121):
                received.wanted = number
                received.complete.clear()
                began = time.perf_counter()
                await post()
                await asyncio.wait_for(received.complete.wait(), 60)
                samples.append(time.perf_counter() - began)
            line.close()
    spread = Spread.of(samples[20:])
    return Figure(
        scenario="call → flow → no-op stage → result → callback, p50", value=spread.p50, unit="ms", promise=25,
        at_most=True, note=f"alone; p99 {spread.p99:.0f} ms", group="apps",
    )  # fmt: skip


async def _statistics(server: EmbeddedServer) -> list[Figure]:
    """Read the statistics of the user that has half of the requests, and of another."""
    async with fresh_database(server) as url:
        database = Database(url, application_name="penstock-bench")
        await database.open()
        try:
            async with database.acquire() as connection:
                await connection.execute("SET statement_timeout = 0; SET synchronous_commit = off")
                await connection.execute(_FILL, timeout=3600)
                await connection.execute("VACUUM ANALYZE app_request", timeout=3600)
                await connection.execute("ANALYZE app_day")
            return [
                await _read(database, "a user with half of them, 90 days", "busy", DAYS, None, 10),
                await _read(database, "a user with few, 30 days", "user 1", 30, None, None),
                await _read(database, "all users, 90 days", None, DAYS, None, None),
                await _read(database, "a page of 50 requests of a user", "busy", 30, 50, None),
            ]
        finally:
            await database.close()


async def _read(
    database: Database, name: str, user: str | None, days: int, page: int | None, promise: float | None
) -> Figure:
    statistics = Statistics(database)
    samples = []
    requests = 0
    for _ in range(60):
        began = time.perf_counter()
        found = await statistics.of_app(
            DEFAULT_TENANT, "bench", user_id=user, low=ENDED - timedelta(days=days), high=ENDED, zone=ZoneInfo("UTC"),
            page=None if page is None else WantedRequests(below=None, limit=page),
        )  # fmt: skip
        samples.append(time.perf_counter() - began)
        requests = found.requests
    spread = Spread.of(samples[10:])
    return Figure(
        scenario=f"statistics of {REQUESTS:,} requests: {name}", value=spread.p50, unit="ms", promise=promise,
        at_most=True, note=f"{requests:,} requests; p99 {spread.p99:.1f} ms", group="apps",
    )  # fmt: skip


def _figure(scenario: str, value: float, unit: str, promise: float | None, *, note: str) -> Figure:
    return Figure(scenario=scenario, value=value, unit=unit, promise=promise, note=note, group="apps")


def _write_app(folder: Path) -> None:
    (folder / "bench").mkdir()
    (folder / "bench" / "app.toml").write_text("")
    (folder / "bench" / "flow.py").write_text(_FLOW)


def _worker(url: str, folder: str) -> AbstractAsyncContextManager[Process]:
    return process("-m", "penstock", "worker", DATABASE_URL=url, PENSTOCK_APPS_DIR=folder, WORKER_HTTP_PORT="0")


async def _published(address: str) -> None:
    line = await Caller.connect(address)
    request = line.request("GET", "/api/v1/apps/bench/health", b"", "")
    while True:
        status, answer = await line.send(request)
        if status == 200 and b'"ok"' in answer:
            line.close()
            return
        await asyncio.sleep(0.1)
