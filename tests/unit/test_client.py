"""The client with real servers: gateways that keep the contract, break connections, or are unavailable."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from aiohttp import web

import penstock
from penstock import BlockingClient, Client, EventsLost, Unreachable, errors
from penstock.client.working import WorkRequests
from penstock.jobs.filters import JobFilter
from penstock.jobs.states import Status
from penstock.jobs.work import JobCompletion, JobHeartbeat
from penstock.supervisor.ports import free_port
from tests.support.scripted_gateways import (
    JOB,
    JOB_ID,
    cuts,
    raises,
    returns,
    scripted_gateway,
    streams,
)

CLAIMED = {
    **{name: JOB[name] for name in JOB if name not in {"status", "result"}},
    "epoch": 5,
    "tenant": "default",
    "timeout_seconds": None,
    "lease_expires_at": "2026-01-01T00:01:00Z",
}


async def test_a_submission_carries_the_token_and_its_own_key() -> None:
    async with scripted_gateway(returns(JOB, 201)) as server, Client(server.url + "/", token="secret") as client:
        job = await client.submit("echo", "small", {"x": [1]}, priority=5, tags=["a"])
        await client.submit("echo", "small")
    assert job.id == JOB_ID
    assert job.status is Status.COMPLETED
    assert job.result == {"a": 1}
    method, path, body, headers = server.requests[0]
    assert (method, path, headers["Authorization"]) == ("POST", "/api/v1/jobs", "Bearer secret")
    assert (body["owner_service"], body["input"], body["priority"]) == ("python", {"x": [1]}, 5)
    keys = [body["idempotency_key"] for _, _, body, _ in server.requests]
    assert all(keys)
    assert keys[0] != keys[1]


async def test_a_client_names_its_tenant_and_user() -> None:
    async with scripted_gateway(returns(JOB)) as server, Client(server.url, tenant="acme", user="Zoë") as client:
        await client.get(JOB_ID)
        await client.for_tenant("other").get(JOB_ID)
    named = [(headers["Penstock-Tenant"], headers["Penstock-User"]) for *_, headers in server.requests]
    assert named == [("acme", "Zoë"), ("other", "Zoë")]


@pytest.mark.parametrize("value", ["", "a\nb", "a\x00"])
def test_a_tenant_or_user_that_cannot_be_a_header_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        Client("http://127.0.0.1:1", tenant=value)
    with pytest.raises(ValueError, match="user"):
        Client("http://127.0.0.1:1", user=value)


async def test_a_submission_is_repeated_with_the_same_key_after_a_cut_connection() -> None:
    async with scripted_gateway(cuts, cuts, returns(JOB, 201)) as server, Client(server.url) as client:
        await client.submit("echo", "small")
    assert len(server.requests) == 3
    assert len({body["idempotency_key"] for _, _, body, _ in server.requests}) == 1


async def test_a_batch_is_repeated_too() -> None:
    created = {"id": str(JOB_ID), "status": "pending", "created": True, "created_at": "2026-01-01T00:00:00Z"}
    async with scripted_gateway(cuts, returns({"jobs": [created]}, 201)) as server, Client(server.url) as client:
        (result,) = await client.submit_many([client.job("echo", "small", 1)])
    assert result.id == JOB_ID
    assert server.requests[0][2] == server.requests[1][2]


async def test_a_claim_whose_response_was_lost_is_not_repeated() -> None:
    async with scripted_gateway(cuts, returns({"jobs": []})) as server, Client(server.url) as client:
        with pytest.raises(Unreachable):
            await client.claim("w")
        assert await client.claim("w") == []
    assert len(server.requests) == 2


async def test_a_request_is_repeated_while_the_gateway_lacks_its_database() -> None:
    away = raises(errors.DatabaseUnavailable())
    async with scripted_gateway(away, away, returns(JOB)) as server, Client(server.url) as client:
        assert (await client.get(JOB_ID)).id == JOB_ID
    assert len(server.requests) == 3


async def test_an_unreachable_gateway_is_a_clear_error() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unreachable, match=r"no response from http://127\.0\.0\.1:\d+: "):
            await client.get(JOB_ID)


async def test_a_gateway_that_starts_late_is_reached() -> None:
    port = free_port()
    async with Client(f"http://127.0.0.1:{port}") as client:
        request = asyncio.create_task(client.get(JOB_ID))
        await asyncio.sleep(0)
        async with scripted_gateway(returns(JOB), port=port):
            assert (await request).id == JOB_ID


@pytest.mark.parametrize(
    "error",
    [
        errors.MalformedBody(),
        errors.InvalidInput.of("priority", "must be at most 100"),
        errors.TooLarge("input has 2 MiB"),
        errors.Unauthorized(),
        errors.NotFound("there is no job"),
        errors.StaleEpoch(),
        errors.WrongState("job is completed"),
        errors.IdempotencyConflict("the key was used"),
    ],
)
async def test_problem_details_become_the_original_error(error: errors.CallerError) -> None:
    async with scripted_gateway(raises(error)) as server, Client(server.url) as client:
        with pytest.raises(errors.CallerError) as caught:
            await client.retry(JOB_ID)
    assert type(caught.value) is type(error)
    assert caught.value.message == error.message
    assert len(server.requests) == 1


async def test_an_error_without_problem_details_is_reported_by_its_status() -> None:
    async def proxy(_request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>Bad Gateway</html>")

    async with scripted_gateway(proxy) as server, Client(server.url) as client:
        with pytest.raises(errors.ServiceError, match="Bad Gateway"):
            await client.stats()


async def test_a_response_of_another_service_is_a_clear_error() -> None:
    async with scripted_gateway(returns(["hello"])) as server, Client(server.url) as client:
        with pytest.raises(errors.ServiceError, match="does not understand the response"):
            await client.stats()


async def test_wait_polls_until_the_job_is_finished() -> None:
    running = JOB | {"status": "running"}
    async with (
        scripted_gateway(returns(running), returns(running), returns(JOB)) as server,
        Client(server.url) as client,
    ):
        assert (await client.wait(JOB_ID)).status is Status.COMPLETED
    assert [path for _, path, _, _ in server.requests] == [f"/api/v1/jobs/{JOB_ID}?wait=60.000"] * 3


async def test_wait_gives_up_when_time_is_over() -> None:
    async with scripted_gateway(returns(JOB | {"status": "running"})) as server, Client(server.url) as client:
        with pytest.raises(TimeoutError, match="still running"):
            await client.wait(JOB_ID, timedelta(0))


async def test_filters_become_a_query() -> None:
    async with scripted_gateway(returns({"jobs": [], "next_cursor": None})) as server, Client(server.url) as client:
        where = JobFilter(status=[Status.FAILED, Status.CANCELLED], owner_ref="a/b c", priority=-5)
        await client.list(where, limit=7, cursor="abc")
    path = server.requests[0][1]
    assert path.startswith("/api/v1/jobs?")
    assert {"limit=7", "cursor=abc", "status=failed", "status=cancelled", "priority=-5"} < set(path[13:].split("&"))


async def test_bulk_calls_send_only_the_given_fields() -> None:
    async with scripted_gateway(returns({"count": 3, "dry_run": True})) as server, Client(server.url) as client:
        assert await client.cancel_where(JobFilter(task_type="echo"), dry_run=True) == 3
    assert server.requests[0][1:3] == ("/api/v1/jobs/cancel", {"task_type": "echo", "dry_run": True})


async def test_batch_responses_hold_errors_as_values() -> None:
    items = [
        {"id": str(JOB_ID), "status": "completed"},
        {"id": str(JOB_ID), "code": "stale_epoch"},
        {"id": str(JOB_ID), "code": "not_found"},
        {"id": str(JOB_ID), "code": "too_large", "detail": "the result has 9 bytes"},
        {"id": str(JOB_ID), "code": "invalid_input", "detail": "must be smaller"},
        {"id": str(JOB_ID), "code": "of_a_later_version", "detail": "no more room"},
    ]
    done = [JobCompletion(id=JOB_ID, epoch=number) for number in range(1, 7)]
    async with scripted_gateway(returns({"results": items})) as server, Client(server.url) as client:
        first, second, third, *others = await WorkRequests(client._transport).complete(done)
    assert getattr(first, "status", None) is Status.COMPLETED
    assert isinstance(second, errors.StaleEpoch)
    assert isinstance(third, errors.NotFound)
    assert [(type(one), str(one)) for one in others] == [  # a worker would take these for a lost lease otherwise
        (errors.TooLarge, "the result has 9 bytes"),
        (errors.InvalidInput, f"job {JOB_ID}: must be smaller"),
        (errors.CallerError, "no more room"),
    ]


async def test_a_worker_needs_keywords_only() -> None:
    state, beaten = (
        {"id": str(JOB_ID), "status": "completed"},
        {"id": str(JOB_ID), "lease_expires_at": "2026-01-01T00:00:00Z", "cancel_requested": False},
    )
    async with (
        scripted_gateway(returns({"jobs": []}), returns(beaten), returns(state), returns(state)) as server,
        Client(server.url) as client,
    ):
        await client.claim("w", task_types=["echo"], limit=3, lease=timedelta(seconds=9), wait=timedelta(seconds=2))
        await client.heartbeat(JOB_ID, 5, progress={"fraction": 0.5})
        await client.complete(JOB_ID, 5, {"x": 1})
        await client.fail(str(JOB_ID), 5, "too dark", category="bad_input", retry_after=timedelta(seconds=4))
    claim, beat, done, failed = [body for _, _, body, _ in server.requests]
    assert (claim["task_types"], claim["limit"], claim["lease_seconds"], claim["wait_seconds"]) == (["echo"], 3, 9, 2)
    assert (beat["epoch"], beat["progress"]) == (5, {"fraction": 0.5})
    assert (done["epoch"], done["result"]) == (5, {"x": 1})
    assert (failed["category"], failed["message"], failed["retry_after_seconds"]) == ("bad_input", "too dark", 4)


async def test_filters_are_stated_by_name() -> None:
    page: dict[str, Any] = {"jobs": [], "next_cursor": None}
    async with (
        scripted_gateway(returns(page), returns({"count": 1, "dry_run": False})) as server,
        Client(server.url) as client,
    ):
        await client.list(status="failed", tags=["a", "b"], limit=7)
        assert await client.cancel_where(task_type="echo", status=["pending"]) == 1
        with pytest.raises(ValueError, match="priority"):
            await client.list(priority=1000)
        with pytest.raises(ValueError, match="not both"):
            await client.list(JobFilter(), task_type="echo")
    assert sorted(parse_qsl(server.requests[0][1].partition("?")[2])) == [
        ("limit", "7"),
        ("status", "failed"),
        ("tags", "a"),
        ("tags", "b"),
    ]


def test_importable_names_are_listed() -> None:
    assert set(penstock.__all__) <= set(dir(penstock))
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None


async def test_an_empty_report_sends_no_request() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        requests = WorkRequests(client._transport)
        assert await requests.complete([]) == []
        assert await requests.heartbeat([]) == []


async def test_heartbeats_return_cancellations() -> None:
    item = {"id": str(JOB_ID), "lease_expires_at": "2026-01-01T00:00:00Z", "cancel_requested": True}
    async with scripted_gateway(returns({"results": [item]})) as server, Client(server.url) as client:
        (result,) = await WorkRequests(client._transport).heartbeat([JobHeartbeat(id=JOB_ID, epoch=5)])
    assert getattr(result, "cancel_requested", None) is True


async def test_an_invalid_id_never_becomes_part_of_a_url() -> None:
    async with Client() as client:
        with pytest.raises(ValueError, match="hexadecimal"):
            await client.get("../stats")


async def test_a_broken_event_stream_is_resumed_after_the_last_event() -> None:
    first = streams(("1-1-1", "job.created"), ("1-2-1", "job.started"), breaks=True)
    async with (
        scripted_gateway(first, cuts, streams(("1-3-1", "job.completed"))) as server,
        Client(server.url) as client,
    ):
        received = [event async for event in client.events(JOB_ID)]
    assert [event.type for event in received] == ["job.created", "job.started", "job.completed"]
    assert {event.job_id for event in received} == {JOB_ID}
    assert [headers.get("Last-Event-ID") for _, _, _, headers in server.requests] == [None, "1-2-1", "1-2-1"]


async def test_a_stream_that_a_gateway_ends_early_is_resumed() -> None:
    early = streams(("1-1-1", "job.created"))
    async with scripted_gateway(early, streams(("1-2-1", "job.cancelled"))) as server, Client(server.url) as client:
        assert [event.id async for event in client.events(JOB_ID)] == ["1-1-1", "1-2-1"]


async def test_the_stream_of_a_finished_job_ends() -> None:
    async def over(_request: web.Request) -> web.Response:
        return web.Response(status=204)

    async with scripted_gateway(over, returns(JOB)) as server, Client(server.url) as client:
        assert [event async for event in client.events(JOB_ID, after="1-9-1")] == []


async def test_a_stream_that_breaks_before_its_first_event_is_resumed_at_its_start() -> None:
    async def begins(_request: web.Request) -> web.Response:
        return web.Response(body=b"id: 7-1-1\n\nid: 8-1-1\n", content_type="text/event-stream")  # the second is cut off

    async with scripted_gateway(begins, streams(("8-1-1", "job.completed"))) as server, Client(server.url) as client:
        assert (await anext(client.events())).id == "8-1-1"
    assert server.requests[1][3].get("Last-Event-ID") == "7-1-1"


async def test_a_reset_is_an_error_that_names_where_to_resume() -> None:
    async def resets(_request: web.Request) -> web.Response:
        data = {"id": "0-0-0", "type": "reset", "data": {"reason": "ahead", "after": "9-1-1"}}
        body = b"id: 0-0-0\nevent: reset\ndata: %b\n\n" % msgspec.json.encode(data)
        return web.Response(body=body, content_type="text/event-stream")

    async with scripted_gateway(resets) as server, Client(server.url) as client:
        with pytest.raises(EventsLost, match="after 9-1-1 are not available") as caught:
            await anext(client.events(JOB_ID, after="9-1-1"))
    assert (caught.value.reason, caught.value.after, caught.value.resume_after) == ("ahead", "9-1-1", "0-0-0")


async def test_events_of_an_unknown_job_are_an_error() -> None:
    async with (
        scripted_gateway(raises(errors.NotFound("there is no such job"))) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(errors.NotFound):
            await anext(client.events(JOB_ID))


class Desk:
    """A gateway with a pile of jobs for one worker, which records the worker's reports."""

    def __init__(self, jobs: Sequence[dict[str, Any]]) -> None:
        self.pile = list(jobs)
        self.completed: dict[int, Any] = {}
        self.failed: dict[int, Any] = {}
        self.reported = asyncio.Event()
        self.cancel_all = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        match request.path.rpartition("/")[2]:
            case "claim":
                if not self.pile:
                    await asyncio.Event().wait()
                taken, self.pile = self.pile[: body["limit"]], self.pile[body["limit"] :]
                return web.json_response({"jobs": taken})
            case "complete" if "jobs" in body:
                self.completed |= {item["epoch"]: item["result"] for item in body["jobs"]}
                items = [{"id": item["id"], "status": "completed"} for item in body["jobs"]]
                return self._accept({"results": items})
            case "complete":
                self.completed[body["epoch"]] = body["result"]
                return self._accept({"id": str(JOB_ID), "status": "completed"})
            case "fail":
                self.failed[body["epoch"]] = body
                return self._accept({"id": str(JOB_ID), "status": "failed"})
            case _:
                end = "2027-01-01T00:00:00Z"
                items = [
                    {"id": item["id"], "lease_expires_at": end, "cancel_requested": self.cancel_all}
                    for item in body["jobs"]
                ]
                return web.json_response({"results": items})

    def _accept(self, content: object) -> web.Response:
        self.reported.set()
        return web.json_response(content)


