"""Records of requests and their sums: each event counts once, whatever happens to the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from penstock.apps.recorder import AppRecorder
from penstock.apps.result_retention import AppResultRetention
from penstock.apps.retention import AppRetention
from penstock.apps.timeouts import AppTimeouts
from penstock.blobs.service import BlobService
from penstock.errors import DatabaseUnavailable
from penstock.flows.duties import FlowKeeper
from penstock.housekeeping.expirer import Expirer
from penstock.housekeeping.sweeper import Sweeper
from penstock.housekeeping.tenant_removal import TenantRemoval
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from tests.apps.conftest import Work, Write
from tests.support.clocks import Clock
from tests.support.databases import execute, query
from tests.support.duties import promote
from tests.support.gateways import HttpCaller
from tests.support.waiting import until

FLOW = '''
from penstock.flows import flow, run

@flow(name="work", version="1")
async def work(parts: int = 1, seconds: float = 1.5, fails: bool = False) -> dict:
    """Has its parts done by a worker elsewhere, one after the other."""
    for number in range(parts):
        await run.call(run.queue("part", "x"), {"number": number}, max_attempts=2)
    if fails:
        raise ValueError("it is to fail")
    return {"usage": {"seconds": seconds}}
'''
_MEASURES = "attempts, calls, failures, prompt_tokens, completion_tokens, audio_us, model_us, cost"
CALLS = [
    {"provider": "p", "model": "m", "prompt_tokens": 10, "completion_tokens": 3, "duration_ms": 20},
    {"provider": "p", "model": "m", "status": "failed", "prompt_tokens": 5, "duration_ms": 10},
]


@dataclass
class Marketplace:
    """Calls the app, and does the parts of its requests."""

    gateway: HttpCaller
    database: Database

    async def call(self, user: str = "ada", **fields: Any) -> str:
        reply = await self.gateway.post("/apps/work/call", {"user_id": user} | fields)
        assert reply.status == 202, reply.body
        return str(reply.json["task_id"])

    async def part(self) -> dict[str, Any]:
        """Claim the next part."""
        found: list[dict[str, Any]] = []

        async def claimed() -> bool:
            await execute(self.database, "UPDATE later SET run_at = clock() WHERE run_at IS NOT NULL")
            await promote(self.database)
            found.extend(await self.gateway.claim(task_types=["part"], limit=1))
            return bool(found)

        await until(claimed, "a part is ready")
        return found[0]

    async def done(self, part: dict[str, Any], usage: Any = CALLS) -> None:
        body = {"epoch": part["epoch"], "result": None, "usage": usage}
        assert (await self.gateway.post(f"/jobs/{part['id']}/complete", body)).status == 200

    async def lost(self, part: dict[str, Any], category: str = "internal") -> None:
        body = {
            "epoch": part["epoch"],
            "category": category,
            "message": "no",
            "usage": CALLS[1:],
            "retry_after_seconds": 0,
        }
        assert (await self.gateway.post(f"/jobs/{part['id']}/fail", body)).status == 200

    async def ended(self, task: str) -> str:
        reply = await self.gateway.get(f"/jobs/{task}?wait=30")
        return str(reply.json["status"])

    async def complete(self, user: str = "ada", **fields: Any) -> str:
        task = await self.call(user, **fields)
        for _ in range(fields.get("input", {}).get("parts", 1)):
            await self.done(await self.part())
        await self.ended(task)
        return task

    async def record(self) -> None:
        """Run the recorder until it has caught up."""
        recorder = AppRecorder(self.database)
        while await recorder.once():
            pass

    async def stats(self, **wanted: Any) -> Any:
        reply = await self.gateway.get("/apps/work/stats?" + "&".join(f"{k}={v}" for k, v in wanted.items()))
        assert reply.status == 200, reply.body
        return reply.json

    async def check(self) -> None:
        """Compare the sums with the records that they are of."""
        records = await query(
            self.database,
            "SELECT app, u, day, count(*), count(*) FILTER (WHERE status = 'completed'),"
            " count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled'), sum(units),"
            " sum(attempts), sum(calls), sum(failures), sum(prompt_tokens), sum(completion_tokens), sum(audio_us),"
            " sum(model_us), sum(cost) FROM app_request CROSS JOIN LATERAL (VALUES (user_id), ('')) AS v(u)"
            " GROUP BY app, u, day ORDER BY app, u, day",
        )
        sums = await query(
            self.database,
            f"SELECT app, user_id, day, requests, completed, failed, cancelled, units, {_MEASURES}"
            " FROM app_day ORDER BY app, user_id, day",
        )
        assert sums == records
        times = "SELECT coalesce(sum(n), 0) FROM app_day, unnest(times) AS n WHERE user_id = ''"
        completed = "SELECT coalesce(sum(completed), 0) FROM app_day WHERE user_id = ''"
        assert await query(self.database, times) == await query(self.database, completed)


@pytest.fixture
async def marketplace(gateway: HttpCaller, database: Database, work: Work, write: Write) -> AsyncIterator[Marketplace]:
    limits = '[limits]\nttl = "1h"\ntimeout = "2h"\nresult_retention = "3d"\n'
    write("work/app.toml", f'[price]\nunit = "second"\nunits = "/usage/seconds"\n{limits}')
    write("work/flow.py", FLOW)
    await Marketplace(gateway, database).record()  # what earlier tests have left
    await execute(database, "TRUNCATE app_request, app_day")
    async with work():

        async def ready() -> bool:
            reply = await gateway.get("/apps/work/health")
            return reply.status == 200 and bool(reply.json["status"] == "ok")

        await until(ready, "the app is published")
        yield Marketplace(gateway, database)


async def test_a_request_is_recorded_with_its_usage_and_units(marketplace: Marketplace) -> None:
    task = await marketplace.call(input={"parts": 2})
    await marketplace.record()
    found = await marketplace.stats(user_id="ada")
    assert (found["requests"], found["open"], found["completed"]) == (1, 1, 0)
    part = await marketplace.part()
    await marketplace.lost(part)
    for _ in range(2):
        await marketplace.done(await marketplace.part())
    assert await marketplace.ended(task) == "completed"
    await marketplace.record()
    await marketplace.check()
    found = await marketplace.stats(user_id="ada", results="true")
    assert (found["requests"], found["open"], found["completed"], found["units"]) == (1, 0, 1, 1.5)
    assert (found["price_unit"], found["time_zone"]) == ("second", "UTC")
    usage = {"attempts": 3, "calls": 5, "failures": 3, "prompt_tokens": 35, "completion_tokens": 6}
    assert found["usage"] == usage | {"audio_seconds": 0.0, "model_seconds": 0.07, "cost": "0"}
    ((day,),) = (found["days"],)
    assert {name: day[name] for name in ("requests", "completed", "units", "usage")} == {
        name: found[name] for name in ("requests", "completed", "units", "usage")
    }
    assert 0 < found["p50_seconds"] == found["p95_seconds"] < 60
    (request,) = found["results"]["requests"]
    assert (request["task_id"], request["status"], request["units"]) == (task, "completed", 1.5)
    result = (await marketplace.gateway.get(f"/apps/work/result/{task}")).json
    assert (result["units"], result["usage"]) == (1.5, found["usage"])
    assert (request["result"], request["usage"]) == ({"usage": {"seconds": 1.5}}, found["usage"])


async def test_a_request_that_takes_longer_than_its_app_allows_fails_with_timeout(
    marketplace: Marketplace, clock: Clock, service: JobService
) -> None:
    duty = AppTimeouts(marketplace.database, service.wakeups)
    task = await marketplace.call()
    part = await marketplace.part()
    await marketplace.record()
    await clock.advance(timedelta(minutes=119))
    await duty.once()
    await marketplace.record()
    assert (await marketplace.gateway.get(f"/jobs/{task}")).json["finished_at"] is None
    await clock.advance(timedelta(minutes=2))
    await duty.once()
    await duty.once()
    assert await marketplace.ended(task) == "failed"
    error = (await marketplace.gateway.get(f"/apps/work/result/{task}")).json["error"]
    assert error == {"category": "timeout", "message": "the request did not end within 2h"}
    await FlowKeeper(marketplace.database, service.wakeups).once()
    assert (await marketplace.gateway.get(f"/jobs/{part['id']}")).json["cancel_requested_at"] is not None
    await marketplace.record()
    await marketplace.check()
    assert (await marketplace.stats())["failed"] == 1

    assert (await marketplace.gateway.post(f"/flows/runs/{task}/retry")).status == 200
    await marketplace.record()
    await duty.once()
    await marketplace.done(await marketplace.part())
    assert await marketplace.ended(task) == "completed", "a retry has no timeout"
    await marketplace.record()
    await marketplace.check()


async def test_a_result_is_removed_when_its_app_keeps_it_no_longer(marketplace: Marketplace, clock: Clock) -> None:
    duty = AppResultRetention(marketplace.database)
    task = await marketplace.complete()
    await marketplace.record()
    await clock.advance(timedelta(days=2))
    late = await marketplace.complete()
    await marketplace.record()
    path = "/apps/work/result"
    assert await duty.once() is False
    assert (await marketplace.gateway.get(f"{path}/{task}")).json["result"] == {"usage": {"seconds": 1.5}}
    await clock.advance(timedelta(days=1, hours=1))
    await duty.once()
    gone, kept = [(await marketplace.gateway.get(f"{path}/{one}")).json for one in (task, late)]
    assert (gone["status"], gone["result"], gone["units"]) == ("completed", None, 1.5)
    assert kept["result"] == {"usage": {"seconds": 1.5}}
    await marketplace.record()
    await marketplace.check()


async def test_every_way_to_end_is_counted_once(marketplace: Marketplace) -> None:
    await marketplace.complete()
    failed = await marketplace.complete("bob", input={"fails": True})
    cancelled = await marketplace.call()
    part = await marketplace.part()
    await marketplace.gateway.post(f"/jobs/{cancelled}/cancel")
    await marketplace.ended(cancelled)
    await FlowKeeper(marketplace.database, Wakeups(marketplace.database)).once()  # its jobs are cancelled, too
    await marketplace.record()
    await marketplace.lost(part, "cancelled")  # the attempt of a job ends after its request
    await marketplace.record()
    await marketplace.check()
    found = await marketplace.stats()
    counts = ("requests", "completed", "failed", "cancelled", "open")
    assert [found[name] for name in counts] == [3, 1, 1, 1, 0]
    assert found["usage"]["attempts"] == 3

    again = (await marketplace.gateway.post(f"/flows/runs/{failed}/rerun", {"step": 0})).json["id"]
    await marketplace.record()
    found = await marketplace.stats(user_id="bob")
    assert [found[name] for name in counts] == [2, 0, 1, 0, 1]
    await marketplace.done(await marketplace.part())
    assert await marketplace.ended(again) == "failed"
    await marketplace.record()
    await marketplace.check()
    assert [(await marketplace.stats(user_id="bob"))[name] for name in counts] == [2, 0, 2, 0, 0]

    retried = await marketplace.call("eve")
    for _ in range(2):
        await marketplace.lost(await marketplace.part())
    assert await marketplace.ended(retried) == "failed"
    await marketplace.record()
    assert [(await marketplace.stats(user_id="eve"))[name] for name in counts] == [1, 0, 1, 0, 0]
    assert (await marketplace.gateway.post(f"/flows/runs/{retried}/retry")).status == 200
    await marketplace.record()
    assert [(await marketplace.stats(user_id="eve"))[name] for name in counts] == [1, 0, 0, 0, 1]
    await marketplace.done(await marketplace.part())
    assert await marketplace.ended(retried) == "completed"
    await marketplace.record()
    await marketplace.check()
    found = await marketplace.stats(user_id="eve")
    assert [found[name] for name in counts] == [1, 1, 0, 0, 0]
    assert (found["usage"]["attempts"], found["units"]) == (3, 1.5)


async def test_a_request_that_expires_is_recorded_as_failed(
    marketplace: Marketplace, gateway: HttpCaller, database: Database, clock: Clock
) -> None:
    await execute(
        database, "INSERT INTO pause (tenant_id, task_type, model_profile, paused_at) VALUES (0, '', '', now())"
    )
    try:
        task = await marketplace.call()
        await clock.advance(timedelta(hours=2))
        await Expirer(database, Wakeups(database)).once()
    finally:
        await execute(database, "DELETE FROM pause")
    assert await marketplace.ended(task) == "failed"
    await marketplace.record()
    await marketplace.check()
    low, high = "2000-01-01", "2002-01-01"
    assert (await marketplace.stats(**{"from": low, "to": high}))["requests"] == 0
    (request,) = (await marketplace.stats(results="true"))["results"]["requests"]
    assert (request["status"], request["error"]["category"]) == ("failed", "expired")


GATES = {
    "sums": "BEFORE INSERT ON app_day",
    "cursor": "BEFORE UPDATE ON app_cursor",
}


@pytest.mark.parametrize("place", ["sums", "cursor"])
async def test_a_recorder_that_is_killed_between_statements_has_done_nothing(
    marketplace: Marketplace, database: Database, place: str
) -> None:
    """Its connection is cut while the statement waits for a lock of the test's, after those before it have run."""
    await marketplace.complete()
    await marketplace.record()
    await marketplace.complete()
    await execute(
        database,
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END';"
        f" CREATE TRIGGER gate {GATES[place]} FOR EACH ROW EXECUTE FUNCTION gate()",
    )
    try:
        async with database.acquire() as holder:
            await holder.execute("SELECT pg_advisory_lock(42)")
            recording = asyncio.create_task(marketplace.record())

            async def waits() -> bool:
                return bool(await holder.fetchval(_WAITING))

            await until(waits, "the recorder waits")
            await holder.execute(f"SELECT pg_terminate_backend(pid) FROM ({_WAITING}) w")
            with pytest.raises(DatabaseUnavailable):
                await recording
            await holder.execute("SELECT pg_advisory_unlock(42)")
        found = await marketplace.stats()
        assert (found["requests"], found["completed"]) == (1, 1)
    finally:
        await execute(database, "DROP FUNCTION gate() CASCADE")
    await marketplace.record()
    await marketplace.check()
    found = await marketplace.stats()
    assert (found["requests"], found["completed"], found["usage"]["attempts"]) == (2, 2, 2)


