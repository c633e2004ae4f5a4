"""Jobs over HTTP: submit, read, list, retry and cancel."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.support.gateways import SUBMISSION, HttpCaller

NOBODY = "01a1fbba-bf9b-70c9-b890-daafa0bbb9de"


async def test_a_created_job_is_returned_whole_and_can_be_read_at_its_location(caller: HttpCaller) -> None:
    fields = {
        "owner_ref": "channel/1",
        "input": {"text": "Grüße ☃", "n": [1, 2.5, None]},
        "priority": -7,
        "max_attempts": 5,
        "timeout_seconds": 2.5,
        "idempotency_key": "the first",
        "tags": ["a", "b"],
    }
    created = await caller.post("/jobs", SUBMISSION | fields)
    assert created.status == 201
    assert created.headers["content-type"] == "application/json"
    job = created.json
    assert {name: job[name] for name in fields} == fields
    assert (job["status"], job["attempt"], job["result"], job["error"], job["attempts"]) == (
        "pending",
        0,
        None,
        None,
        [],
    )
    assert UUID(job["id"]).version == 7
    read = await caller.get(created.headers["location"])
    assert (read.status, read.json) == (200, job)


async def test_input_comes_back_as_it_was_written(caller: HttpCaller) -> None:
    written = b'{ "b" : 1e400, "a": 123456789012345678901234567890, "b": "\\u00e9" }'
    body = msgspec.json.encode(SUBMISSION)[:-1] + b',"input":' + written + b"}"
    created = await caller.call("POST", "/jobs", body=body)
    assert created.status == 201
    read = await caller.get(created.headers["location"])
    assert written in read.body


async def test_the_same_key_and_request_return_the_same_job(caller: HttpCaller) -> None:
    first = await caller.post("/jobs", SUBMISSION | {"input": {"a": 1, "b": 2}}, Idempotency_Key="k-1")
    again = await caller.post("/jobs", SUBMISSION | {"input": {"b": 2, "a": 1}}, Idempotency_Key='"k-1"')
    in_body = await caller.post("/jobs", SUBMISSION | {"input": {"b": 2, "a": 1}, "idempotency_key": "k-1"})
    assert [first.status, again.status, in_body.status] == [201, 200, 200]
    assert again.json["id"] == in_body.json["id"] == first.json["id"]
    assert again.headers["location"] == first.headers["location"]


async def test_the_same_key_with_a_different_request_is_refused(caller: HttpCaller) -> None:
    await caller.submit(idempotency_key="k-2", priority=1)
    reply = await caller.post("/jobs", SUBMISSION | {"idempotency_key": "k-2", "priority": 2})
    assert reply.outcome == (422, "idempotency_conflict")


async def test_header_and_body_must_not_name_two_keys(caller: HttpCaller) -> None:
    reply = await caller.post("/jobs", SUBMISSION | {"idempotency_key": "x"}, Idempotency_Key="y")
    assert reply.outcome == (422, "invalid_input")
    assert reply.fields == ["idempotency_key"]
    assert (await caller.post("/jobs", SUBMISSION, Idempotency_Key="")).fields == ["Idempotency-Key"]


async def test_prefer_wait_returns_the_finished_job(caller: HttpCaller) -> None:
    fields = {"task_type": "awaited"}
    waiting = asyncio.create_task(caller.post("/jobs", SUBMISSION | fields, Prefer="respond-async, wait=15"))
    (job,) = await caller.claim(task_types=["awaited"], wait_seconds=15)
    await caller.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": {"x": 1}})
    reply = await waiting
    assert (reply.status, reply.json["status"], reply.json["result"]) == (201, "completed", {"x": 1})
    assert reply.headers["preference-applied"] == "wait=15"


async def test_prefer_wait_returns_202_when_time_is_up(caller: HttpCaller) -> None:
    reply = await caller.post("/jobs", SUBMISSION, Prefer="wait=0")
    assert (reply.status, reply.json["status"]) == (202, "pending")
    assert reply.headers["location"].endswith(reply.json["id"])


@pytest.mark.parametrize("preference", ["respond-async", "wait", "wait=x", "wait=-1", "await=5"])
async def test_unknown_preferences_are_ignored(caller: HttpCaller, preference: str) -> None:
    reply = await caller.post("/jobs", SUBMISSION, Prefer=preference)
    assert reply.status == 201
    assert "preference-applied" not in reply.headers


async def test_a_read_can_wait_for_the_end(caller: HttpCaller) -> None:
    job = await caller.running(task_type="read-waits")
    waiting = asyncio.create_task(caller.get(f"/jobs/{job['id']}?wait=15"))
    await caller.post(f"/jobs/{job['id']}/fail", {"epoch": job["epoch"], "category": "bad_input", "message": "no"})
    reply = await waiting
    assert (reply.json["status"], reply.json["error"]) == ("failed", {"category": "bad_input", "message": "no"})
    assert [attempt["attempt"] for attempt in reply.json["attempts"]] == [1]
    assert (await caller.get(f"/jobs/{job['id']}?wait=0")).status == 200


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "x", "", "1e99", "0x1", "１"])
async def test_an_invalid_wait_is_refused(caller: HttpCaller, wait: str) -> None:
    reply = await caller.get(f"/jobs/{NOBODY}?wait={wait}")
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["wait"])


@pytest.mark.parametrize("method_and_path", ["GET ", "GET ?wait=1", "POST /retry", "POST /cancel", "GET /events"])
async def test_an_unknown_job_is_404_and_an_invalid_id_is_422(caller: HttpCaller, method_and_path: str) -> None:
    method, _, rest = method_and_path.partition(" ")
    assert (await caller.call(method, f"/jobs/{NOBODY}{rest}")).outcome == (404, "not_found")
    for wrong in ("1", "x" * 36, NOBODY + "0", "{" + NOBODY + "}", "%00", NOBODY.replace("-", "")):
        reply = await caller.call(method, f"/jobs/{wrong}{rest}")
        assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["id"])


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"priority": "high"}, "priority"),
        ({"priority": 101}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"owner_service": ""}, "owner_service"),
        ({"owner_service": None}, "owner_service"),
        ({"task_type": "x" * 201}, "task_type"),
        ({"task_type": "a\x00b"}, "task_type"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"run_at": "tomorrow"}, "run_at"),
        ({"run_at": "2026-01-01T00:00:00"}, "run_at"),
        ({"run_at": "0001-01-01T00:00:00+01:00"}, "run_at"),
        ({"run_at": "9999-12-31T23:59:59-01:00"}, "run_at"),
        ({"run_at": 1700000000}, "run_at"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"tags": ["ok", 3]}, "tags[1]"),
        ({"tags": ["x"] * 33}, "tags"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_field_that_breaks_a_rule_is_named(caller: HttpCaller, fields: dict[str, object], blamed: str) -> None:
    reply = await caller.post("/jobs", SUBMISSION | fields)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [blamed])
    assert reply.headers["content-type"] == "application/problem+json"


async def test_a_missing_field_is_named(caller: HttpCaller) -> None:
    reply = await caller.post("/jobs", {"task_type": "echo", "model_profile": "small"})
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["owner_service"])
    assert reply.json["errors"][0]["detail"] == "is required"


async def test_a_list_is_filtered_and_paged(caller: HttpCaller) -> None:
    jobs = [await caller.submit(owner_service="lister", tags=["t", str(n % 2)], priority=n) for n in range(5)]
    first = (await caller.get("/jobs?owner_service=lister&limit=2")).json
    rest = (await caller.get(f"/jobs?owner_service=lister&limit=500&cursor={first['next_cursor']}")).json
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == [job["id"] for job in reversed(jobs)]
    assert rest["next_cursor"] is None
    assert "input" not in first["jobs"][0]

    async def ids(query: str) -> list[str]:
        reply = await caller.get(f"/jobs?owner_service=lister&{query}")
        assert reply.status == 200, reply.body
        return sorted(job["id"] for job in reply.json["jobs"])

    assert await ids("tags=t&tags=1") == await ids("tags=t,1") == [jobs[1]["id"], jobs[3]["id"]]
    assert await ids("status=failed,pending&status=running") == sorted(job["id"] for job in jobs)
    assert await ids("status=failed") == []
    assert await ids("priority=3&owner_ref=&attempt=0") == [jobs[3]["id"]]
    assert await ids("created_before=2020-01-01T00:00:00Z") == []
    assert await ids("created_after=2020-01-01T00:00:00%2B01:00&max_attempts=3") == sorted(job["id"] for job in jobs)


@pytest.mark.parametrize(
    ("query", "blamed"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("colour=red", "colour"),
        ("status=lost", "status[0]"),
        ("status=", "status"),
        ("priority=1.5", "priority"),
        ("priority=null", "priority"),
        ("created_after=null", "created_after"),
        ("status=null", "status[0]"),
        ("limit=null", "limit"),
        ("priority=%201", "priority"),
        ("priority=1_0", "priority"),
        ("priority=true", "priority"),
        ("finished_before=0.5", "finished_before"),
        ("finished_before=1700000000", "finished_before"),
        ("created_after=0001-01-01T00:00:00Z", "created_after"),
        ("created_before=9999-12-31T23:59:59-01:00", "created_before"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("error_category=sadness", "error_category"),
        ("owner_service=", "owner_service"),
        ("owner_service=%00", "owner_service"),
        ("owner_service=%ff", "query"),
        ("cursor=here", "cursor"),
        ("&".join(f"tags={n}" for n in range(300)), "query"),
    ],
)
async def test_a_query_that_breaks_a_rule_is_refused(caller: HttpCaller, query: str, blamed: str) -> None:
    reply = await caller.get(f"/jobs?{query}")
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [blamed])


async def test_a_batch_merges_defaults_and_returns_its_jobs_in_order(caller: HttpCaller) -> None:
    shared = SUBMISSION | {"task_type": "batched", "priority": 3, "tags": ["shared"], "input": {"from": "defaults"}}
    reply = await caller.post(
        "/jobs/batch",
        {
            "defaults": shared,
            "jobs": [
                {},
                {"priority": 9, "tags": []},
                {"idempotency_key": "b"},
                {"idempotency_key": "b"},
                {"input": None},
            ],
        },
    )
    assert reply.status == 201
    made = reply.json["jobs"]
    assert [job["created"] for job in made] == [True, True, True, False, True]
    assert made[2]["id"] == made[3]["id"]
    read = [(await caller.get(f"/jobs/{job['id']}")).json for job in made]
    assert [(job["priority"], job["tags"]) for job in read[:2]] == [(3, ["shared"]), (9, [])]
    assert [job["input"] for job in read] == [{"from": "defaults"}] * 4 + [None]


async def test_a_batch_is_all_or_nothing_and_names_the_invalid_job(caller: HttpCaller) -> None:
    good = SUBMISSION | {"owner_service": "all-or-nothing"}
    await caller.submit(owner_service="all-or-nothing", idempotency_key="taken", priority=1)
    for bad, blamed in (
        ({"priority": 1000}, ["jobs[1].priority"]),
        ({"owner_service": None}, ["jobs[1].owner_service"]),
        ({"run_at": "0001-01-01T00:00:00+01:00"}, ["jobs[1].run_at"]),
        ({"idempotency_key": "taken"}, []),
        ({"input": "x" * 5000}, []),
    ):
        reply = await caller.post("/jobs/batch", {"jobs": [good, good | bad, good]})
        assert reply.status in {413, 422}
        assert reply.fields == blamed
    missing = await caller.post("/jobs/batch", {"defaults": {"task_type": "x"}, "jobs": [good, {"owner_service": "y"}]})
    assert missing.fields == ["jobs[1].model_profile"]
    assert (await caller.post("/jobs/batch", {"jobs": []})).fields == ["jobs"]
    assert len((await caller.get("/jobs?owner_service=all-or-nothing")).json["jobs"]) == 1


async def test_ten_thousand_jobs_fit_in_a_batch_and_no_more(caller: HttpCaller) -> None:
    jobs = [{"owner_ref": str(n)} for n in range(10_001)]
    defaults = SUBMISSION | {"task_type": "ten thousand"}
    assert (await caller.post("/jobs/batch", {"defaults": defaults, "jobs": jobs})).fields == ["jobs"]
    reply = await caller.post("/jobs/batch", {"defaults": defaults, "jobs": jobs[:-1]})
    assert reply.status == 201
    assert len({job["id"] for job in reply.json["jobs"]}) == 10_000
    stopped = await caller.post("/jobs/cancel", {"task_type": "ten thousand"})
    assert stopped.json == {"count": 10_000, "dry_run": False}


async def test_retry_takes_a_running_job_back_and_refuses_a_completed_one(caller: HttpCaller) -> None:
    job = await caller.running(task_type="retried")
    reply = await caller.post(f"/jobs/{job['id']}/retry")
    assert (reply.status, reply.json["status"]) == (200, "pending")
    late = await caller.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": 1})
    assert late.outcome == (409, "stale_epoch")
    done = await caller.finished(task_type="retried-not")
    assert (await caller.post(f"/jobs/{done['id']}/retry")).outcome == (409, "wrong_state")


async def test_cancel_ends_a_pending_job_and_requests_the_end_of_a_running_one(caller: HttpCaller) -> None:
    pending = await caller.submit(task_type="cancelled")
    for _ in range(2):
        reply = await caller.post(f"/jobs/{pending['id']}/cancel")
        assert (reply.status, reply.json["status"]) == (200, "cancelled")
    running = await caller.running(task_type="asked-to-stop")
    requested = (await caller.post(f"/jobs/{running['id']}/cancel")).json
    assert requested["status"] == "running"
    assert requested["cancel_requested_at"] is not None
    beat = await caller.post(f"/jobs/{running['id']}/heartbeat", {"epoch": running["epoch"]})
    assert beat.json["cancel_requested"] is True
    done = await caller.finished(task_type="cancelled-not")
    assert (await caller.post(f"/jobs/{done['id']}/cancel")).outcome == (409, "wrong_state")


async def test_retry_and_cancel_by_filter_count_and_change(caller: HttpCaller) -> None:
    owner = str(uuid4())
    for _ in range(3):
        job = await caller.running(owner_service=owner, task_type="bulk")
        await caller.post(f"/jobs/{job['id']}/fail", {"epoch": job["epoch"], "category": "bad_input"})
    where = {"owner_service": owner, "status": ["failed"], "error_category": "bad_input"}
    assert (await caller.post("/jobs/retry", where | {"dry_run": True})).json == {"count": 3, "dry_run": True}
    assert (await caller.post("/jobs/retry", where)).json == {"count": 3, "dry_run": False}
    assert (await caller.post("/jobs/retry", where)).json["count"] == 0
    assert (await caller.post("/jobs/cancel", {"owner_service": owner})).json["count"] == 3
    statuses = {job["status"] for job in (await caller.get(f"/jobs?owner_service={owner}")).json["jobs"]}
    assert statuses == {"cancelled"}


@pytest.mark.parametrize("stated", ["pending", ["pending"]])
async def test_a_bulk_change_takes_one_status_or_tag_or_a_list_of_them(caller: HttpCaller, stated: object) -> None:
    owner = f"one-or-many-{stated}"
    job = await caller.submit(owner_service=owner, tags=["a", "b"])
    await caller.submit(owner_service=owner, tags=["a"])
    for status, tags, count in ((stated, "b", 1), (stated, ["a", "b"], 1), (stated, "a", 2), ("running", "a", 0)):
        body = {"owner_service": owner, "status": status, "tags": tags, "dry_run": True}
        assert (await caller.post("/jobs/cancel", body)).json["count"] == count
    assert (await caller.post("/jobs/cancel", {"tags": "a\x00"})).fields == ["tags[0]"]
    await caller.post("/jobs/cancel", {"owner_service": owner, "status": stated, "tags": "b"})
    assert (await caller.get(f"/jobs/{job['id']}")).json["status"] == "cancelled"


@pytest.mark.parametrize("verb", ["retry", "cancel"])
async def test_a_bulk_change_names_the_field_that_breaks_a_rule(caller: HttpCaller, verb: str) -> None:
    for fields, blamed in (
        ({"created_after": "0001-01-01T00:00:07+01:00"}, "created_after"),
        ({"finished_before": 0.5}, "finished_before"),
        ({"status": ["lost"]}, "status[0]"),
        ({"status": []}, "status"),
        ({"limit": 5}, "limit"),
    ):
        assert (await caller.post(f"/jobs/{verb}", {"owner_service": "x"} | fields)).fields == [blamed]


@pytest.mark.parametrize("verb", ["retry", "cancel"])
@pytest.mark.parametrize("body", [{}, {"dry_run": True}, {"status": []}, {"tags": []}, {"owner_service": None}])
async def test_a_bulk_change_needs_a_filter(caller: HttpCaller, verb: str, body: dict[str, object]) -> None:
    reply = await caller.post(f"/jobs/{verb}", body)
    assert reply.outcome == (422, "invalid_input")


async def test_statistics_count_the_jobs(caller: HttpCaller) -> None:
    job = await caller.running(owner_service="counted", task_type="counted")
    await caller.submit(owner_service="counted", task_type="counted")
    await caller.post(f"/jobs/{job['id']}/fail", {"epoch": job["epoch"], "category": "bad_input"})
    stats = (await caller.get("/stats")).json
    (queue,) = [queue for queue in stats["queues"] if queue["task_type"] == "counted"]
    assert (queue["pending"], queue["running"], queue["failed"], queue["errors"]) == (1, 0, 1, {"bad_input": 1})
    assert queue["oldest_pending_seconds"] >= 0
    assert [owner["owner_service"] for owner in queue["owners"]] == ["counted"]