def claimed(epoch: int, **fields: Any) -> dict[str, Any]:
    return CLAIMED | {"epoch": epoch, "input": {"n": epoch}} | fields


@asynccontextmanager
async def running_worker(desk: Desk, handler: Any, **options: Any) -> AsyncIterator[asyncio.Event]:
    """Run a worker over HTTP for that desk; stop it at the end."""
    stop = asyncio.Event()
    async with scripted_gateway(desk.handle) as server, Client(server.url) as client:
        task = asyncio.create_task(client.work(handler, stop=stop, **({"limit": 4} | options)))
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


async def test_work_runs_jobs_and_reports_results_and_failures() -> None:
    async def handler(job: penstock.ClaimedJob, _context: penstock.JobContext) -> object:
        if job.epoch == 2:
            raise penstock.ExecutionError("rate_limited", "later", retry_after=timedelta(seconds=9))
        return {"epoch": job.epoch}

    desk = Desk([claimed(epoch) for epoch in range(1, 11)])
    async with running_worker(desk, handler):
        while len(desk.completed) + len(desk.failed) < 10:
            await asyncio.wait_for(desk.reported.wait(), 10)
            desk.reported.clear()
    assert desk.completed == {epoch: {"epoch": epoch} for epoch in range(1, 11) if epoch != 2}
    assert desk.failed[2]["category"] == "rate_limited"
    assert desk.failed[2]["retry_after_seconds"] == 9


