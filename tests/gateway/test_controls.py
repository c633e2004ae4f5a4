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


async def test_a_rule_for_keys_is_set_shown_and_removed(caller: HttpCaller) -> None:
    queue = {**QUEUE, "task_type": "keyed"}
    rule = {"max_running": 1, "exceptions": {"big customer": 2}}
    reply = await caller.call("PUT", "/queues/key-rule", {**queue, "rule": rule})
    assert reply.status == 200
    (listed,) = [one for one in reply.json["queues"] if one["task_type"] == "keyed"]
    assert (listed["key_rule"], listed["shared_key_limit"]) == (rule, None)
    for _ in range(2):
        job = await caller.submit(task_type="keyed", concurrency_key="a")
        assert job["concurrency_key"] == "a"
    running = await caller.claim(task_types=["keyed"], limit=5, wait_seconds=5)
    assert len(running) == 1
    for _ in range(3):
        await caller.submit(task_type="keyed", concurrency_key="big customer")
    listed = (await caller.get("/jobs?concurrency_key=big%20customer&status=pending")).json["jobs"]
    assert len(listed) == 3
    reply = await caller.call("PUT", "/queues/key-rule", {**queue, "rule": None})
    (listed,) = [one for one in reply.json["queues"] if one["task_type"] == "keyed"]
    assert listed["key_rule"] is None
    running += await caller.claim(task_types=["keyed"], limit=5)
    assert len(running) == 5
    for one in running:
        assert (await caller.post(f"/jobs/{one['id']}/complete", {"epoch": one["epoch"]})).status == 200


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
        ("/queues/key-rule", QUEUE, "rule"),
        ("/queues/key-rule", {**QUEUE, "rule": {"max_running": 0}}, "rule.max_running"),
        ("/queues/key-rule", {**QUEUE, "rule": {"max_running": 1, "exceptions": {"": 1}}}, "rule.exceptions"),
        ("/queues/key-rule", {**QUEUE, "rule": {"max_running": 1, "exceptions": {"a": 0}}}, "rule.exceptions[]"),
        ("/tenants/default/limits", {"max_running": 0}, "max_running"),
        ("/tenants/default/limits", {"queues": [{**QUEUE, "max_running": 1}] * 2}, "queues[1]"),
    ],
)
async def test_a_mistake_is_named(caller: HttpCaller, path: str, body: dict[str, Any], blamed: str) -> None:
    method = "PUT" if path.startswith(("/tenants", "/queues/key-rule")) else "POST"
    reply = await caller.call(method, path, body)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [blamed])


async def test_why_a_job_waits_is_returned(caller: HttpCaller) -> None:
    job = await caller.submit(task_type="unserved")
    reply = await caller.get(f"/jobs/{job['id']}/why")
    assert (reply.status, reply.json["position"], reply.json["reasons"][0]["code"]) == (200, 1, "no_worker")
    predict = await caller.submit(task_type="predict", model_profile="absent")
    reply = await caller.get(f"/jobs/{predict['id']}/why")
    assert [reason["code"] for reason in reply.json["reasons"]] == ["no_worker", "model_not_loaded"]
    assert "no model absent" in reply.json["reasons"][1]["detail"]
    assert (await caller.get("/jobs/01a1fbba-bf9b-70c9-b890-daafa0bbb9de/why")).outcome == (404, "not_found")
