"""Workers over HTTP: claim, heartbeat, complete and fail, alone and in batches; and workers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec import Raw

from penstock import ClaimedJob, Client, ExecutionError, JobContext
from penstock.failures import Category
from penstock.jobs.tenant_jobs import TenantJobs
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.jobs import submission
from tests.support.waiting import until

NOBODY = "01a1fbba-bf9b-70c9-b890-daafa0bbb9de"


async def report(caller: HttpCaller, job: dict[str, Any], verb: str, **fields: Any) -> Reply:
    return await caller.post(f"/jobs/{job['id']}/{verb}", {"epoch": job["epoch"]} | fields)


async def test_a_claimed_job_comes_with_its_epoch_and_input(caller: HttpCaller) -> None:
    job = await caller.submit(task_type="claimed", input={"n": 1}, tags=["t"])
    (claimed,) = await caller.claim(task_types=["claimed", "other"], model_profiles=["small"], lease_seconds=60)
    assert claimed["id"] == job["id"]
    assert claimed["epoch"] > 0
    assert (claimed["attempt"], claimed["max_attempts"], claimed["input"], claimed["tags"]) == (1, 3, {"n": 1}, ["t"])
    assert await caller.claim(task_types=["claimed"]) == []
    running = (await caller.get(f"/jobs/{job['id']}")).json
    assert (running["status"], running["worker_id"]) == ("running", "w")
    assert running["lease_expires_at"] == claimed["lease_expires_at"]


async def test_a_claim_waits_for_the_first_job(caller: HttpCaller) -> None:
    claiming = asyncio.create_task(caller.claim(task_types=["awaited-work"], wait_seconds=15))
    job = await caller.submit(task_type="awaited-work")
    assert [claimed["id"] for claimed in await claiming] == [job["id"]]


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"worker_id": ""}, "worker_id"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"wait_seconds": 61}, "wait_seconds"),
        ({"lease_seconds": 0}, "lease_seconds"),
        ({"task_types": "echo"}, "task_types"),
        ({"task_types": [""]}, "task_types[0]"),
        ({"queue": "x"}, "queue"),
    ],
)
async def test_a_claim_that_breaks_a_rule_is_refused(caller: HttpCaller, fields: dict[str, Any], blamed: str) -> None:
    reply = await caller.post("/jobs/claim", {"worker_id": "w"} | fields)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [blamed])


async def test_a_result_is_stored_and_may_be_reported_twice(caller: HttpCaller) -> None:
    job = await caller.running(task_type="completed")
    for _ in range(2):
        reply = await report(caller, job, "complete", worker_id="w", result={"text": "Grüße"})
        assert (reply.status, reply.json["status"]) == (200, "completed")
    read = (await caller.get(f"/jobs/{job['id']}")).json
    assert (read["status"], read["result"], read["attempt"]) == ("completed", {"text": "Grüße"}, 1)
    assert read["finished_at"] >= read["started_at"] >= read["created_at"]


async def test_a_completion_without_a_result_stores_null(caller: HttpCaller) -> None:
    job = await caller.running(task_type="no-result")
    assert (await report(caller, job, "complete")).status == 200
    assert (await caller.get(f"/jobs/{job['id']}")).json["result"] is None


@pytest.mark.parametrize("verb", ["complete", "fail", "heartbeat"])
async def test_a_stale_epoch_is_409_and_an_unknown_job_404(caller: HttpCaller, verb: str) -> None:
    job = await caller.running(task_type=f"stale-{verb}")
    assert (await report(caller, job | {"epoch": job["epoch"] + 1000}, verb)).outcome == (409, "stale_epoch")
    assert (await report(caller, job | {"id": NOBODY}, verb)).outcome == (404, "not_found")
    assert (await report(caller, job | {"id": "x"}, verb)).fields == ["id"]
    assert (await report(caller, job | {"epoch": "1"}, verb)).fields == ["epoch"]
    assert (await report(caller, job | {"epoch": 2**63}, verb)).fields == ["epoch"]
    assert (await report(caller, job, verb)).status == 200


async def test_a_failure_is_retried_or_final_by_its_category(caller: HttpCaller) -> None:
    job = await caller.running(task_type="failed", max_attempts=2)
    again = await report(caller, job, "fail", category="provider_error", message="502", retry_after_seconds=60)
    assert (again.json["status"], again.json["run_at"] is not None) == ("pending", True)
    job = await caller.running(task_type="failed-for-good")
    final = await report(caller, job, "fail", category="bad_input", message="no such file")
    assert final.json["status"] == "failed"
    read = (await caller.get(f"/jobs/{job['id']}")).json
    assert read["error"] == {"category": "bad_input", "message": "no such file"}
    assert [attempt["worker_id"] for attempt in read["attempts"]] == ["w"]
    assert (await report(caller, job, "fail", category="sadness")).fields == ["category"]


async def test_a_heartbeat_extends_the_lease_and_reports_progress(caller: HttpCaller) -> None:
    job = await caller.running(task_type="beating")
    beat = await report(caller, job, "heartbeat", lease_seconds=3600, progress={"fraction": 0.4})
    assert beat.json["lease_expires_at"] > job["lease_expires_at"]
    assert beat.json["cancel_requested"] is False
    assert (await caller.get(f"/jobs/{job['id']}")).json["progress"] == {"fraction": 0.4}


async def output_of(caller: HttpCaller, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the output and the log in a finished job's events."""
    reply = await caller.get(f"/jobs/{job['id']}/events")
    events = [msgspec.json.decode(line[6:]) for line in reply.body.splitlines() if line.startswith(b"data: ")]
    return [
        {name: event["data"].get(name) for name in ("first", "chunks", "lines")}
        for event in events
        if event["type"] in {"job.output", "job.log"}
    ]


