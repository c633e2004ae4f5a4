"""Endpoints about the service itself, and rules for all endpoints."""

from __future__ import annotations

import re

import msgspec
import pytest

from penstock.gateway import job_metrics
from penstock.jobs.statistics import QueueState
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.telemetry import logs, metrics
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway


async def test_health_and_readiness(caller: HttpCaller) -> None:
    assert (await caller.get("/healthz")).json == {"status": "ok"}
    assert (await caller.get("/readyz")).json == {"status": "ready", "files": "available"}


async def test_metrics_cover_requests_batches_and_queues(caller: HttpCaller) -> None:
    await caller.submit(task_type="measured")
    await caller.get("/nowhere")
    await caller.call("DELETE", "/jobs")
    reply = await caller.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = reply.body.decode().splitlines()
    assert {
        'penstock_http_responses_total{method="POST",path="/api/v1/jobs",status="201"}',
        'penstock_http_responses_total{method="any",path="none",status="404"}',
        'penstock_http_responses_total{method="other",path="/api/v1/jobs",status="405"}',
    } <= {line.rpartition(" ")[0] for line in lines}
    assert 'penstock_jobs{model_profile="small",status="pending",task_type="measured",tenant="default"} 1.0' in lines
    assert any(line.startswith("penstock_http_seconds_bucket") for line in lines)
    assert any(line.startswith("# TYPE penstock_group_commit_jobs histogram") for line in lines)
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", reply.body.decode())  # no ids in labels


async def test_metrics_name_the_tenants_of_jobs(database_url: str) -> None:
    async with running_gateway(database_url) as caller:
        await caller.post("/tenants", {"name": "acme"})
        for tenant in ("acme", "default"):
            headers = {"Penstock-Tenant": tenant}
            assert (await caller.call("POST", "/jobs", SUBMISSION, headers=headers)).status == 201
        lines = (await caller.get("/metrics")).body.decode().splitlines()
    for tenant in ("acme", "default"):
        labels = f'{{model_profile="small",status="pending",task_type="echo",tenant="{tenant}"}}'
        assert f"penstock_jobs{labels} 1.0" in lines


def _series(name: str) -> dict[tuple[str, ...], float]:
    text = metrics.exposition().decode()
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {tuple(re.findall(r'="([^"]*)"', labels)): float(value) for labels, value in found}


def test_metrics_have_few_tenants_and_queues_whatever_their_number() -> None:
    queues = [
        QueueState(tenant=f"t{number // 20}", task_type="echo", model_profile=f"q{number}", pending=1 + number % 2)
        for number in range(4000)
    ]
    job_metrics.measure(queues)
    jobs = _series("penstock_jobs")
    assert sum(jobs.values()) == sum(queue.pending for queue in queues), "nothing is left out"
    tenants = {labels[-1] for labels in jobs}
    assert len(tenants) == metrics.MAX_TENANTS + 1
    assert "other" in tenants
    assert len(jobs) <= 6 * (1000 + metrics.MAX_TENANTS + 1)
    job_metrics.measure(queues[:1])
    assert len(_series("penstock_jobs")) == 6, "queues that are gone are forgotten"


def test_a_label_has_few_values() -> None:
    values = metrics.FewValues(2)
    assert [values.of(name) for name in ("a", "b", "c", "a", "c")] == ["a", "b", "other", "a", "other"]


async def test_infra_status_reports_that_nothing_is_configured(caller: HttpCaller) -> None:
    assert (await caller.get("/infra/status")).json == {"configured": False, "sidecars": []}


async def test_the_documentation_works_without_other_hosts(caller: HttpCaller) -> None:
    home = await caller.get("/")
    assert (home.status, home.headers["location"]) == (307, "/docs")
    page = await caller.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "'self'" in page.headers["content-security-policy"]
    references = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    local = [reference for reference in references if not reference.startswith("data:")]
    assert len(local) == 3
    for reference in local:
        reply = await caller.get(reference)
        assert reply.status == 200
        assert len(reply.body) > 100
        assert reply.headers["content-type"].partition(";")[0] in {"text/css", "text/javascript"}


async def test_unknown_paths_are_404_and_other_methods_405(caller: HttpCaller) -> None:
    for path in ("/nowhere", "/api/v1/nowhere", "/api/v1/jobs/", "/api/v2/jobs", "/docs/../etc/passwd", "/docs/x.js"):
        assert (await caller.get(path)).outcome == (404, "not_found"), path
    reply = await caller.call("DELETE", "/jobs")
    assert reply.outcome == (405, "method_not_allowed")
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
    assert (await caller.get("/jobs/claim")).outcome == (405, "method_not_allowed")
    options = await caller.call("OPTIONS", "/jobs/claim")
    assert (options.status, options.headers["allow"]) == (204, "POST, OPTIONS")
    assert (await caller.call("BREW", "/jobs")).status in {400, 405}


async def test_head_returns_the_head_of_get(caller: HttpCaller) -> None:
    job = await caller.submit()
    for path in ("/jobs", f"/jobs/{job['id']}", "/healthz", "/openapi.json", "/events"):
        head = await caller.call("HEAD", path)
        assert (head.status, head.body) == (200, b"")
    assert (await caller.call("HEAD", "/jobs?colour=red")).status == 422


@pytest.mark.parametrize("path", ["/stats", "/healthz", "/readyz", "/metrics", "/providers/status", "/infra/status"])
async def test_unknown_parameters_are_refused(caller: HttpCaller, path: str) -> None:
    reply = await caller.get(f"{path}?colour=red")
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["colour"])


async def test_the_request_id_is_returned(caller: HttpCaller) -> None:
    assert (await caller.get("/healthz", X_Request_ID="abc-123")).headers["x-request-id"] == "abc-123"
    assert (await caller.get("/nowhere", X_Request_ID="abc-123")).headers["x-request-id"] == "abc-123"
    assert "x-request-id" not in (await caller.get("/healthz")).headers


async def test_an_unexpected_error_is_500_without_detail_and_is_logged(
    caller: HttpCaller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the vault's code is 1234")

    monkeypatch.setattr(TenantJobs, "stats", fail)
    logs.configure(level="warning", form="json")
    reply = await caller.get("/stats", X_Request_ID="abc-123")
    assert reply.outcome == (500, "internal")
    assert b"1234" not in reply.body
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "request_failed" in line]
    entry = msgspec.json.decode(line)
    assert (entry["route"], entry["request_id"]) == ("getStats", "abc-123")
    assert "the vault's code is 1234" in entry["exception"]


async def test_requests_are_logged_at_level_debug(module_database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="debug", form="json")
    try:
        async with running_gateway(module_database_url, penstock_log_level="debug") as caller:
            await caller.get("/jobs/x")
            await caller.post("/tenants", {"name": "logged"})
            await caller.get("/jobs", Penstock_Tenant="logged")
    finally:
        logs.configure(level="warning", form="json")
    lines = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    entry, _, of_tenant = [line for line in lines if line["event"] == "request"]
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/api/v1/jobs/x", 422)
    assert entry["ms"] > 0
    assert "tenant" not in entry
    assert of_tenant["tenant"] == "logged"
