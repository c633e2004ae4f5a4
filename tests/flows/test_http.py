"""Flows over HTTP: start runs, read their trees, signal, cancel and release them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.flows import attention
from penstock.jobs.service import JobService
from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.tenants import scopes
from tests.support.databases import execute
from tests.support.flow_runners import Running, running
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

FLOWS = '''
from penstock.flows import flow, run

@flow(name="greeting", version="1")
async def greeting(name: str, times: int = 1) -> list[str]:
    """Greets several times."""
    return [await run.call("echo", f"hello {name}") for _ in range(times)]

@flow(name="greeting", version="2")
async def greeting_again(name: str) -> str:
    return await run.side_effect(lambda: f"hi {name}")

@flow(name="approval", version="1")
async def approval() -> dict:
    answer = await run.wait_signal("answer")
    return {"answer": answer}

@flow(name="fails", version="1")
async def fails() -> None:
    await run.call("echo", {"fail": True})
'''


@pytest.fixture(scope="module")
async def gateway(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with running_gateway(module_database_url) as caller:
        yield caller


@pytest.fixture
async def runner(
    gateway: HttpCaller, service: JobService, database: Database, tmp_path: Path
) -> AsyncIterator[Running]:
    (tmp_path / "flows.py").write_text(FLOWS)
    async with running(service, database, tmp_path, linger=0.1) as running_now:
        await until(lambda: published(gateway), "the flows are published")
        yield running_now


async def published(gateway: HttpCaller) -> bool:
    return any(flow["alive"] for flow in (await gateway.get("/flows")).json["flows"])


async def waiting(gateway: HttpCaller, run_id: str) -> None:
    async def waits() -> bool:
        return bool((await gateway.get(f"/flows/runs/{run_id}")).json["run"]["status"] == "waiting")

    await until(waits, "the run waits")


async def start(gateway: HttpCaller, name: str, value: Any = None, **fields: Any) -> Any:
    reply = await gateway.post(f"/flows/{name}", {"input": value or {}} | fields, Prefer="wait=30")
    assert reply.status == 201, reply.body
    return reply.json


async def test_a_run_gives_its_result(gateway: HttpCaller, runner: Running) -> None:
    run = await start(gateway, "greeting", {"name": "Ada", "times": 2}, version="1")
    assert run["status"] == "completed"
    assert run["result"] == ["hello Ada", "hello Ada"]

    tree = (await gateway.get(f"/flows/runs/{run['id']}?limit=1")).json
    (step,) = tree["steps"]
    assert (step["key"], step["kind"], step["status"], step["attempt"]) == ("echo#1", "call", "completed", 1)
    assert step["finished_at"] >= step["started_at"] >= step["issued_at"]
    assert tree["next_step"] == 1
    rest = (await gateway.get(f"/flows/runs/{run['id']}?from=1")).json
    assert [step["no"] for step in rest["steps"]] == [1]
    assert rest["next_step"] is None


async def test_flows_are_listed_with_their_schemas(gateway: HttpCaller, runner: Running) -> None:
    found = (await gateway.get("/flows")).json
    (one,) = [flow for flow in found["flows"] if (flow["name"], flow["version"]) == ("greeting", "1")]
    assert one["description"] == "Greets several times."
    assert one["input_schema"]["required"] == ["name"]
    assert found["stranded"] == []


async def test_a_wrong_input_is_refused_by_the_flow_s_schema(gateway: HttpCaller, runner: Running) -> None:
    reply = await gateway.post("/flows/greeting", {"input": {"name": 1}, "version": "1"})
    assert reply.status == 422
    assert reply.fields == ["input.name"]


@pytest.mark.parametrize("name", ["nothing", "%00", "a b"])
async def test_an_unknown_flow_is_not_found(gateway: HttpCaller, runner: Running, name: str) -> None:
    reply = await gateway.post(f"/flows/{name}", {"input": {}})
    assert reply.status in {400, 404}


async def test_an_idempotent_request_starts_one_run(gateway: HttpCaller, runner: Running) -> None:
    first = await gateway.post("/flows/greeting", {"input": {"name": "Ada"}}, Idempotency_Key="once")
    second = await gateway.post("/flows/greeting", {"input": {"name": "Ada"}}, Idempotency_Key="once")
    assert (first.status, second.status) == (201, 200)
    assert first.json["id"] == second.json["id"]
    assert first.headers["location"] == f"/api/v1/flows/runs/{first.json['id']}"


async def test_a_signal_comes_once_for_its_key_and_not_after_the_end(gateway: HttpCaller, runner: Running) -> None:
    run_id = (await gateway.post("/flows/approval", {"input": {}})).json["id"]
    await waiting(gateway, run_id)
    path = f"/flows/runs/{run_id}/signal/answer"

    first = await gateway.post(path, {"yes": True}, Idempotency_Key="a")
    assert (first.status, first.json) == (200, {"id": 1, "repeated": False})
    ended = await gateway.get(f"/jobs/{run_id}?wait=30")
    assert ended.json["result"] == {"answer": {"yes": True}}
    late = await gateway.post(path, {"yes": False})
    assert late.outcome == (409, "wrong_state")
    assert (await gateway.post(path, {"yes": True}, Idempotency_Key="a")).json == {"id": 1, "repeated": True}


async def test_a_waiting_run_is_cancelled(gateway: HttpCaller, runner: Running) -> None:
    run_id = (await gateway.post("/flows/approval", {"input": {}})).json["id"]
    await waiting(gateway, run_id)
    assert (await gateway.post(f"/flows/runs/{run_id}/cancel")).json["cancel_requested_at"] is not None
    assert (await gateway.get(f"/jobs/{run_id}?wait=30")).json["status"] == "cancelled"


async def test_a_run_is_ended_by_force_in_every_state(gateway: HttpCaller) -> None:
    fields = {"owner_service": "t", "task_type": "flow", "model_profile": "gone@1"}
    run_id = (await gateway.post("/jobs", fields)).json["id"]
    assert (await gateway.get("/flows")).json["stranded"] == [{"name": "gone", "version": "1", "unfinished": 1}]
    listed = (await gateway.get("/flows/runs?stranded=true")).json["runs"]
    assert [run["id"] for run in listed] == [run_id]

    reply = await gateway.post(f"/flows/runs/{run_id}/cancel?force=true")

    assert (reply.status, reply.json["status"]) == (200, "cancelled")
    assert (await gateway.get("/flows")).json["stranded"] == []


async def test_metrics_count_runs_that_no_runner_can_execute(database_url: str) -> None:
    async with running_gateway(database_url) as gateway:
        for _ in range(3):
            await gateway.post("/jobs", {"owner_service": "t", "task_type": "flow", "model_profile": "gone@1"})
        lines = (await gateway.get("/metrics")).body.decode().splitlines()
    assert 'penstock_flow_stranded_runs{flow="gone@1"} 3.0' in lines


async def test_readiness_and_a_route_for_operators_show_runs_that_need_attention(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_REMEMBER_SECONDS", 0.0)
    async with running_gateway(database_url, ai_service_token=Secret("operators-token")) as gateway:
        ready = await gateway.get("/readyz")
        assert (ready.status, "flows" in ready.json) == (200, False)
        run = (await gateway.post("/jobs", {"owner_service": "t", "task_type": "flow", "model_profile": "gone@1"})).json
        ready = await gateway.get("/readyz")
        assert (ready.status, ready.json["status"], ready.json["flows"]) == (200, "ready", "attention")
        found = (await gateway.get("/flows/trouble")).json
        assert found == {"held": [], "stranded": [{"flow": "gone@1", "runs": 1, "reason": ""}]}
        tenants = await gateway.post("/keys", {"name": "of a tenant", "scopes": [scopes.JOBS_READ]})
        key = {"Authorization": f"Bearer {tenants.json['key']}"}
        assert (await gateway.call("GET", "/flows/trouble", headers=key)).status == 403
        await gateway.post(f"/flows/runs/{run['id']}/cancel?force=true")
        assert "flows" not in (await gateway.get("/readyz")).json


async def test_a_run_is_moved_only_to_a_version_that_a_runner_has(gateway: HttpCaller, runner: Running) -> None:
    fields = {"owner_service": "t", "task_type": "flow", "model_profile": "greeting@0", "input": {"name": "Ada"}}
    run_id = (await gateway.post("/jobs", fields)).json["id"]
    path = f"/flows/runs/{run_id}/move"
    assert (await gateway.post(path, {"version": "9"})).outcome == (404, "not_found")
    assert (await gateway.post(path, {"to": "2"})).fields == ["to", "version"]
    assert (await gateway.post(path, {"version": "2"})).json["model_profile"] == "greeting@2"
    ended = (await gateway.get(f"/jobs/{run_id}?wait=30")).json
    assert (ended["status"], ended["result"]) == ("completed", "hi Ada")
    assert (await gateway.post(path, {"version": "2"})).outcome == (409, "wrong_state")
    queues = (await gateway.get("/stats")).json["queues"]
    counts = {queue["model_profile"]: queue["pending"] for queue in queues if queue["task_type"] == "flow"}
    assert (counts["greeting@0"], counts["greeting@2"]) == (0, 0)


async def test_a_history_has_all_that_repeats_a_run(gateway: HttpCaller, runner: Running) -> None:
    run = await start(gateway, "greeting", {"name": "Ada", "times": 2}, version="1")
    stored = (await gateway.get(f"/flows/runs/{run['id']}/history")).json
    assert stored["ended"] is True
    history = stored["history"]
    assert (history["flow"], history["version"], history["input"]) == ("greeting", "1", {"name": "Ada", "times": 2})
    assert [step["key"] for step in history["steps"]] == ["echo#1", "echo#2"]
    assert [mail["value"] for mail in history["mail"]] == ["hello Ada", "hello Ada"]


async def test_runs_are_listed_by_flow_and_state(gateway: HttpCaller, runner: Running) -> None:
    run = await start(gateway, "fails")
    assert run["status"] == "failed"
    found = (await gateway.get("/flows/runs?flow=fails@1&status=failed")).json["runs"]
    assert run["id"] in [one["id"] for one in found]
    assert (await gateway.get("/flows/runs?flow=fails@1&status=completed")).json["runs"] == []
    (step,) = (await gateway.get(f"/flows/runs/{run['id']}")).json["steps"]
    assert (step["status"], step["error"]["category"]) == ("failed", "bad_input")


async def test_no_other_worker_claims_runs(gateway: HttpCaller) -> None:
    fields = {"owner_service": "t", "task_type": "flow", "model_profile": "other@1"}
    await gateway.post("/jobs", fields)
    assert (await gateway.post("/jobs/claim", {"worker_id": "w", "limit": 10})).json["jobs"] == []
    reply = await gateway.post("/jobs/claim", {"worker_id": "w", "task_types": ["flow"]})
    assert (reply.status, reply.fields) == (422, ["task_types"])


async def test_a_run_takes_no_more_signals_than_a_runner_can_load(gateway: HttpCaller, database: Database) -> None:
    run_id = (await gateway.post("/jobs", {"owner_service": "t", "task_type": "flow", "model_profile": "full@1"})).json[
        "id"
    ]
    await execute(database, "UPDATE flow_gate SET arrived = 999 WHERE run_id = $1", run_id)
    path = f"/flows/runs/{run_id}/signal/go"
    assert (await gateway.post(path, 1)).status == 200
    reply = await gateway.post(path, 1)
    assert reply.outcome == (409, "wrong_state")
    assert "unread" in reply.json["detail"]
