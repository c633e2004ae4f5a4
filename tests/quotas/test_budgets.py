"""Quotas of tokens and seconds, which the usage ledger counts when attempts and calls have ended."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import query
from tests.support.gateways import SUBMISSION, HttpCaller
from tests.support.quotas import TenantCaller, counted, gateways, new_tenant, run_job
from tests.support.waiting import until

MODEL = """
    import time

    class Model:
        def predict(self, seconds: float = 0) -> str:
            time.sleep(seconds)
            return "done"
"""


@pytest.fixture(scope="module")
async def both(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[HttpCaller]]:
    folder = tmp_path_factory.mktemp("models") / "wait"
    folder.mkdir()
    (folder / "model.py").write_text(textwrap.dedent(MODEL))
    (folder / "model.toml").write_text('runtime = "python"\n[python]\nclass = "model:Model"\n')
    spool: Path = tmp_path_factory.mktemp("spool")
    async with gateways(module_database_url, 2, models_folder=folder.parent, penstock_usage_spool=spool) as callers:
        yield callers


@pytest.fixture
async def tenant(both: list[HttpCaller]) -> TenantCaller:
    return await new_tenant(both[0])


async def test_tokens_of_jobs_use_up_the_budget_of_every_gateway(
    tenant: TenantCaller, both: list[HttpCaller], database: Database
) -> None:
    await tenant.set_quota("tokens", 100, "day")
    there = tenant.at(both[1])
    await there.know()
    await run_job(tenant, prompt_tokens=50, completion_tokens=9)
    await counted(tenant, database)
    quota = (await tenant.quotas())["tokens"]
    assert (quota["used"], quota["limit"], quota["on_crash"]) == (59, 100, "free")
    accepted = await tenant.submit()
    assert accepted.headers["RateLimit-Policy"] == '"tokens-per-day";q=100;qu="tokens"'
    assert accepted.headers["RateLimit"].startswith('"tokens-per-day";r=41;t=')
    await run_job(tenant, prompt_tokens=60, completion_tokens=1)
    await counted(tenant, database)
    for sender in (tenant, there):
        refused = await sender.submit()
        assert refused.outcome == (429, "quota_exceeded")
        assert (refused.json["quota"], refused.json["limit"]) == ("tokens-per-day", 100)
        assert "resets_at" in refused.json
        live = await sender.call("POST", "/models/wait/predict", {})
        assert live.outcome == (429, "quota_exceeded")
    await tenant.set_quota("tokens", 1000, "day")
    assert (await tenant.submit()).status == 201


async def test_a_budget_of_every_user_and_of_a_key_is_theirs_alone(tenant: TenantCaller, database: Database) -> None:
    await tenant.set_quota("tokens", 10, "month", user="*")
    await tenant.set_quota("audio_seconds", 5, "month", key=tenant.key_id)
    await run_job(tenant, user="ada", prompt_tokens=10, audio_seconds=2.5)
    await counted(tenant, database)
    assert (await tenant.submit(user_id="ada")).status == 429
    assert (await tenant.submit(user_id="eve")).status == 201
    batch = [SUBMISSION | {"user_id": "eve"}, SUBMISSION | {"user_id": "ada"}]
    assert (await tenant.call("POST", "/jobs/batch", {"jobs": batch})).status == 429
    assert (await tenant.call("POST", "/jobs/batch", {"jobs": batch[:1] * 3 + [SUBMISSION]})).status == 201
    found = (await tenant.call("GET", "/quotas?user=ada")).json["quotas"]
    assert {quota["measure"]: quota["used"] for quota in found} == {"tokens": 10, "audio_seconds": 2}


async def test_seconds_of_live_calls_use_up_the_budget(tenant: TenantCaller, database: Database) -> None:
    await tenant.set_quota("model_seconds", 1, "hour")
    for _ in range(2):
        assert (await tenant.call("POST", "/models/wait/predict", {"seconds": 0.5})).status == 200
    await until(lambda: tenant.caller.parts.usage.unflushed == 0, "usage was flushed")
    await counted(tenant, database)
    refused = await tenant.call("POST", "/models/wait/predict", {})
    assert (refused.status, refused.json["used"]) == (429, 1)


async def test_usage_is_booked_in_the_window_in_which_it_arose(
    tenant: TenantCaller, database: Database, clock: Clock
) -> None:
    await clock.freeze(noon=True)
    await tenant.set_quota("tokens", 100, "hour")
    await run_job(tenant, prompt_tokens=70)
    await clock.advance(timedelta(hours=1))
    await run_job(tenant, prompt_tokens=7)
    await counted(tenant, database)
    assert (await tenant.quotas())["tokens"]["used"] == 7
    rows = await query(
        database,
        "SELECT u.settled FROM quota_use u JOIN tenant t ON t.id = u.tenant_id WHERE t.name = $1 AND settled > 0"
        " ORDER BY u.window_start",
        tenant.tenant,
    )
    assert rows == [(70,), (7,)]


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"measure": "tokens", "limit": 5, "per": "minute"}, "per"),
        ({"measure": "tokens", "limit": 5}, "per"),
        ({"measure": "tokens", "limit": 5, "per": "day", "on_crash": "charge"}, "on_crash"),
        ({"measure": "model_seconds", "limit": 10**15, "per": "day"}, "limit"),
    ],
)
async def test_a_budget_that_makes_no_sense_is_refused(
    tenant: TenantCaller, setting: dict[str, Any], field: str
) -> None:
    reply = await tenant.caller.call("PUT", "/quotas", setting, headers={"Penstock-Tenant": tenant.tenant})
    assert (reply.status, reply.fields) == (422, [field])