async def test_a_heartbeat_reports_output_and_log_once(caller: HttpCaller) -> None:
    job = await caller.running(task_type="telling")
    line = {"time": "2026-01-30T09:00:00Z", "level": "warning", "message": "it is\nhot"}
    for _ in range(2):
        beat = await report(caller, job, "heartbeat", chunks=["a", {"b": 1}], chunks_from=0, logs=[line], logs_from=0)
        assert beat.status == 200
    beats = [{"id": job["id"], "epoch": job["epoch"], "chunks": [{"b": 1}, None], "chunks_from": 1}]
    assert (await caller.post("/jobs/heartbeat", {"jobs": beats})).json["results"][0].get("code") is None
    assert (await report(caller, job, "complete")).status == 200
    assert await output_of(caller, job) == [
        {"first": None, "chunks": None, "lines": [line]},
        {"first": 0, "chunks": ["a", {"b": 1}], "lines": None},
        {"first": 2, "chunks": [None], "lines": None},
    ]


LINE = {"time": "2026-01-30T09:00:00Z", "message": "x"}


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"chunks": [1]}, "chunks_from"),
        ({"logs": [LINE]}, "logs_from"),
        ({"chunks": 1, "chunks_from": 0}, "chunks"),
        ({"chunks": [1], "chunks_from": -1}, "chunks_from"),
        ({"chunks": [1], "chunks_from": 2**31}, "chunks_from"),
        ({"chunks": [1], "chunks_from": 1}, "chunks_from"),
        ({"logs": [LINE], "logs_from": 3}, "logs_from"),
        ({"chunks": [0] * 10_001, "chunks_from": 0}, "chunks"),
        ({"chunks": [0] * 9_999, "chunks_from": 0, "logs": [LINE] * 2, "logs_from": 0}, "chunks"),
        ({"chunks": ["x" * 2**20], "chunks_from": 0}, "chunks"),
        ({"logs": [LINE | {"message": "x" * 9_999}] * 105, "logs_from": 0}, "logs"),
        ({"logs": [LINE | {"message": "x" * 10_001}], "logs_from": 0}, "logs[0].message"),
        ({"logs": [LINE | {"level": ""}], "logs_from": 0}, "logs[0].level"),
        ({"logs": [LINE | {"time": "2026-01-30T09:00:00"}], "logs_from": 0}, "logs[0].time"),
        ({"logs": [LINE, LINE | {"time": "0001-01-01T00:00:00+05:00"}], "logs_from": 0}, "logs[1].time"),
        ({"logs": [LINE | {"source": "x"}], "logs_from": 0}, "logs[0].source"),
    ],
)
async def test_an_invalid_heartbeat_is_refused_alone_and_in_a_batch(
    caller: HttpCaller, fields: dict[str, Any], blamed: str
) -> None:
    job = await caller.running(task_type="telling-wrongly")
    reply = await report(caller, job, "heartbeat", progress=1, **fields)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [blamed])
    both = [{"id": job["id"], "epoch": job["epoch"]}, {"id": job["id"], "epoch": job["epoch"]} | fields]
    reply = await caller.post("/jobs/heartbeat", {"jobs": both[1:]})
    if reply.status == 200:  # mistakes that only the lease reveals concern one job, not the request
        (item,) = reply.json["results"]
        assert item["code"] == "invalid_input"
        assert item["detail"].startswith(f"{blamed}: must be at most 0")
    else:
        assert (reply.status, reply.fields) == (422, [f"jobs[0].{blamed}"])
    assert (await caller.get(f"/jobs/{job['id']}")).json["progress"] is None
    assert (await report(caller, job, "complete")).status == 200
    assert await output_of(caller, job) == []


