"""Strict quotas of tokens: never exceeded, because calls reserve what they can use, which limits their output."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from penstock.postgres.pool import Database
from tests.support.gateways import HttpCaller, Reply
from tests.support.http_servers import running
from tests.support.quotas import TenantCaller, counted, gateways, new_tenant, run_job
from tests.support.waiting import until

PROMPT = 10  # tokens that the server counts of each prompt; calls have to reserve more
MANIFEST = """
    runtime = "openai"
    [openai]
    base_url = "{address}/v1"
    model = "m"
    task = "{task}"
"""


class LanguageServer:
    """Uses as many tokens as it may, unless ``reply`` says otherwise."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.counts = True  # whether it states its usage
        self.reply: int | None = None  # tokens; None: as many as allowed

    async def respond(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if "input" in body:
            usage = {"prompt_tokens": PROMPT, "total_tokens": PROMPT}
            return web.json_response({"data": [{"index": 0, "embedding": [1.0]}], "model": "m", "usage": usage})
        most = body.get("max_completion_tokens", body.get("max_tokens")) * body.get("n", 1)
        usage = {"prompt_tokens": PROMPT, "completion_tokens": most if self.reply is None else self.reply}
        said: dict[str, Any] = {"model": "m"} | ({"usage": usage} if self.counts else {})
        if not body.get("stream"):
            choice = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
            return web.json_response(said | {"choices": [choice]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in ({"choices": [{"delta": {"content": "x"}}]}, said | {"choices": []}):
            await response.write(f"data: {json.dumps(part)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture(scope="module")
async def running_server() -> AsyncIterator[tuple[LanguageServer, str]]:
    server = LanguageServer()
    async with running(server.respond) as address:
        yield server, address


@pytest.fixture
def server(running_server: tuple[LanguageServer, str]) -> LanguageServer:
    server = running_server[0]
    server.requests, server.counts, server.reply = [], True, None
    return server


@pytest.fixture(scope="module")
async def three(
    module_database_url: str, running_server: tuple[LanguageServer, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[HttpCaller]]:
    root = tmp_path_factory.mktemp("strict")
    for name, task in (("chat", "chat"), ("embed", "embeddings"), ("hear", "transcription")):
        folder = root / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(MANIFEST.format(address=running_server[1], task=task).replace("    ", ""))
    plain = root / "models" / "plain"
    plain.mkdir()
    (plain / "model.py").write_text("class Model:\n    def predict(self) -> int:\n        return 1\n")
    (plain / "model.toml").write_text('runtime = "python"\n[python]\nclass = "model:Model"\n')
    async with gateways(
        module_database_url,
        3,
        models_folder=root / "models",
        penstock_usage_spool=root / "spool",
        llm_base_url="http://127.0.0.1:9/v1",
        llm_model="chatty",
    ) as callers:
        yield callers


@pytest.fixture
async def everywhere(three: list[HttpCaller]) -> list[TenantCaller]:
    tenant = await new_tenant(three[0])
    return [tenant.at(caller) for caller in three]


async def limit(everywhere: list[TenantCaller], most: int, **fields: Any) -> None:
    await everywhere[0].set_quota("tokens", most, "day", mode="strict", **fields)
    for tenant in everywhere:
        await tenant.know()


async def chat(tenant: TenantCaller, streams: Any = False, **fields: Any) -> Reply:
    path = "/models/chat/stream" if streams else "/models/chat/predict"
    return await tenant.call("POST", path, {"user": "Hello"} | fields)


async def flushed(tenant: TenantCaller) -> None:
    await until(lambda: tenant.caller.parts.usage.unflushed == 0, "usage was flushed")


async def used(everywhere: list[TenantCaller], database: Database) -> tuple[int, int]:
    """Return the tokens that the quota counts, and those in the ledger."""
    for tenant in everywhere:
        await flushed(tenant)
        await tenant.step(idle=True)
        await counted(tenant, database)
    tenant = everywhere[0]
    totals = (await tenant.call("GET", "/usage?from=2020-01-01&to=2100-01-01&by=model")).json["totals"]
    quota = (await tenant.quotas())["tokens"]
    assert quota["mode"] == "strict"
    return quota["used"], totals["prompt_tokens"] + totals["completion_tokens"]


async def test_calls_at_3_gateways_never_use_more_tokens_than_the_quota(
    everywhere: list[TenantCaller], server: LanguageServer, database: Database
) -> None:
    await limit(everywhere, 6000)
    replies = await asyncio.gather(*(chat(everywhere[i % 3], streams=i % 2 == 0, max_tokens=300) for i in range(60)))
    for _ in range(3):  # what idle gateways hold, others cannot use
        for tenant in everywhere:
            await tenant.step(idle=True)
        replies += [await chat(everywhere[i % 3], max_tokens=300) for i in range(6)]
    statuses = Counter(reply.status for reply in replies)
    assert set(statuses) == {200, 429}
    in_quota, in_ledger = await used(everywhere, database)
    assert in_quota == in_ledger <= 6000
    assert in_quota > 5400  # the rest is less than a prompt may have
    assert sum(PROMPT + sent["max_tokens"] for sent in server.requests) == in_ledger


async def test_an_output_without_a_limit_gets_one_and_gives_back_what_it_does_not_use(
    everywhere: list[TenantCaller], server: LanguageServer, database: Database
) -> None:
    server.reply = 7
    await limit(everywhere, 10_000)
    for _ in range(20):
        assert (await chat(everywhere[0])).status == 200
    assert {sent["max_tokens"] for sent in server.requests} == {4096}
    assert await used(everywhere, database) == (20 * 17, 20 * 17)
    await limit(everywhere, 1000)
    assert (await chat(everywhere[0])).status == 200
    assert PROMPT < server.requests[-1]["max_tokens"] < 660


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_every_choice_counts(everywhere: list[TenantCaller], server: LanguageServer, field: str) -> None:
    await limit(everywhere, 3000)
    assert (await chat(everywhere[0], **{"n": 4, field: 2000})).status == 200
    assert 100 < server.requests[-1][field] < 700
    assert field == "max_tokens" or "max_tokens" not in server.requests[-1]


async def test_too_little_for_the_prompt_refuses_the_call_and_consumes_no_other_quota(
    everywhere: list[TenantCaller], server: LanguageServer
) -> None:
    tenant = everywhere[0]
    await tenant.set_quota("calls", 10, "day")
    await limit(everywhere, 2000)
    refused = await chat(tenant, user="x" * 2000)
    assert (refused.outcome, refused.json["quota"]) == ((429, "quota_exceeded"), "tokens-per-day")
    assert server.requests == []
    await tenant.step(idle=True)
    await tenant.set_quota("calls", 0, "day")
    assert (await chat(tenant)).json["quota"] == "calls-per-day"
    await tenant.step()
    found = await tenant.quotas()
    assert (found["tokens"]["used"], found["calls"]["used"]) == (0, 0)


async def test_tokens_that_a_server_does_not_count_are_used_up(
    everywhere: list[TenantCaller], server: LanguageServer
) -> None:
    tenant = everywhere[0]
    server.counts = False
    await limit(everywhere, 3000)
    assert (await chat(tenant, max_tokens=1000)).status == 200
    await tenant.step()
    assert (await tenant.quotas())["tokens"]["used"] > 1000


async def test_a_call_that_fails_gives_its_tokens_back(everywhere: list[TenantCaller], server: LanguageServer) -> None:
    tenant = everywhere[0]
    await limit(everywhere, 3000)
    for _ in range(10):
        assert (await chat(tenant, messages=[{"role": "user", "content": 7}], max_tokens=1000)).status in {
            422,
            500,
            502,
        }
    await tenant.step()
    assert (await tenant.quotas())["tokens"]["used"] == 0
    assert (await chat(tenant, max_tokens=1000)).status == 200


async def test_embeddings_count_their_prompts(
    everywhere: list[TenantCaller], server: LanguageServer, database: Database
) -> None:
    await limit(everywhere, 100)
    reply = await everywhere[0].call("POST", "/models/embed/predict", {"input": "short"})
    assert reply.status == 200, reply.body
    assert await used(everywhere, database) == (PROMPT, PROMPT)
    assert (await everywhere[0].call("POST", "/models/embed/predict", {"input": "x" * 100})).status == 429


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "images": ["data:,"]}]}, "messages[0].images"),
        ({"best_of": 5}, "best_of"),
        ({"chat_template": "{{ 'x' * 1000 }}"}, "chat_template"),
        ({"n": "5"}, "n"),
        ({"n": True}, "n"),
        ({"n": 129}, "n"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ],
)  # fmt: skip
async def test_what_cannot_be_bounded_is_refused_under_a_strict_quota(
    everywhere: list[TenantCaller], server: LanguageServer, fields: dict[str, Any], named: str
) -> None:
    await limit(everywhere, 10**9)
    reply = await chat(everywhere[0], **fields)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), [named])
    assert server.requests == []