async def test_work_interrupts_a_cancelled_job() -> None:
    interrupted = asyncio.Event()

    async def handler(_job: penstock.ClaimedJob, context: penstock.JobContext) -> object:
        context.progress({"fraction": 0.5})  # brings a heartbeat at once
        try:
            return await asyncio.Event().wait()
        finally:
            interrupted.set()

    desk = Desk([claimed(1)])
    desk.cancel_all = True
    async with running_worker(desk, handler):
        await asyncio.wait_for(desk.reported.wait(), 10)
    assert interrupted.is_set()
    assert desk.failed[1]["category"] == "cancelled"


async def test_work_hands_back_what_runs_when_it_is_stopped() -> None:
    begun = asyncio.Event()

    async def handler(_job: penstock.ClaimedJob, _context: penstock.JobContext) -> object:
        begun.set()
        return await asyncio.Event().wait()

    desk = Desk([claimed(1)])
    async with running_worker(desk, handler, grace=timedelta(0)):
        await asyncio.wait_for(begun.wait(), 10)
    assert desk.failed[1]["category"] == "shutdown"


async def test_work_ends_with_the_error_when_the_token_is_wrong() -> None:
    async def handler(_job: penstock.ClaimedJob, _context: penstock.JobContext) -> object:
        return None

    async with scripted_gateway(raises(errors.Unauthorized())) as server, Client(server.url) as client:
        with pytest.raises(errors.Unauthorized):
            await asyncio.wait_for(client.work(handler, stop=asyncio.Event()), 10)


async def test_the_blocking_client_does_the_same_without_an_event_loop() -> None:
    def use(url: str) -> None:
        with BlockingClient(url) as client:
            assert client.submit("echo", "small").id == JOB_ID
            assert client.get(JOB_ID).status is Status.COMPLETED
            assert [event.type for event in client.events(JOB_ID)] == ["job.created", "job.completed"]
            with pytest.raises(errors.NotFound):
                client.fail(JOB_ID, 1, "no", category="internal")
        client.close()

    story = streams(("1-1-1", "job.created"), ("1-2-1", "job.completed"))
    async with scripted_gateway(returns(JOB, 201), returns(JOB), story, raises(errors.NotFound())) as server:
        await asyncio.to_thread(use, server.url)


async def test_importing_penstock_is_cheap() -> None:
    check = "import sys, penstock; sys.exit('aiohttp' in sys.modules or 'asyncpg' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check)
    assert await process.wait() == 0


def test_every_public_name_can_be_imported() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = penstock.nothing_like_this
