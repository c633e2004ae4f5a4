"""Server-sent events of one job or of all: resumable anywhere, on any gateway."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from penstock.web.limits import Limits
from tests.support.event_streams import stream
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until


async def test_a_jobs_stream_delivers_its_whole_life_and_ends(caller: HttpCaller) -> None:
    job = await caller.submit(task_type="whole-life")
    async with stream(caller, f"/jobs/{job['id']}/events") as events:
        created = await events.next()
        assert created is not None
        assert created.type == "job.created"
        assert created.cloud["data"]["task_type"] == "whole-life"
        assert created.cloud | {"data": None} == {
            "specversion": "1.0",
            "id": created.id,
            "source": "/api/v1/jobs",
            "type": "job.created",
            "subject": job["id"],
            "time": created.cloud["time"],
            "datacontenttype": "application/json",
            "data": None,
        }
        (claimed,) = await caller.claim(task_types=["whole-life"])
        beat = {"epoch": claimed["epoch"], "progress": {"text": "half\nway"}}
        await caller.post(f"/jobs/{job['id']}/heartbeat", beat)
        await caller.post(f"/jobs/{job['id']}/complete", {"epoch": claimed["epoch"], "result": 1})
        rest = await events.rest()
        assert [event.type for event in rest] == ["job.started", "job.progress", "job.completed"]
        assert rest[1].cloud["data"]["progress"] == {"text": "half\nway"}
        headers = events.response.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "no-cache" in headers["cache-control"]
        assert headers["x-accel-buffering"] == "no"


async def test_a_reader_resumes_after_the_last_event_it_saw_on_any_gateway(
    caller: HttpCaller, module_database_url: str
) -> None:
    job = await caller.finished(task_type="resumed")
    async with stream(caller, f"/jobs/{job['id']}/events") as events:
        received = await events.rest()
    assert [event.type for event in received] == ["job.created", "job.started", "job.completed"]
    path = f"/jobs/{job['id']}/events"
    async with running_gateway(module_database_url) as other:
        for seen in range(len(received) - 1):
            async with stream(other, path, **{"Last-Event-ID": received[seen].id}) as events:
                assert await events.rest() == received[seen + 1 :]
            async with stream(other, f"{path}?after={received[seen].id}") as events:
                assert await events.rest() == received[seen + 1 :]
    over = await caller.get(path, Last_Event_ID=received[-1].id)
    assert (over.status, over.body) == (204, b"")  # EventSource does not reconnect after that


async def test_the_stream_of_all_jobs_begins_now_or_after_an_event(caller: HttpCaller) -> None:
    before = await caller.finished(task_type="all-events")
    async with stream(caller, "/events") as events:
        first = await caller.submit(task_type="all-events")
        second = await caller.submit(task_type="all-events")
        received = [await events.next(), await events.next()]
    assert [event.cloud["subject"] for event in received if event] == [first["id"], second["id"]]
    async with stream(caller, f"/jobs/{before['id']}/events") as events:
        created = await events.next()
    assert created is not None
    async with stream(caller, "/events", **{"Last-Event-ID": created.id}) as events:
        resumed = [await events.next() for _ in range(4)]
    assert [(event.type, event.cloud["subject"]) for event in resumed if event] == [
        ("job.started", before["id"]),
        ("job.completed", before["id"]),
        ("job.created", first["id"]),
        ("job.created", second["id"]),
    ]


async def test_events_of_one_batch_can_be_resumed_in_its_middle(caller: HttpCaller) -> None:
    shared = {"owner_service": "tests", "task_type": "batch-events", "model_profile": "m"}
    async with stream(caller, "/events") as events:
        reply = await caller.post("/jobs/batch", {"defaults": shared, "jobs": [{}] * 5})
        ids = [job["id"] for job in reply.json["jobs"]]
        received = [event for _ in range(5) if (event := await events.next())]
    assert sorted(event.cloud["subject"] for event in received) == sorted(ids)
    async with stream(caller, "/events", **{"Last-Event-ID": received[1].id}) as events:
        assert [await events.next() for _ in range(3)] == received[2:]


@pytest.mark.parametrize("after", ["x", "1", "1-2", "1-2-3-4", "-1-2-3", "1-2-99999999999999999999", "１-1-1"])
async def test_an_invalid_event_id_is_refused(caller: HttpCaller, after: str) -> None:
    for path in ("/events", f"/jobs/{(await caller.submit())['id']}/events"):
        refused = await caller.get(f"{path}?after={after}")
        assert (refused.outcome, refused.fields) == ((422, "invalid_input"), ["after"])
        both = await caller.get(f"{path}?after={after}", Last_Event_ID="1-1-1")
        assert both.outcome == (422, "invalid_input")


async def test_a_stream_begins_with_the_id_to_resume_after(caller: HttpCaller) -> None:
    """A reader whose connection breaks before the first event misses nothing when it reconnects."""
    async with stream(caller, "/events") as events:
        while not (line := (await events.response.content.readline()).decode()).startswith("id: "):
            pass
    start = line.removeprefix("id: ").strip()
    job = await caller.submit(task_type="meanwhile")
    async with stream(caller, "/events", **{"Last-Event-ID": start}) as events:
        event = await events.next()
    assert event is not None
    assert event.cloud["subject"] == job["id"]


async def test_a_reader_ahead_of_the_store_gets_a_reset_and_then_all_events(caller: HttpCaller) -> None:
    job = await caller.finished(task_type="behind")
    async with stream(caller, "/events", **{"Last-Event-ID": "999999999-1-7"}) as events:
        reset = await events.next()
        assert reset is not None
        assert (reset.type, reset.cloud["data"]) == ("reset", {"reason": "ahead", "after": "999999999-1-7"})
        following = await caller.submit(task_type="behind")
        event = await events.next()
        assert event is not None
        assert event.cloud["subject"] == following["id"]
    async with stream(caller, f"/jobs/{job['id']}/events", **{"Last-Event-ID": "999999999-1-7"}) as events:
        received = await events.rest()
    assert [event.type for event in received] == ["reset", "job.created", "job.started", "job.completed"]
    assert received[0].cloud["subject"] == job["id"]
    async with stream(caller, f"/jobs/{job['id']}/events", **{"Last-Event-ID": received[0].id}) as events:
        assert await events.rest() == received[1:]


async def test_an_idle_stream_sends_comments(module_database_url: str) -> None:
    limits = Limits(ping=timedelta(milliseconds=10))
    async with running_gateway(module_database_url, limits=limits) as caller, stream(caller, "/events") as events:
        waiting = asyncio.create_task(events.next())
        await until(lambda: events.comments > 2, "comments come")
        await caller.submit()
        event = await waiting
    assert event is not None
    assert event.type == "job.created"


async def test_a_reader_that_leaves_is_forgotten(caller: HttpCaller) -> None:
    async with stream(caller, "/events"):
        await until(lambda: "/api/v1/events" in caller.in_progress, "the stream is open")
    await until(lambda: "/api/v1/events" not in caller.in_progress, "the stream is closed")


async def test_stopping_ends_streams_and_waiting_requests_at_once(module_database_url: str) -> None:
    async with running_gateway(module_database_url) as caller:
        job = await caller.submit(task_type="stopping")
        waiting = asyncio.create_task(caller.get(f"/jobs/{job['id']}?wait=60"))
        preferring = asyncio.create_task(
            caller.post("/jobs", {"owner_service": "t", "task_type": "t", "model_profile": "t"}, Prefer="wait=60")
        )
        claiming = asyncio.create_task(caller.claim(task_types=["nothing-of-it"], wait_seconds=60))
        async with stream(caller, "/events") as events:
            await until(lambda: len(caller.in_progress) == 4, "all wait")
            caller.gateway.stopping.set()
            assert [event.type for event in await events.rest()] in ([], ["job.created"])
        assert (await waiting).json["status"] == "pending"
        assert (await preferring).status == 202
        assert await claiming == []