async def test_a_stale_worker_reports_nothing(caller: HttpCaller) -> None:
    job = await caller.running(task_type="telling-stale")
    await caller.post(f"/jobs/{job['id']}/retry")
    assert (await report(caller, job, "heartbeat", chunks=[1], chunks_from=0)).outcome == (409, "stale_epoch")
    (again,) = await caller.claim(task_types=["telling-stale"])
    assert (await report(caller, job, "heartbeat", chunks=[1], chunks_from=0)).outcome == (409, "stale_epoch")
    assert (await report(caller, again, "complete")).status == 200
    assert await output_of(caller, job) == []


async def test_a_worker_over_http_streams_its_output_into_the_jobs_events(caller: HttpCaller) -> None:
    async def stream(job: ClaimedJob, context: JobContext) -> object:
        for number in range(3000):
            context.chunk({"n": number})
            context.log(f"line {number}") if number % 100 == 0 else None
            if number % 1000 == 0:
                await until(lambda: not context.outbox.waiting, "all reports so far have been sent")
        return job.attempt

    jobs = [await caller.submit(task_type="streaming") for _ in range(3)]
    stop = asyncio.Event()
    async with Client(caller.address) as client:
        working = asyncio.create_task(client.work(stream, task_types=["streaming"], limit=3, stop=stop))
        for job in jobs:
            assert (await client.wait(job["id"])).status == "completed"
        stop.set()
        await working
    for job in jobs:
        reported = await output_of(caller, job)
        parts = [part for part in reported if part["chunks"] is not None]
        assert len(parts) > 1
        assert [chunk["n"] for part in parts for chunk in part["chunks"]] == list(range(3000))
        assert [part["chunks"][0]["n"] for part in parts] == [part["first"] for part in parts]
        lines = [line["message"] for part in reported for line in part["lines"] or ()]
        assert lines == [f"line {number}" for number in range(0, 3000, 100)]


async def test_output_that_is_refused_over_http_fails_its_own_job_only(caller: HttpCaller) -> None:
    together = asyncio.Barrier(3)

    async def stream(job: ClaimedJob, context: JobContext) -> object:
        await together.wait()
        if bytes(job.input) == b"1":
            context.outbox.put_chunk(Raw(b"{cut"))  # bypasses the check of the executor's calls
        else:
            context.chunk("x" * 600_000)
        await until(lambda: not context.outbox.waiting, "one heartbeat has covered all three")
        return "done"

    jobs = [await caller.submit(task_type="refused", max_attempts=1, input=number) for number in range(3)]
    stop = asyncio.Event()
    async with Client(caller.address) as client:
        working = asyncio.create_task(client.work(stream, task_types=["refused"], limit=3, stop=stop))
        ended = [await client.wait(job["id"]) for job in jobs]
        stop.set()
        await working
    assert [job.status for job in ended] == ["completed", "failed", "completed"]
    assert ended[1].error is not None
    assert "the job's output was refused: MalformedBody" in ended[1].error.message
    for job in (jobs[0], jobs[2]):
        assert [len(chunk) for part in await output_of(caller, job) for chunk in part["chunks"]] == [600_000]


