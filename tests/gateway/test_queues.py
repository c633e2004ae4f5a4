"""Jobs of queues that no worker serves: warnings, expiry, and the strict mode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway
from tests.support.waiting import until

WHISPER = SUBMISSION | {"task_type": "transcription", "model_profile": "whisper"}


@pytest.fixture
async def caller(database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls to a gateway on this test's own database."""
    async with running_gateway(database_url, whisperx_url="http://127.0.0.1:1") as caller:
        yield caller


async def warnings_of(caller: HttpCaller, **fields: Any) -> list[str]:
    warnings: list[str] = (await caller.submit(**fields))["warnings"]
    return warnings


async def test_a_warning_about_a_queue_without_workers_suggests_the_intended_name(caller: HttpCaller) -> None:
    created = await caller.post("/jobs", WHISPER)
    warning = "no worker has served the queue transcription/whisper; did you mean whisperx?"
    assert (created.status, created.json["warnings"]) == (201, [warning])
    read = await caller.get(created.headers["location"])
    assert read.json["warnings"] == [warning]
    waited = await caller.post("/jobs", WHISPER, Prefer="wait=0")
    assert (waited.status, waited.json["warnings"]) == (202, [warning])
    await caller.post(f"/jobs/{read.json['id']}/cancel")
    assert (await caller.get(created.headers["location"])).json["warnings"] == []


async def test_a_worker_that_claims_over_http_ends_the_warning(caller: HttpCaller) -> None:
    assert await warnings_of(caller) == ["no worker has served the queue echo/small"]
    await caller.claim(task_types=["echo"], model_profiles=["small", "large"])
    await until(lambda: _silent(caller), "the gateway knows that the queue is served")
    assert await warnings_of(caller, model_profile="lrge") == [
        "no worker has served the queue echo/lrge; did you mean large?"
    ]
    assert await warnings_of(caller, task_type="ehco") == [
        "no worker has served the queue ehco/small; did you mean echo?"
    ]


@pytest.mark.parametrize("claim", [{}, {"task_types": ["echo"]}, {"model_profiles": ["small"]}])
async def test_a_worker_that_claims_any_type_or_profile_serves_them_all(
    caller: HttpCaller, claim: dict[str, Any]
) -> None:
    await caller.claim(**claim)
    await until(lambda: _silent(caller), "the gateway knows that the queue is served")


async def test_another_gateway_reads_which_queues_are_served(caller: HttpCaller, database_url: str) -> None:
    await caller.claim(task_types=["echo"])
    async with running_gateway(database_url) as other:
        await until(lambda: _silent(other), "the other gateway has read the record")


async def test_many_profiles_in_one_claim_cost_few_rows(caller: HttpCaller) -> None:
    names = [f"n{number}" for number in range(100)]
    await caller.claim(task_types=names, model_profiles=names)
    await until(lambda: _silent(caller, task_type="n7", model_profile="n8"), "the claim is noted")


async def test_a_batch_warns_once_for_each_queue(caller: HttpCaller) -> None:
    reply = await caller.post("/jobs/batch", {"defaults": WHISPER, "jobs": [{}, {}, {"model_profile": "x"}]})
    assert reply.status == 201
    assert reply.json["warnings"] == [
        "no worker has served the queue transcription/whisper; did you mean whisperx?",
        "no worker has served the queue transcription/x",
    ]


async def test_a_missing_model_causes_a_warning(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "mood.toml").write_text('runtime = "subprocess"\n[subprocess]\ncommand = ["cat"]\n')
    async with running_gateway(database_url, models_folder=tmp_path) as caller:
        (warning,) = await warnings_of(caller, task_type="predict", model_profile="moood")
        assert warning == "no worker has served the queue predict/moood; did you mean mood?"


async def test_a_strict_gateway_refuses_unregistered_queues(database_url: str) -> None:
    async with running_gateway(database_url, whisperx_url="http://127.0.0.1:1", penstock_strict_queues=True) as caller:
        refused = await caller.post("/jobs", WHISPER)
        assert (refused.outcome, refused.fields) == ((422, "invalid_input"), ["model_profile"])
        detail = refused.json["errors"][0]["detail"]
        assert "there are: transcription/whisperx; did you mean whisperx?" in detail
        assert (await caller.get("/jobs")).json["jobs"] == []
        good = WHISPER | {"model_profile": "whisperx", "input": {"audio_url": "http://example.org/a.wav"}}
        assert (await caller.post("/jobs", good)).status == 201
        await caller.claim(task_types=["echo"], model_profiles=["small"])
        await until(lambda: _accepted(caller), "the worker's claim registers its queue")
        batch = await caller.post("/jobs/batch", {"jobs": [SUBMISSION, SUBMISSION | {"model_profile": "smal"}]})
        assert batch.fields == ["jobs[1].model_profile"]
        assert "echo/small" in batch.json["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": 1e9}, "ttl_seconds"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": "2026-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00Z", "ttl_seconds": 3}, "ttl_seconds"),
        ({"expires_at": "2030-01-01T00:00:00Z", "run_at": "2031-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-01:00"}, "expires_at"),
    ],
)
async def test_an_invalid_expiry_is_refused(caller: HttpCaller, fields: dict[str, Any], blamed: str) -> None:
    assert (await caller.post("/jobs", SUBMISSION | fields)).fields == [blamed]
    assert (await caller.post("/jobs/batch", {"jobs": [SUBMISSION | fields]})).fields == [f"jobs[0].{blamed}"]


async def test_an_expiry_is_shown_and_accepted_in_batches(caller: HttpCaller) -> None:
    job = await caller.submit(ttl_seconds=60)
    assert job["expires_at"] > job["created_at"]
    assert (await caller.get("/jobs?limit=1")).json["jobs"][0]["expires_at"] == job["expires_at"]
    at = "2099-01-01T00:00:00Z"
    reply = await caller.post("/jobs/batch", {"defaults": SUBMISSION | {"expires_at": at}, "jobs": [{}, {}]})
    (one, two) = [(await caller.get(f"/jobs/{made['id']}")).json["expires_at"] for made in reply.json["jobs"]]
    assert one == two
    assert one.startswith("2099-01-01T00:00:00")


async def _silent(caller: HttpCaller, **fields: Any) -> bool:
    return not await warnings_of(caller, **fields)


async def _accepted(caller: HttpCaller) -> bool:
    return (await caller.post("/jobs", SUBMISSION)).status == 201
