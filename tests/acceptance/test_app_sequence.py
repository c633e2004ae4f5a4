"""The sequence of the document of AI Marketplace, step by step, through public interfaces: tables 2, 3 and 4.

The stores are real: PostgreSQL, RabbitMQ, Redis, and a server of S3.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.app_world import MARKETPLACE_TOKEN, World, downloaded, world
from tests.support.brokers import needs_rabbitmq, needs_redis
from tests.support.waiting import until

pytestmark = [needs_rabbitmq(), needs_redis(), pytest.mark.timeout(300)]

QUEUE = {"task_type": "predict", "model_profile": "audiogen"}


@pytest.mark.usefixtures("prepared_data")
async def test_the_sequence_of_the_document(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        task_id, stage_id = await _a_request_becomes_a_task(around)
        await _the_task_is_performed(around, task_id, stage_id)
        await _its_result_is_read(around, task_id)
        await _the_statistics_are_read(around, task_id)
        await _one_message_each(around, task_id)
        log = around.app.log.read_text()
        assert "Traceback" not in log
        assert MARKETPLACE_TOKEN not in log


async def _a_request_becomes_a_task(around: World) -> tuple[str, str]:
    """Table 2, to 1.6; returns the ids of the request and of the task of its stage."""
    app = around.app
    assert (await app.call("app", "POST", "/api/v1/queues/pause", QUEUE)).status == 200  # to see a task wait
    # 1.1 The client creates a request to the AI service.
    body = {
        "user_id": "ada",
        "input": {"text": "rain on a tin roof", "kind": "sound", "seconds": 2.5},
        "callback": {"url": f"{around.client.url}/mine"},
        "idempotency_key": "order 7",
    }
    # 1.2 The service validates it: mistakes are named with their fields, and create nothing.
    for wrong, field in (
        ({**body, "input": {"kind": "noise"}}, "input.text"),
        ({**body, "user_id": ""}, "user_id"),
        ({**body, "callback": {"url": "ftp://x"}}, "callback.url"),
    ):
        refused = await app.call("app", "POST", "/call", wrong)
        assert refused.status == 422
        assert field in {problem["field"] for problem in refused.json["errors"]}
    assert (await app.get("app", "/api/v1/jobs")).json["jobs"] == []
    # 1.3 It creates a workflow, whose id is the task_id; the same request again is the same workflow.
    accepted = await app.call("app", "POST", "/call", body)
    task_id: str = accepted.json["task_id"]
    assert (await app.call("app", "POST", "/call", body)).json["task_id"] == task_id
    run = (await app.get("app", f"/api/v1/jobs/{task_id}")).json
    assert (run["task_type"], run["model_profile"]) == ("flow", "sounds@1")
    # 1.4 It responds with the status of the request.
    assert accepted.status == 202
    assert accepted.json["status"] in {"pending", "running", "waiting"}

    # 1.5 The workflow sends a request to AudioGen: the stage is there.
    async def requested() -> bool:
        return bool((await around.result(task_id))["stages"])

    await until(requested, "the stage has begun")
    (stage,) = (await around.result(task_id))["stages"]
    assert (stage["name"], stage["status"]) == ("audiogen", "pending")
    # 1.6 AudioGen has created a task and pushed it to the queue.
    (task,) = (await app.get("app", "/api/v1/jobs?task_type=predict&model_profile=audiogen")).json["jobs"]
    waiting = (await app.get("audio-gen", f"/tasks/{task['id']}")).json
    assert (waiting["service"], waiting["status"]) == ("audio-gen", "pending")
    queues = (await app.get("app", "/api/v1/queues")).json["queues"]
    (queue,) = [one for one in queues if one["model_profile"] == "audiogen"]
    assert queue["pending"] == 1
    assert (await app.get("music-gen", f"/tasks/{task['id']}")).status == 404, "it is not a task of the other service"
    return task_id, task["id"]


async def _the_task_is_performed(around: World, task_id: str, stage_id: str) -> None:
    """Table 2, from 1.7."""
    app = around.app
    # 1.7 The AudioGen worker pulls the task and performs it.
    assert (await app.call("app", "POST", "/api/v1/queues/resume", QUEUE)).status == 200
    done = (await app.get("audio-gen", f"/tasks/{stage_id}?wait=60")).json
    assert (done["status"], done["user_id"]) == ("completed", "ada")
    assert (await app.get("app", f"/api/v1/jobs/{stage_id}")).json["attempt"] == 1

    # 1.8 The end of the task calls the workflow back, which continues.
    async def ended() -> bool:
        return bool((await around.result(task_id))["status"] == "completed")

    await until(ended, "the workflow has ended")
    # 1.9 The media file is stored on S3, under the task and the attempt that made it.
    assert len([key for key in await around.objects() if stage_id in key]) == 1
    # 1.10 The temporary result is stored on Redis, and expires.
    assert 0 < await around.kept_for(stage_id) <= 3600
    # 1.11 The final result is aggregated: of the request and of the stage's result.
    final = await around.result(task_id)
    assert (final["result"]["kind"], final["result"]["seconds"]) == ("sound", 2.5)
    assert final["stages"][0]["status"] == "completed"
    assert len(final["media"]) == 1
    # 1.12 The final result is stored on Redis, and expires. What has expired is read from the database.
    assert 0 < await around.kept_for(task_id) <= 3600
    await around.redis.flushall()
    assert (await around.result(task_id))["result"]["kind"] == "sound"
    # 1.13 The information about the request is stored in the database: see the statistics in table 4.
    stored = (await app.get("app", f"/api/v1/jobs/{task_id}")).json
    assert (stored["user_id"], stored["owner_service"]) == ("ada", "app/sounds")
    # 1.14 The callback of the client is executed, and that of the marketplace, with its token.
    (own,) = await around.client.got(1)
    assert (own.path, own.event["type"], own.event["subject"]) == ("/mine", "job.completed", task_id)
    assert "authorization" not in own.headers
    (message,) = await around.marketplace.got(1)
    assert message.headers["authorization"] == f"Bearer {MARKETPLACE_TOKEN}"
    sent = message.event
    assert (sent["task_id"], sent["app"], sent["user_id"], sent["status"]) == (task_id, "sounds", "ada", "completed")
    assert sent["finished_at"] == final["finished_at"]
    assert sent["result"]["seconds"] == 2.5
    assert (sent["price_unit"], sent["units"]) == ("second", 2.5)
    assert (sent["usage"]["attempts"], sent["usage"]["calls"], sent["usage"]["failures"]) == (1, 1, 0)
    assert sent["usage"]["model_seconds"] > 0
    assert await downloaded(sent["media"][0]["url"]) == await downloaded(final["media"][0]["url"])


async def _its_result_is_read(around: World, task_id: str) -> None:
    """Table 3."""
    app = around.app
    # 2.1 The client creates a request to get the result based on task_id, 2.2 which the service validates.
    assert (await app.get("app", "/result/no-uuid")).status == 422
    assert (await app.get("app", f"/result/{uuid4()}")).status == 404
    assert (await app.get("app", f"/result/{task_id}?stages=0")).status == 422
    # 2.3 The workflow is retrieved by its id.
    reply = await app.get("app", f"/result/{task_id}")
    assert (reply.json["task_id"], reply.json["user_id"]) == (task_id, "ada")
    # 2.4 The URL of the file is one of S3, presigned.
    (media,) = reply.json["media"]
    assert media["url"].startswith(around.bucket.address)
    assert "X-Amz-Signature=" in media["url"]
    # 2.5 The result is returned to the client, who downloads the file without a key.
    assert reply.status == 200
    assert reply.json["result"]["audio"] == media["url"]
    assert (await downloaded(media["url"])).startswith(b"sound of rain on a tin roof\n")


async def _the_statistics_are_read(around: World, task_id: str) -> None:
    """Table 4."""
    app = around.app
    today = datetime.now(UTC).date()
    days = f"from={today - timedelta(days=1)}&to={today + timedelta(days=2)}"
    # 3.1 The client creates a request to get statistical information, 3.2 which the service validates.
    for wrong, field in (("from=yesterday", "from"), (f"from={today}&to={today}", "to"), ("user_id=", "user_id")):
        refused = await app.get("app", f"/stats?{wrong}")
        assert refused.status == 422
        assert field in {problem["field"] for problem in refused.json["errors"]}

    # 3.3 The data is queried in the database: the results by user_id.
    async def recorded() -> bool:
        return bool((await app.get("app", f"/stats?user_id=ada&{days}")).json["completed"] == 1)

    await until(recorded, "the request is recorded")
    of_ada = await app.get("app", f"/stats?user_id=ada&{days}&results=true")
    (past,) = of_ada.json["results"]["requests"]
    assert (past["task_id"], past["status"], past["units"]) == (task_id, "completed", 2.5)
    assert past["usage"]["calls"] == 1
    assert (await app.get("app", f"/stats?user_id=bob&{days}")).json["requests"] == 0
    # 3.4 The result is returned to the client: counts, times, usage and price, and the same by day.
    assert of_ada.status == 200
    assert (of_ada.json["requests"], of_ada.json["failed"], of_ada.json["units"]) == (1, 0, 2.5)
    assert of_ada.json["price_unit"] == "second"
    assert [day["completed"] for day in of_ada.json["days"]] == [1]


async def _one_message_each(around: World, task_id: str) -> None:
    """Another request ends later, and the first has still been sent once."""
    body = {"user_id": "bob", "input": {"text": "a waltz", "kind": "music"}}
    second = await around.app.call("app", "POST", "/call", body, headers={"Prefer": "wait=60"})
    assert (second.status, second.json["status"]) == (200, "completed")
    messages = await around.marketplace.got(2)
    assert [one.event["task_id"] for one in messages] == [task_id, second.json["task_id"]]
    assert len(around.client.messages) == 1