async def test_models_and_jobs_whose_tokens_cannot_be_limited_are_refused(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await limit(everywhere, 10**9)
    hear = await tenant.call("POST", "/models/hear/predict", {"audio": "data:audio/wav;base64,AAAA"})
    assert (hear.outcome, "max_tokens" in hear.json["detail"]) == ((403, "forbidden"), True)
    for job in (
        {"task_type": "predict", "model_profile": "chat", "input": {"user": "x"}},
        {"task_type": "llm_chat", "model_profile": "chatty", "input": {"user": "x"}},
    ):
        refused = await tenant.submit(**job)
        assert refused.outcome == (403, "forbidden"), refused.body
        assert "soft" in refused.json["detail"]
    assert (await tenant.call("POST", "/models/plain/predict", {})).status == 200  # it uses no tokens
    assert (await tenant.submit(task_type="predict", model_profile="plain", input={})).status == 201


async def test_what_own_workers_report_counts_afterwards(
    everywhere: list[TenantCaller], server: LanguageServer, database: Database
) -> None:
    await limit(everywhere, 3000)
    await run_job(everywhere[0], prompt_tokens=2900)
    assert (await used(everywhere, database))[0] == 2900
    assert (await chat(everywhere[0])).status == 429


async def test_a_quota_can_change_between_soft_and_strict(
    everywhere: list[TenantCaller], server: LanguageServer, database: Database
) -> None:
    tenant = everywhere[0]
    server.reply = 90
    await tenant.set_quota("tokens", 2000, "day")
    assert (await chat(tenant, best_of=1, max_tokens=100)).status == 200
    await flushed(tenant)
    await counted(tenant, database)
    assert (await tenant.quotas())["tokens"]["used"] == 100
    await limit(everywhere, 2000)
    assert (await chat(tenant, max_tokens=100)).status == 200
    assert (await used(everywhere, database)) == (200, 200)
    await tenant.set_quota("tokens", 2000, "day", mode="soft")
    assert (await chat(tenant, best_of=1, max_tokens=100)).status == 200


async def test_mode_is_for_tokens_only(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    setting = {"measure": "calls", "per": "day", "limit": 1, "mode": "strict"}
    reply = await tenant.caller.call("PUT", "/quotas", setting, headers={"Penstock-Tenant": tenant.tenant})
    assert (reply.status, reply.fields) == (422, ["mode"])