async def test_many_heartbeats_and_results_succeed_or_fail_alone(caller: HttpCaller) -> None:
    for _ in range(2):
        await caller.submit(task_type="many")
    first, second = await caller.claim(task_types=["many"])
    reports = [
        {"id": first["id"], "epoch": first["epoch"]},
        {"id": NOBODY, "epoch": 1},
        {"id": second["id"], "epoch": second["epoch"] + 1000},
        {"id": second["id"], "epoch": second["epoch"]},
    ]
    beats = (await caller.post("/jobs/heartbeat", {"jobs": reports})).json["results"]
    assert [beat.get("code") for beat in beats] == [None, "not_found", "stale_epoch", None]
    assert [beat.get("cancel_requested") for beat in beats] == [False, None, None, False]
    done = (await caller.post("/jobs/complete", {"jobs": [one | {"result": 1} for one in reports]})).json["results"]
    assert [one.get("code") for one in done] == [None, "not_found", "stale_epoch", None]
    assert [one.get("status") for one in done] == ["completed", None, None, "completed"]
    assert [one["id"] for one in done] == [one["id"] for one in reports]


async def test_a_bad_report_of_a_batch_is_named(caller: HttpCaller) -> None:
    reply = await caller.post("/jobs/complete", {"jobs": [{"id": NOBODY, "epoch": 1}, {"id": NOBODY}]})
    assert reply.fields == ["jobs[1].epoch"]
    reply = await caller.post("/jobs/heartbeat", {"jobs": [{"id": "me", "epoch": 1}]})
    assert reply.fields == ["jobs[0].id"]
    large = {"id": NOBODY, "epoch": 1, "result": "x" * 9000}
    reply = await caller.post("/jobs/complete", {"jobs": [{"id": NOBODY, "epoch": 1}, large]})
    assert reply.outcome == (413, "too_large")
    assert "jobs[1].result" in reply.json["detail"]


async def test_a_worker_that_leaves_while_it_waits_leases_no_job(caller: HttpCaller) -> None:
    claiming = asyncio.create_task(caller.claim(task_types=["left"], wait_seconds=30))
    await until(lambda: "/api/v1/jobs/claim" in caller.in_progress, "the claim waits")
    claiming.cancel()
    await until(lambda: "/api/v1/jobs/claim" not in caller.in_progress, "the claim is given up")
    job = await caller.submit(task_type="left")
    (claimed,) = await caller.claim(task_types=["left"])
    assert (claimed["id"], claimed["attempt"]) == (job["id"], 1)


