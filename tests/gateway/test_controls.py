"""Queues and limits over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.gateways import HttpCaller

QUEUE = {"task_type": "paused", "model_profile": "small"}


async def test_a_queue_is_paused_listed_and_resumed(caller: HttpCaller) -> None:
    job = await caller.submit(task_type="paused")
    reply = await caller.post("/queues/pause", QUEUE)
    assert reply.status == 200
    (listed,) = [one for one in reply.json["queues"] if one["task_type"] == "paused"]
    assert (listed["pending"], listed["running"], listed["paused"], listed["max_running"]) == (1, 0, True, None)
    assert await caller.claim(task_types=["paused"]) == []
    assert (await caller.post("/queues/resume", QUEUE)).status == 200
    assert [one["id"] for one in await caller.claim(task_types=["paused"])] == [job["id"]]
    assert (await caller.post("/queues/resume", QUEUE)).outcome == (404, "not_found")
    (listed,) = [one for one in (await caller.get("/queues")).json["queues"] if one["task_type"] == "paused"]
    assert (listed["running"], listed["paused"]) == (1, False)


async def test_a_tenants_limits_are_set_read_and_kept(caller: HttpCaller) -> None:
    wanted = {"weight": 2.5, "max_running": 3, "queues": [{**QUEUE, "task_type": "limited", "max_running": 1}]}
    reply = await caller.call("PUT", "/tenants/default/limits", wanted)
    assert (reply.status, reply.json) == (200, wanted)
    assert (await caller.get("/tenants/default/limits")).json == wanted
    for _ in range(2):
        await caller.submit(task_type="limited")
    assert len(await caller.claim(task_types=["limited"])) == 1
    assert (await caller.call("PUT", "/tenants/default/limits", {})).json == {
        "weight": 1.0,
        "max_running": None,
        "queues": [],
    }
    assert len(await caller.claim(task_types=["limited"])) == 1
    assert (await caller.get("/tenants/nowhere/limits")).outcome == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "body", "blamed"),
    [
        ("/queues/pause", {"task_type": "x"}, "model_profile"),
        ("/queues/pause", {"task_type": ""}, "task_type"),
        ("/queues/pause", {"queue": "x"}, "queue"),
        ("/tenants/default/limits", {"weight": 0}, "weight"),
        ("/tenants/default/limits", {"max_running": 0}, "max_running"),
        ("/tenants/default/limits", {"queues": [{**QUEUE, "max_running": 1}] * 2}, "queues[1]"),
    ],
)
async def test_a_mistake_is_named(caller: HttpCaller, path: str, body: dict[str, Any], blamed: str) -> None:
    method = "PUT" if path.startswith("/tenants") else "POST"
    reply = await caller.call(method, path, body)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [blamed])


async def test_why_a_job_waits_is_returned(caller: HttpCaller) -> None:
    job = await caller.submit(task_type="unserved")
    reply = await caller.get(f"/jobs/{job['id']}/why")
    assert (reply.status, reply.json["position"], reply.json["reasons"][0]["code"]) == (200, 1, "no_worker")
    assert (await caller.get("/jobs/01a1fbba-bf9b-70c9-b890-daafa0bbb9de/why")).outcome == (404, "not_found")
