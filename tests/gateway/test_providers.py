"""``/providers/status`` and ``/comparisons``: reports about providers, without any secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from msgspec import Raw

from penstock.failures import Category
from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.usage import Usage
from penstock.jobs.work import ClaimRequest, Failure, JobCompletion
from penstock.masking import Secret
from penstock.providers import store
from penstock.providers.reports import LastError, ProviderReport
from penstock.supervisor.ports import free_port
from penstock.tenants.principal import DEFAULT_TENANT
from tests.support.databases import open_database
from tests.support.gateways import running_gateway
from tests.support.http_servers import running


async def test_providers_are_checked_together_and_no_secret_leaks(module_database_url: str) -> None:
    requests: list[tuple[str, str | None]] = []

    async def respond(request: web.Request) -> web.Response:
        requests.append((request.path, request.headers.get("Authorization")))
        if request.path.startswith("/refuses"):
            return web.Response(status=401, text="key-of-qwen is wrong")
        if request.path.startswith("/whisper"):
            return web.Response(status=404)
        return web.json_response({"data": [{"id": "qwen2.5-14b"}, {"id": "other"}], "object": "list"})

    async with (
        running(respond) as address,
        running_gateway(
            module_database_url,
            llm_base_url=f"{address}/v1",
            llm_api_key=Secret("key-of-llm"),
            whisperx_url=f"{address}/whisper",
            qwen_audio_base_url=f"{address}/refuses",
            qwen_audio_api_key=Secret("key-of-qwen"),
            voxtral_base_url=f"http://someone:pass-word@127.0.0.1:{free_port()}/v1",
        ) as caller,
    ):
        reply = await caller.get("/providers/status")
    assert reply.status == 200
    found = {one["name"]: one for one in reply.json["providers"]}
    assert set(found) == {"llm", "whisperx", "qwen2-audio", "voxtral-small"}
    assert (found["llm"]["reachable"], found["llm"]["models"]) == (True, ["qwen2.5-14b", "other"])
    assert found["llm"]["latency_ms"] >= 0
    assert (found["whisperx"]["reachable"], found["whisperx"]["error"]) == (True, None)
    assert (found["qwen2-audio"]["reachable"], found["qwen2-audio"]["error"]) == (
        True,
        "the provider refuses our credentials: check QWEN_AUDIO_API_KEY (401: ****** is wrong)",
    )
    assert (found["voxtral-small"]["reachable"], found["voxtral-small"]["models"]) == (False, [])
    assert ("/v1/models", "Bearer key-of-llm") in requests
    for secret in (b"key-of", b"pass-word", b"someone", address.removeprefix("http://").encode()):
        assert secret not in reply.body


async def test_a_provider_that_does_not_respond_delays_no_other(
    module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.providers.status._SECONDS", 0.05)
    released = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with (
        running(hang) as address,
        running_gateway(module_database_url, llm_base_url=address) as caller,
    ):
        found = (await caller.get("/providers/status")).json["providers"]
        released.set()
    assert found[0]["reachable"] is False
    assert "did not respond within" in found[0]["error"]
    assert [one["configured"] for one in found] == [True, False, False, False]


async def test_a_secret_that_is_echoed_as_a_models_name_is_masked(module_database_url: str) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": request.headers["Authorization"]}, {"id": "x" * 5000}]})

    async with (
        running(respond) as address,
        running_gateway(
            module_database_url, llm_base_url=f"{address}?k=in-the-query", llm_api_key=Secret("key-of-llm")
        ) as caller,
    ):
        reply = await caller.get("/providers/status")
    assert b"key-of-llm" not in reply.body
    assert b"in-the-query" not in reply.body
    assert [len(name) for name in reply.json["providers"][0]["models"]] == [len("Bearer ******"), 200]


async def test_a_check_is_shared_and_kept_for_a_while(
    module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = 0

    async def respond(_request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.json_response({"data": []})

    async with (
        running(respond) as address,
        running_gateway(module_database_url, llm_base_url=address) as caller,
    ):
        await asyncio.gather(*(caller.get("/providers/status") for _ in range(5)))
        assert requests == 1
        monkeypatch.setattr(caller.parts.providers.status, "_keep", -1.0)
        await caller.get("/providers/status")
        assert requests == 2


def report(breaker: str, *, minute: int = 0, running: int = 0, wait: float = 0.0) -> ProviderReport:
    error = LastError(
        category="provider_error", message=f"error {minute}", at=datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
    )
    return ProviderReport(
        breaker=breaker,
        failures_in_a_row=0,
        wait_seconds=wait,
        running=running,
        concurrency=8,
        last_error=error if minute else None,
    )


async def test_reports_of_workers_are_summed_up(module_database_url: str) -> None:
    async with open_database(module_database_url) as database, database.acquire() as connection:
        await store.put_reports(
            connection, "w1", {"llm": report("closed", minute=5, running=3), "gone": report("open")}
        )
        await store.put_reports(connection, "w2", {"llm": report("open", minute=4, running=1, wait=7)})
        await store.put_reports(connection, "w3", {"llm": report("half_open")})
        await store.drop_reports(connection, "w3")
    async with running_gateway(module_database_url, llm_base_url=f"http://127.0.0.1:{free_port()}") as caller:
        found = (await caller.get("/providers/status")).json["providers"][0]
    assert (found["name"], found["kind"], found["profiles"]) == ("llm", "chat", ["qwen2.5-14b"])
    assert (found["breaker"], found["wait_seconds"], found["running"], found["workers"]) == ("open", 7, 4, 2)
    assert found["last_error"]["message"] == "error 5"


async def test_a_job_whose_provider_rests_says_so(database_url: str) -> None:
    async with open_database(database_url) as database, database.acquire() as connection:
        await store.put_reports(connection, "w1", {"llm": report("open", wait=25)})
    async with running_gateway(database_url, llm_base_url=f"http://127.0.0.1:{free_port()}") as caller:
        job = await caller.submit(task_type="llm_chat", model_profile="qwen2.5-14b", input={"user": "hello"})
        found = (await caller.get(f"/jobs/{job['id']}/why")).json
        other = await caller.submit(task_type="llm_chat", model_profile="other")
        assert "provider_resting" not in str((await caller.get(f"/jobs/{other['id']}/why")).json)
    (resting,) = [reason for reason in found["reasons"] if reason["code"] == "provider_resting"]
    assert "the provider llm rests" in resting["detail"]
    assert resting["until"] is not None


async def test_status_works_without_the_database() -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    async with running_gateway(
        nowhere, llm_base_url=f"http://127.0.0.1:{free_port()}", ai_service_token=Secret("token")
    ) as caller:
        reply = await caller.get("/providers/status")
    assert reply.status == 200
    assert (reply.json["providers"][0]["reachable"], reply.json["providers"][0]["breaker"]) == (False, None)


# Comparisons


async def _finished(service: JobService, task_type: str, usage: list[Usage], result: bytes | None) -> str:
    """Run a job that ends with this usage; without a result it fails."""
    submission = JobSubmission(owner_service="tests", task_type=task_type, model_profile="whisperx", max_attempts=1)
    job = (await service.of(DEFAULT_TENANT).submit(submission)).job
    (claimed,) = await service.of(DEFAULT_TENANT).claim(
        ClaimRequest(worker_id="w", task_types=[task_type], model_profiles=["whisperx"])
    )
    if result is None:
        failure = Failure(epoch=claimed.epoch, category=Category.PROVIDER_ERROR, usage=usage)
        await service.of(DEFAULT_TENANT).fail(job.id, failure)
    else:
        completion = JobCompletion(id=job.id, epoch=claimed.epoch, result=Raw(result), usage=usage)
        await service.of(DEFAULT_TENANT).complete(completion)
    return str(job.id)


@pytest.fixture
async def compared(module_database_url: str) -> AsyncIterator[tuple[Any, list[str]]]:
    async with open_database(module_database_url) as database:
        service = JobService(database)
        await service.start()
        pair = b'[{"reference": "a", "hypothesis": "b", "wer": %s, "words": %d}]'
        failed = Usage(provider="b", status="failed", duration_ms=9, error="HTTP 500")
        ids = [
            await _finished(
                service,
                "compare",
                [
                    Usage(provider="a", model="m", duration_ms=milliseconds, audio_seconds=2.0),
                    Usage(provider="b", model="n", duration_ms=50, prompt_tokens=7),
                ],
                b'{"agreement": ' + pair % (wer, words) + b"}",
            )
            for milliseconds, wer, words in ((100, b"0.5", 10), (300, b"0.0", 30))
        ]
        ids.append(await _finished(service, "compare", [failed, Usage(provider="a", status="skipped")], None))
        ids.append(await _finished(service, "compare", [], b'{"agreement": "as he likes"}'))
        deep = b'{"agreement": [{"reference": "a", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}]}"
        several = [Usage(provider="a"), Usage(provider="b")]
        ids.append(await _finished(service, "another", several, deep))
        ids.append(await _finished(service, "another", several, b'{"agreement": [{"words": 1e400}]}'))
        ids.append(await _finished(service, "another", several, b'{"text": "\\u0000", "agreement": []}'))
        ids.append(await _finished(service, "another", [Usage(provider="c", duration_ms=1)], b'{"agreement": [1]}'))
        await service.stop()
    async with running_gateway(module_database_url) as caller:
        yield caller, ids


async def test_many_jobs_are_summarised(compared: tuple[Any, list[str]]) -> None:
    caller, ids = compared
    found = (await caller.get("/comparisons?task_type=compare")).json
    assert found["jobs"] >= 3
    a, b = found["providers"]
    assert (a["provider"], a["models"], a["failure_rate"], a["realtime_factor"]) == ("a", ["m"], 0.0, 0.1)
    assert a["latency_ms"] == {"p50": 100, "p95": 300, "longest": 300}
    assert (b["provider"], b["errors"]) == ("b", {"HTTP 500": b["failed"]})
    assert b["failure_rate"] == pytest.approx(1 / 3, abs=0.0001)
    (pair,) = found["agreement"]
    assert (pair["reference"], pair["hypothesis"]) == ("a", "b")
    assert (pair["wer"], pair["wer_median"], pair["wer_worst"]) == (0.125, 0.25, 0.5)
    chosen = (await caller.get(f"/comparisons?id={ids[0]}&id={ids[2]}&id={ids[0]}")).json
    assert (chosen["jobs"], chosen["agreement"][0]["jobs"]) == (2, 1)
    assert [(one["calls"], one["skipped"]) for one in chosen["providers"]] == [(1, 1), (2, 0)]
    hostile = (await caller.get("/comparisons?task_type=another")).json
    assert (hostile["jobs"] >= 3, hostile["agreement"]) == (True, [])
    assert (await caller.get("/comparisons?task_type=nothing")).json == {"jobs": 0, "providers": [], "agreement": []}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("id=seven", "id"),
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("colour=red", "colour"),
        ("status=odd", "status[0]"),
    ],
)
async def test_a_wrong_comparison_names_the_parameter(compared: tuple[Any, list[str]], query: str, field: str) -> None:
    caller, ids = compared
    reply = await caller.get(f"/comparisons?{query}")
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)
    assert (await caller.get(f"/comparisons?id={ids[0]}&status=failed")).status == 422


# Inputs are checked when jobs are submitted


@pytest.mark.parametrize(
    ("task_type", "profile", "given", "field"),
    [
        ("llm_chat", "qwen2.5-14b", {}, "input.user"),
        ("call_analysis", "qwen2.5-14b", {"user": "x", "max_tokens": 0}, "input.max_tokens"),
        ("transcription", "whisperx", {}, "input"),
        ("transcription", "whisperx", {"audio": "AAAA", "audio_url": "http://x"}, "input"),
        ("transcription", "whisperx", {"audio_url": "ftp://x"}, "input.audio_url"),
        ("transcription", "whisperx", {"audio": "AAAA", "mode": "some"}, "input.mode"),
        ("transcription", "whisperx", {"audio": "AAAA", "providers": ["nobody"]}, "input.providers"),
    ],
)
async def test_input_that_a_built_in_worker_would_refuse_is_refused_at_submission(
    module_database_url: str, task_type: str, profile: str, given: dict[str, Any], field: str
) -> None:
    body = {"owner_service": "tests", "task_type": task_type, "model_profile": profile, "input": given}
    async with running_gateway(
        module_database_url, llm_base_url="http://llm", whisperx_url="http://whisperx"
    ) as caller:
        reply = await caller.post("/jobs", body)
        assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)
        for other in ({"task_type": "of_somebody"}, {"model_profile": "of_somebody"}):
            assert (await caller.post("/jobs", body | other)).status == 201
