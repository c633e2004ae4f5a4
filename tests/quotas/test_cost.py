"""Quotas of cost: integers from the ledger, and nothing without a price."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.postgres.pool import Database
from tests.support.gateways import SUBMISSION, HttpCaller
from tests.support.quotas import TenantCaller, counted, gateways, new_tenant, run_job

MODEL = """
    class Model:
        def predict(self) -> str:
            return "done"
"""
PRICES = """
    currency = "EUR"

    [[prices]]
    model = "priced"
    per_call = 0.25

    [[prices]]
    provider = "far"
    per_million_prompt_tokens = 0.000001

    [[prices]]
    provider = "far"
    model = "later"
    from = 2999-01-01
    per_call = 1

    [[prices]]
    provider = "llm"
    model = "another"
    per_call = 1
"""
CHAT = {"task_type": "llm_chat", "model_profile": "chatty", "input": {"messages": [{"role": "user", "content": "x"}]}}


@pytest.fixture(scope="module")
async def both(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[HttpCaller]]:
    root = tmp_path_factory.mktemp("cost")
    for name in ("priced", "unpriced"):
        folder = root / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(textwrap.dedent(MODEL))
        (folder / "model.toml").write_text('runtime = "python"\n[python]\nclass = "model:Model"\n')
    prices: Path = root / "prices.toml"
    prices.write_text(textwrap.dedent(PRICES))
    async with gateways(
        module_database_url,
        2,
        models_folder=root / "models",
        penstock_usage_spool=root / "spool",
        penstock_prices=prices,
        llm_base_url="http://127.0.0.1:9/v1",
        llm_model="chatty",
    ) as callers:
        yield callers


@pytest.fixture
async def tenant(both: list[HttpCaller]) -> TenantCaller:
    return await new_tenant(both[0])


async def test_cost_of_jobs_uses_up_the_budget_of_every_gateway(
    tenant: TenantCaller, both: list[HttpCaller], database: Database
) -> None:
    """A prompt token costs 10^-12, the ledger's unit; a limit counts millionths."""
    await tenant.set_quota("cost", 3, "month")
    there = tenant.at(both[1])
    await there.know()
    await run_job(tenant, prompt_tokens=2_999_999)
    await counted(tenant, database)
    quota = (await tenant.quotas())["cost"]
    assert (quota["used"], quota["limit"]) == (2, 3)
    accepted = await tenant.submit()
    assert accepted.headers["RateLimit-Policy"] == '"cost-per-month";q=3;qu="millionths"'
    await run_job(tenant, prompt_tokens=1)  # that submit's job, or this one: both are there
    await counted(tenant, database)
    assert (await tenant.quotas())["cost"]["used"] == 3
    for sender in (tenant, there):
        refused = await sender.submit()
        assert refused.outcome == (429, "quota_exceeded")
        assert (refused.json["quota"], refused.json["used"]) == ("cost-per-month", 3)


async def test_a_budget_of_cost_is_of_a_user_or_a_key(tenant: TenantCaller, database: Database) -> None:
    await tenant.set_quota("cost", 1, "day", user="*")
    await run_job(tenant, user="ada", prompt_tokens=1_000_000)
    await counted(tenant, database)
    assert (await tenant.submit(user_id="ada")).status == 429
    assert (await tenant.submit(user_id="eve")).status == 201


async def test_a_call_without_a_price_is_refused_and_counts_nowhere(tenant: TenantCaller) -> None:
    await tenant.set_quota("calls", 10, "day")
    assert (await tenant.call("POST", "/models/unpriced/predict", {})).status == 200
    await tenant.set_quota("cost", 10**9, "month")
    for path in ("/models/unpriced/predict", "/models/unpriced/stream"):
        refused = await tenant.call("POST", path, {})
        assert refused.outcome == (403, "price_missing")
        assert "unpriced" in refused.json["detail"]
    refused = await tenant.call("POST", "/post/predict?id=unpriced", {})
    assert refused.status == 403
    assert (await tenant.call("POST", "/models/priced/predict", {})).status == 200
    await tenant.step()
    assert (await tenant.quotas())["calls"]["used"] == 2


@pytest.mark.parametrize(
    ("job", "named"),
    [
        ({"task_type": "predict", "model_profile": "unpriced", "input": {}}, "the model unpriced"),
        (CHAT, "the model chatty at the provider llm"),
    ],
)
async def test_a_job_without_a_price_is_refused_and_counts_nowhere(
    tenant: TenantCaller, job: dict[str, Any], named: str
) -> None:
    assert (await tenant.submit(**job)).status == 201
    await tenant.set_quota("jobs", 10, "day")
    await tenant.set_quota("cost", 10**9, "month")
    refused = await tenant.submit(**job)
    assert refused.outcome == (403, "price_missing")
    assert named in refused.json["detail"]
    batch = await tenant.call("POST", "/jobs/batch", {"jobs": [SUBMISSION, SUBMISSION | job]})
    assert batch.outcome == (403, "price_missing")
    assert batch.json["detail"].startswith("jobs[1].model_profile: ")
    accepted = {"task_type": "predict", "model_profile": "priced", "input": {}}
    assert (await tenant.submit(**accepted)).status == 201
    assert (await tenant.submit()).status == 201  # of a queue that only workers elsewhere know
    await tenant.step()
    assert (await tenant.quotas())["jobs"]["used"] == 2


async def test_a_limit_that_the_ledger_cannot_count_is_refused(tenant: TenantCaller) -> None:
    setting = {"measure": "cost", "per": "day", "limit": 9 * 10**12 + 1}
    reply = await tenant.caller.call("PUT", "/quotas", setting, headers={"Penstock-Tenant": tenant.tenant})
    assert (reply.status, reply.fields) == (422, ["limit"])