@asynccontextmanager
async def blocked_claims(url: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Stop claims in the middle of their statement; yield a check of whether one has stopped."""
    locker = await asyncpg.connect(url)

    async def one_is_blocked() -> bool:
        sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'penstock.ready'::regclass)"
        return bool(await locker.fetchval(sql))

    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE penstock.ready IN ACCESS EXCLUSIVE MODE")
            yield one_is_blocked
    finally:
        await locker.close()


@pytest.mark.parametrize("wait_seconds", [0, 30])
async def test_a_worker_that_leaves_during_a_claim_hands_the_job_back(
    caller: HttpCaller, module_database_url: str, wait_seconds: int
) -> None:
    task_type = f"left-too-late-{wait_seconds}"
    job = await caller.submit(task_type=task_type)
    async with blocked_claims(module_database_url) as blocked:
        claiming = asyncio.create_task(caller.claim(task_types=[task_type], wait_seconds=wait_seconds))
        await until(blocked, "the claim is in the middle of its statement")
        claiming.cancel()
        await asyncio.wait([claiming])
    (again,) = await caller.claim(task_types=[task_type], wait_seconds=15)
    assert again["id"] == job["id"]
    assert (await report(caller, again, "complete")).status == 200


async def test_a_gateway_that_stops_during_a_claim_hands_the_job_back(
    caller: HttpCaller, module_database_url: str
) -> None:
    job = await caller.submit(task_type="stopped-too-early")
    async with running_gateway(module_database_url) as other:
        async with blocked_claims(module_database_url) as blocked:
            claiming = asyncio.create_task(other.claim(task_types=["stopped-too-early"], wait_seconds=30))
            await until(blocked, "the claim is in the middle of its statement")
            other.gateway.stopping.set()
            assert await claiming == []
            stopping = asyncio.create_task(other.gateway.stop())
            done, _ = await asyncio.wait([stopping], timeout=0.2)
            assert not done, "it must wait for the claim, or the job could not be handed back"
        await stopping
        (again,) = await caller.claim(task_types=["stopped-too-early"])
    assert again["id"] == job["id"]


# Several tenants


async def other_tenant(caller: HttpCaller, name: str) -> TenantJobs:
    async with caller.parts.database.acquire() as connection:
        tenant = await connection.fetchval(
            "INSERT INTO tenant (id, name) SELECT max(id) + 1, $1 FROM tenant RETURNING id", name
        )
    return caller.parts.jobs.of(tenant)


async def test_an_operator_claims_and_reports_on_jobs_of_another_tenant(caller: HttpCaller) -> None:
    jobs = await other_tenant(caller, "acme")
    made = (await jobs.submit(submission(task_type="acme's"))).job
    (claimed,) = await caller.claim(task_types=["acme's"])
    assert (claimed["id"], claimed["tenant"]) == (str(made.id), "acme")
    reports: dict[str, dict[str, Any]] = {"heartbeat": {}, "fail": {"category": "shutdown"}, "complete": {"result": 1}}
    for verb, fields in reports.items():
        assert (await report(caller, claimed, verb, **fields)).outcome == (404, "not_found"), verb
    beat: dict[str, Any] = {"jobs": [{"id": claimed["id"], "epoch": claimed["epoch"]}]}
    named: dict[str, dict[str, Any]] = {
        f"/jobs/{made.id}/heartbeat": {"epoch": claimed["epoch"]},
        "/jobs/heartbeat": beat,
        "/jobs/complete": {"jobs": [beat["jobs"][0] | {"result": 7}]},
    }
    for path, fields in named.items():
        reply = await caller.post(path, fields, Penstock_Tenant="acme")
        assert reply.status == 200
        assert all("code" not in item for item in reply.json.get("results", []))
    assert (await jobs.get(made.id)).result == Raw(b"7")


async def test_a_report_or_claim_for_a_tenant_that_does_not_exist_is_not_found(caller: HttpCaller) -> None:
    job = await caller.running(task_type="default's")
    reply = await caller.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"]}, Penstock_Tenant="nowhere")
    assert reply.outcome == (404, "not_found")
    assert (await caller.post("/jobs/claim", {"worker_id": "w"}, Penstock_Tenant="nowhere")).status == 404


async def test_a_claim_that_names_a_tenant_takes_only_its_jobs(caller: HttpCaller) -> None:
    jobs = await other_tenant(caller, "umbrella")
    await caller.submit(task_type="shared")
    made = (await jobs.submit(submission(task_type="shared"))).job
    wanted = {"worker_id": "w", "limit": 10, "task_types": ["shared"]}
    reply = await caller.post("/jobs/claim", wanted, Penstock_Tenant="umbrella")
    assert [job["id"] for job in reply.json["jobs"]] == [str(made.id)]
    assert len(await caller.claim(task_types=["shared"])) == 1


async def test_the_clients_worker_serves_all_tenants(caller: HttpCaller) -> None:
    jobs = [await other_tenant(caller, name) for name in ("left", "right")]
    made = [[job.job for job in await each.submit_many([submission(task_type="both")] * 5)] for each in jobs]

    async def work(job: ClaimedJob, context: JobContext) -> object:
        context.chunk({"of": job.tenant})
        if job.tenant == "right" and job.attempt == 1:
            raise ExecutionError(Category.SHUTDOWN, "once more")
        return job.tenant

    stop = asyncio.Event()
    async with Client(caller.address) as client:
        working = asyncio.create_task(client.work(work, task_types=["both"], limit=4, stop=stop))
        for each, submitted, name in zip(jobs, made, ("left", "right"), strict=True):
            for job in submitted:
                done = await each.wait(job.id, timedelta(seconds=15))
                assert (done.status, done.result) == ("completed", Raw(f'"{name}"'.encode()))
        stop.set()
        await working