_WAITING = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"


async def test_events_that_come_again_change_nothing(marketplace: Marketplace, database: Database) -> None:
    for user in ("ada", "bob"):
        await marketplace.complete(user, input={"parts": 2})
    ((start,),) = await query(database, "SELECT coalesce(max(position), 0) FROM app_cursor")
    await marketplace.record()
    tables = ("app_request", "app_day")
    before = [await query(database, f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4") for table in tables]
    assert before[0]
    await execute(database, "UPDATE app_cursor SET position = $1", start)
    await marketplace.record()
    assert [await query(database, f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4") for table in tables] == before


async def test_two_recorders_at_once_count_each_event_once(marketplace: Marketplace) -> None:
    async def keep_recording() -> None:
        while not over.is_set():
            await marketplace.record()

    over = asyncio.Event()
    tasks = [asyncio.create_task(keep_recording()) for _ in range(2)]
    for user in ("ada", "bob", "ada", "eve"):
        await marketplace.complete(user)
    over.set()
    await asyncio.gather(*tasks)
    await marketplace.record()
    await marketplace.check()
    found = await marketplace.stats()
    assert (found["requests"], found["completed"], found["usage"]["attempts"]) == (4, 4, 4)


async def test_days_are_those_of_the_tenant_and_ranges_are_half_open(
    marketplace: Marketplace, database: Database, clock: Clock
) -> None:
    await clock.freeze(noon=True)
    ((day,),) = await query(database, "SELECT (clock() AT TIME ZONE 'UTC')::date")
    await execute(database, "UPDATE tenant SET time_zone = 'Pacific/Kiritimati' WHERE id = 1")  # 14 hours ahead
    try:
        await marketplace.complete()
        await marketplace.record()
        found = await marketplace.stats()
        assert [one["day"] for one in found["days"]] == [str(day + timedelta(days=1))]
        tomorrow, after = str(day + timedelta(days=1)), str(day + timedelta(days=2))
        assert (await marketplace.stats(**{"from": tomorrow, "to": after}))["requests"] == 1
        assert (await marketplace.stats(**{"from": str(day), "to": tomorrow}))["requests"] == 0
        midnight = f"{day}T10:00:00Z"
        assert (await marketplace.stats(**{"from": midnight, "to": after}))["requests"] == 1
    finally:
        await execute(database, "UPDATE tenant SET time_zone = 'UTC' WHERE id = 1")


WRONG_QUERIES = (
    ("from=yesterday", "from"),
    ("from=2026-01-30T01:00:00Z", "from"),
    ("from=2026-01-30&to=2026-01-30", "to"),
    ("from=2001-01-01&to=2026-01-01", "from"),
    ("to=0001-01-01", "to"),
    ("cursor=x&results=true", "cursor"),
    ("cursor=00000000-0000-0000-0000-000000000000", "cursor"),
    ("limit=101", "limit"),
    ("user_id=", "user_id"),
    ("users=ada", "users"),
)


async def test_a_wrong_query_is_refused(marketplace: Marketplace) -> None:
    for query_text, field in WRONG_QUERIES:  # in one test, because the worker takes seconds to start
        reply = await marketplace.gateway.get(f"/apps/work/stats?{query_text}")
        assert (reply.status, reply.fields) == (422, [field]), (query_text, reply.body)


async def test_requests_of_a_user_come_by_the_page(marketplace: Marketplace) -> None:
    tasks = [await marketplace.complete("ada") for _ in range(3)]
    await marketplace.complete("bob")
    open_task = await marketplace.call("ada")
    await marketplace.record()
    found, cursor = [], ""
    for _ in range(3):
        page = (await marketplace.stats(user_id="ada", results="true", limit=2, **cursor_of(cursor)))["results"]
        found += page["requests"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [one["task_id"] for one in found] == [open_task, *reversed(tasks)]
    assert found[0]["status"] in {"pending", "running", "waiting"}
    everyone = (await marketplace.stats(results="true"))["results"]["requests"]
    assert [one["user_id"] for one in everyone] == ["ada", "bob", "ada", "ada", "ada"]
    await marketplace.done(await marketplace.part())


def cursor_of(cursor: str) -> dict[str, str]:
    return {"cursor": cursor} if cursor else {}


async def test_old_records_are_dropped_and_sums_stay(
    marketplace: Marketplace, database: Database, clock: Clock
) -> None:
    await marketplace.complete()
    await marketplace.record()
    retention = AppRetention(database, keep=timedelta(days=10), keep_users=timedelta(days=20))
    await clock.advance(timedelta(days=12))
    await retention.once()
    assert await query(database, "SELECT count(*) FROM app_request") == [(0,)]
    assert await query(database, "SELECT DISTINCT user_id FROM app_day ORDER BY 1") == [("",), ("ada",)]
    await clock.advance(timedelta(days=12))
    await retention.once()
    assert await query(database, "SELECT DISTINCT user_id FROM app_day") == [("",)]


async def test_a_deleted_tenant_has_no_records(gateway: HttpCaller, database: Database, clock: Clock) -> None:
    assert (await gateway.post("/tenants", {"name": "leaving"})).status == 201
    ((tenant,),) = await query(database, "SELECT id FROM tenant WHERE name = 'leaving'")
    own = "SELECT $1::int AS tenant_id"
    for table, row in (
        ("app_cursor", f"{own}, 0"),
        ("app_day", f"{own}, 'work', 'ada', current_date{', 0' * 15}, '{{}}'"),
        (
            "app_request",
            f"{own}, gen_random_uuid(), 'work', 'ada', current_date, 'open', now(), NULL, NULL, NULL{', 0' * 10}",
        ),
    ):
        await execute(database, f"INSERT INTO {table} {row}", tenant)
    await gateway.call("PATCH", "/tenants/leaving", {"suspended": True})
    assert (await gateway.call("DELETE", "/tenants/leaving")).status == 202
    blobs = BlobService(database, max_bytes=0, keep=timedelta(days=1))
    duty = TenantRemoval(database, Sweeper(database, blobs), Wakeups(database))
    await clock.advance(timedelta(minutes=2))
    for _ in range(5):
        while await duty.once():
            pass
    for table in ("tenant", "app_cursor", "app_day", "app_request"):
        column = "id" if table == "tenant" else "tenant_id"
        assert await query(database, f"SELECT count(*) FROM {table} WHERE {column} = $1", tenant) == [(0,)], table
