"""Apps over HTTP: the list, calls, results and health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.tenants import scopes
from tests.apps.conftest import HELLO, Work, Write
from tests.support.gateways import SUBMISSION, HttpCaller
from tests.support.waiting import until

APPS = {
    "hello/app.toml": """
title = "Hello"
[limits]
max_input_bytes = 1000
ttl = "1h"
[variables]
API_TOKEN = "secret"
""",
    "hello/flow.py": HELLO,
    "other/app.toml": 'flow = "hello@1"\n',
    "long/app.toml": "",
    "long/flow.py": """
from penstock.flows import flow, run

@flow(name="long", version="1")
async def long(audio: str, steps: int = 1) -> dict:
    for _ in range(steps):
        await run.call("echo", 1)
    run.progress(0.5)
    decision = await run.wait_signal("go")
    if decision == "fail":
        raise ValueError("the decision was fail")
    return {"parts": [{"audio": audio}], "missing": "blob:00000000-0000-0000-0000-000000000000"}
""",
}


@pytest.fixture
async def worker(gateway: HttpCaller, work: Work, write: Write) -> AsyncIterator[None]:
    for file, text in APPS.items():
        write(file, text)
    async with work():
        await until(lambda: healthy(gateway, *("hello", "other", "long")), "the apps are published")
        yield


async def healthy(gateway: HttpCaller, *apps: str) -> bool:
    replies = [await gateway.get(f"/apps/{app}/health") for app in apps]
    return all(reply.status == 200 and reply.json["status"] == "ok" for reply in replies)


async def call(gateway: HttpCaller, app: str, value: Any, **fields: Any) -> Any:
    reply = await gateway.post(f"/apps/{app}/call", {"user_id": "ada", "input": value} | fields)
    assert reply.status == 202, reply.body
    return reply.json


async def test_a_request_gets_its_result(gateway: HttpCaller, worker: None) -> None:
    reply = await gateway.post("/apps/hello/call", {"user_id": "ada", "input": {"name": "Ada"}}, Prefer="wait=30")
    assert (reply.status, reply.headers["Preference-Applied"]) == (200, "wait=30")
    done = reply.json
    assert reply.headers["Location"] == f"/api/v1/apps/hello/result/{done['task_id']}"
    assert (done["status"], done["app"], done["user_id"]) == ("completed", "hello", "ada")
    assert done["result"] == {"greeting": "Hello, Ada!", "usage": {"seconds": 1.5}}
    (stage,) = done["stages"]
    assert (stage["name"], stage["kind"], stage["status"]) == ("echo", "call", "completed")
    assert (
        done["created_at"] <= done["started_at"] <= stage["started_at"] <= stage["finished_at"] <= done["finished_at"]
    )
    assert (await gateway.get(f"/apps/hello/result/{done['task_id']}")).json == done


async def test_a_request_is_accepted_at_once_and_shows_its_stages(gateway: HttpCaller, worker: None) -> None:
    reply = await call(gateway, "long", {"audio": "x", "steps": 3})
    assert (reply["status"], reply["app"], reply["user_id"]) == ("pending", "long", "ada")
    place = f"/apps/long/result/{reply['task_id']}"

    async def waits() -> bool:
        return bool((await gateway.get(place)).json["status"] == "waiting")

    await until(waits, "the request waits")
    found = (await gateway.get(place)).json
    assert (found["progress"], found["result"], found["finished_at"]) == ({"fraction": 0.5}, None, None)
    assert [(stage["kind"], stage["status"]) for stage in found["stages"]] == [("call", "completed")] * 3 + [
        ("signal", "waiting")
    ]
    page = (await gateway.get(f"{place}?stages=2")).json
    assert ([stage["no"] for stage in page["stages"]], page["next_stage"]) == ([0, 1], 2)
    rest = (await gateway.get(f"{place}?from_stage=2")).json
    assert ([stage["no"] for stage in rest["stages"]], rest["next_stage"]) == ([2, 4], None)
    await gateway.post(f"/flows/runs/{reply['task_id']}/signal/go", "fail")
    await until(lambda: ended(gateway, place), "it has ended")
    failed = (await gateway.get(place)).json
    assert (failed["status"], failed["error"]["category"]) == ("failed", "internal")
    assert failed["error"]["message"] == "ValueError: the decision was fail (flow.py:11)"


async def ended(gateway: HttpCaller, place: str) -> bool:
    return bool((await gateway.get(place)).json["finished_at"])


async def test_files_in_a_result_are_urls(gateway: HttpCaller, worker: None) -> None:
    upload = await gateway.call("POST", "/blobs?filename=a.wav", body=b"sound", headers={"Content-Type": "audio/wav"})
    blob = f"blob:{upload.json['id']}"
    reply = await call(gateway, "long", {"audio": blob})
    await gateway.post(f"/flows/runs/{reply['task_id']}/signal/go", "finish")
    place = f"/apps/long/result/{reply['task_id']}"
    await until(lambda: ended(gateway, place), "it has ended")
    read = await gateway.get(place)
    (media,) = read.json["media"]
    assert media["id"] == upload.json["id"]
    assert read.json["result"]["parts"] == [{"audio": media["url"]}]
    assert read.json["result"]["missing"] == "blob:00000000-0000-0000-0000-000000000000"
    assert read.headers["Cache-Control"] == "no-store"
    assert (await gateway.get(media["url"].removeprefix("/api/v1"))).body == b"sound"


async def test_an_idempotent_call_makes_one_request_of_one_app(gateway: HttpCaller, worker: None) -> None:
    first = await call(gateway, "hello", {"name": "Ada"}, idempotency_key="once")
    again = await gateway.post("/apps/hello/call", {"user_id": "ada", "input": {"name": "Ada"}}, Idempotency_Key="once")
    assert again.status in {200, 202}
    assert again.json["task_id"] == first["task_id"]
    other = await gateway.post("/apps/hello/call", {"user_id": "ada", "input": {"name": "Bob"}}, Idempotency_Key="once")
    assert other.outcome == (422, "idempotency_conflict")
    elsewhere = await call(gateway, "other", {"name": "Ada"}, idempotency_key="once")
    assert elsewhere["task_id"] != first["task_id"]


async def test_a_repeated_call_is_the_same_request_after_a_deployment(
    gateway: HttpCaller, worker: None, write: Write
) -> None:
    once = {"input": {"name": "Ada"}, "idempotency_key": "before and after"}
    flow = HELLO.replace('name="hello"', 'name="greet"')
    write("greet/app.toml", "")
    write("greet/flow.py", flow)
    await until(lambda: healthy(gateway, "greet"), "the app is published")
    first = await call(gateway, "greet", once["input"], idempotency_key=once["idempotency_key"])
    run = await gateway.post("/flows/greet", once)
    write("greet/app.toml", 'version = "2"\n[limits]\nttl = "2h"')
    write("greet/flow.py", flow.replace('version="1"', 'version="2", priority=3'))

    async def deployed() -> bool:
        new = await call(gateway, "greet", {"name": "Ada"})
        job = (await gateway.get(f"/jobs/{new['task_id']}")).json
        return (job["model_profile"], job["priority"]) == ("greet@2", 3)

    await until(deployed, "new requests get the new version")
    again = await gateway.post("/apps/greet/call", once | {"user_id": "ada"})
    assert again.json.get("task_id") == first["task_id"], again.body
    run_again = await gateway.post("/flows/greet", once)
    assert (run_again.status, run_again.json.get("id")) == (200, run.json["id"])


async def test_a_repeated_call_is_the_same_request_after_its_schema_has_changed(
    gateway: HttpCaller, worker: None, write: Write
) -> None:
    flow = HELLO.replace('name="hello"', 'name="strict"')
    write("strict/app.toml", "")
    write("strict/flow.py", flow)
    await until(lambda: healthy(gateway, "strict"), "the app is published")
    once = {"user_id": "ada", "input": {"name": "Ada"}, "idempotency_key": "before the schema"}
    first = await gateway.post("/apps/strict/call", once)
    run = await gateway.post("/flows/strict", {"input": once["input"], "idempotency_key": "run"})
    assert (first.status, run.status) == (202, 201)
    write("strict/app.toml", "[limits]\nmax_input_bytes = 10")
    changed = flow.replace('version="1", examples=[{"name": "Ada"}]', 'version="2"').replace("name: str", "name: int")
    write("strict/flow.py", changed)

    async def refused() -> bool:
        replies = [await gateway.post("/apps/strict/call", {"user_id": "ada", "input": {"name": "Ada"}})]
        replies.append(await gateway.post("/flows/strict", {"input": {"name": "Ada"}}))
        return [reply.status for reply in replies] == [413, 422]

    await until(refused, "new requests are refused")
    again = await gateway.post("/apps/strict/call", once)
    assert again.status in {200, 202}, again.body
    assert again.json["task_id"] == first.json["task_id"]
    run_again = await gateway.post("/flows/strict", {"input": once["input"], "idempotency_key": "run"})
    assert (run_again.status, run_again.json["id"]) == (200, run.json["id"])
    other = await gateway.post("/apps/strict/call", once | {"input": {"name": "Bob"}})
    assert other.outcome == (422, "idempotency_conflict")
    new = await gateway.post("/apps/strict/call", once | {"idempotency_key": "new"})
    assert new.outcome == (413, "too_large")
    job = {"owner_service": "app/strict", "task_type": "flow", "model_profile": "strict@1", "input": once["input"]}
    around = await gateway.post("/jobs", job | {"user_id": "ada", "idempotency_key": once["idempotency_key"]})
    assert (around.outcome, around.fields) == ((422, "invalid_input"), ["owner_service"])


async def test_the_schemas_of_an_app_are_checked_besides_the_types_of_its_flow(
    gateway: HttpCaller, worker: None, write: Write
) -> None:
    write(
        "narrow/app.toml",
        """
request_schema = {properties = {name = {type = "string", maxLength = 5}}}
result_schema = {properties = {greeting = {type = "string", maxLength = 11}}}
""",
    )
    write("narrow/flow.py", HELLO.replace('name="hello"', 'name="narrow"'))
    await until(lambda: healthy(gateway, "narrow"), "the app is published")
    shown = (await gateway.get("/apps/narrow")).json
    assert shown["input_schema"] == {"properties": {"name": {"type": "string", "maxLength": 5}}}
    assert shown["output_schema"]["properties"]["greeting"]["maxLength"] == 11
    for value in ({"name": "Leonardo"}, {"name": 1}, {}):
        reply = await gateway.post("/apps/narrow/call", {"user_id": "ada", "input": value})
        assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["input.name"]), value
    deep = b'{"user_id": "ada", "input": {"name": %b}}' % (b"[" * 450 + b"]" * 450)
    reply = await gateway.call("POST", "/apps/narrow/call", body=deep)
    assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["input"])
    replies = [
        await gateway.post("/apps/narrow/call", {"user_id": "ada", "input": {"name": name}}, Prefer="wait=30")
        for name in ("Ada", "Grace")  # "Hello, Ada!" has 11 characters
    ]
    assert [(reply.status, reply.json["status"]) for reply in replies] == [(200, "completed"), (200, "failed")]
    failed = replies[1].json
    assert failed["error"]["category"] == "internal"
    assert "result_schema of the app: result.greeting" in failed["error"]["message"]
    assert failed["result"] is None


WRONG_REQUESTS: tuple[tuple[dict[str, Any], list[str]], ...] = (
    ({"user_id": "ada", "input": {"name": 1}}, ["input.name"]),
    ({"user_id": "ada", "input": {"name": "x", "nam": 1}}, ["input.nam"]),
    ({"user_id": "ada", "input": {}}, ["input.name"]),
    ({"input": {"name": "Ada"}}, ["user_id"]),
    ({"user_id": "x" * 201, "input": {"name": "Ada"}}, ["user_id"]),
    ({"user_id": "ada", "input": {"name": "Ada"}, "callback": {"url": "ftp://x"}}, ["callback.url"]),
    ({"user_id": "ada", "input": {"name": "Ada"}, "ttl_seconds": 5}, ["ttl_seconds"]),
)


async def test_a_wrong_request_is_refused_before_anything_is_stored(gateway: HttpCaller, worker: None) -> None:
    before = await newest(gateway)
    for body, fields in WRONG_REQUESTS:  # in one test, because the worker takes seconds to start
        reply = await gateway.post("/apps/hello/call", body)
        assert (reply.status, reply.fields) == (422, fields), body
    assert await newest(gateway) == before


async def newest(gateway: HttpCaller) -> list[str]:
    """Return the newest run; jobs of earlier requests may still come."""
    return [run["id"] for run in (await gateway.get("/flows/runs?limit=1")).json["runs"]]


async def test_an_input_larger_than_the_app_allows_is_refused(gateway: HttpCaller, worker: None) -> None:
    reply = await gateway.post("/apps/hello/call", {"user_id": "ada", "input": {"name": "x" * 1000}})
    assert reply.outcome == (413, "too_large")
    assert "the app hello allows 1000" in reply.json["detail"]


async def test_a_request_of_another_app_is_not_found(gateway: HttpCaller, worker: None) -> None:
    mine = (await call(gateway, "hello", {"name": "Ada"}))["task_id"]
    job = await gateway.submit()
    run = (await gateway.post("/flows/hello", {"input": {"name": "Ada"}})).json["id"]
    for app, task in (("other", mine), ("hello", job["id"]), ("hello", run), ("nothing", mine)):
        reply = await gateway.get(f"/apps/{app}/result/{task}")
        assert reply.outcome == (404, "not_found"), (app, task)


async def test_the_owner_of_requests_cannot_be_taken_by_other_jobs(gateway: HttpCaller, worker: None) -> None:
    for path, body in (
        ("/flows/hello", {"input": {"name": "Ada"}, "owner_service": "app/hello"}),
        ("/jobs", {"owner_service": "app/hello", "task_type": "x", "model_profile": "y"}),
    ):
        reply = await gateway.post(path, body)
        assert (reply.status, reply.fields) == (422, ["owner_service"])


async def test_keys_may_be_limited_to_apps(gateway: HttpCaller, worker: None) -> None:
    wanted = {
        "name": "hello only",
        "scopes": [scopes.JOBS_SUBMIT, scopes.JOBS_READ],
        "apps": ["hello"],
    }
    made = await gateway.post("/keys", wanted)
    assert made.status == 201, made.body
    key = made.json["key"]
    headers = {"Authorization": f"Bearer {key}"}
    body = {"user_id": "ada", "input": {"name": "Ada"}}
    made = await gateway.call("POST", "/apps/hello/call", body, headers=headers | {"Prefer": "wait=30"})
    assert made.status == 200
    assert [app["name"] for app in (await gateway.call("GET", "/apps", headers=headers)).json["apps"]] == ["hello"]
    task = made.json["task_id"]
    assert (await gateway.call("GET", f"/apps/hello/result/{task}", headers=headers)).json["status"] == "completed"
    for method, path in (("POST", "other/call"), ("GET", "other"), ("GET", "other/health")):
        reply = await gateway.call(method, f"/apps/{path}", body if method == "POST" else None, headers=headers)
        assert reply.outcome == (404, "not_found")
    job = await gateway.submit()
    for path in (f"/jobs/{job['id']}", f"/jobs/{task}", f"/flows/runs/{task}"):
        assert (await gateway.call("GET", path, headers=headers)).outcome == (404, "not_found"), path
    assert (await gateway.call("GET", "/jobs", headers=headers)).json["jobs"] == []
    others: dict[str, Any] = {"/jobs": SUBMISSION, "/flows/hello": {"input": {"name": "Ada"}}}
    for path, other in others.items():
        assert (await gateway.call("POST", path, other, headers=headers)).outcome == (403, "forbidden"), path


@pytest.mark.parametrize("limit", [{"queues": ["flow/hello@1"]}, {"models": ["echo"]}])
async def test_keys_limited_to_queues_or_models_use_no_app(
    gateway: HttpCaller, worker: None, limit: dict[str, Any]
) -> None:
    wanted = {"name": "worker", "scopes": [scopes.JOBS_SUBMIT, scopes.JOBS_READ]} | limit
    headers = {"Authorization": f"Bearer {(await gateway.post('/keys', wanted)).json['key']}"}
    assert (await gateway.call("GET", "/apps", headers=headers)).json["apps"] == []
    body = {"user_id": "ada", "input": {"name": "Ada"}}
    assert (await gateway.call("POST", "/apps/hello/call", body, headers=headers)).outcome == (404, "not_found")


async def test_apps_are_listed_with_their_schemas_and_masked_secrets(gateway: HttpCaller, worker: None) -> None:
    names = {app["name"]: app for app in (await gateway.get("/apps")).json["apps"]}
    assert names["hello"]["title"] == "Hello"
    assert names["hello"]["description"] == ""
    found = (await gateway.get("/apps/hello")).json
    assert (found["flow"], found["input_schema"]["required"]) == ("hello@1", ["name"])
    assert (found["description"], found["examples"]) == ("Greets.", [{"name": "Ada"}])
    assert (found["max_input_bytes"], found["ttl_seconds"]) == (1000, 3600.0)
    assert found["variables"] == {"API_TOKEN": "******"}
    assert (await gateway.get("/apps/helo")).json["detail"] == "there is no app 'helo' here; did you mean hello?"


async def test_a_broken_app_takes_nothing_else_down(gateway: HttpCaller, work: Work, write: Write) -> None:
    write("broken/app.toml", 'version = 1\nflo = "x"')
    write("sick/app.toml", "")
    write("sick/flow.py", "import nothing_like_this")
    write("hello/app.toml", "")
    write("hello/flow.py", HELLO)
    async with work():
        await until(lambda: healthy(gateway, "hello"), "the good app is published")

        async def problems(app: str) -> list[tuple[str, str]]:
            reply = await gateway.get(f"/apps/{app}/health")
            return [(one["file"], one["key"]) for one in reply.json.get("problems", [])]

        async def published() -> bool:
            return await problems("broken") != [] and await problems("sick") != []

        await until(published, "the mistakes are published")
        assert await problems("broken") == [("broken/app.toml", "flo"), ("broken/app.toml", "version")]
        assert await problems("sick") == [("sick/flow.py", "")]
        assert (await gateway.get("/apps/sick/health")).json["status"] == "unavailable"
        for app in ("broken", "sick"):  # there is such an app, so it is not a 404
            refused = await gateway.post(f"/apps/{app}/call", {"user_id": "ada"})
            assert refused.outcome == (503, "app_unavailable")
        write("broken/app.toml", 'flow = "hello"')
        await until(lambda: healthy(gateway, "broken"), "it is mended")
        write("hello/app.toml", "version = 3")

        async def degraded() -> bool:
            return bool((await gateway.get("/apps/hello/health")).json["status"] == "degraded")

        await until(degraded, "its last valid form is used")
        made = await gateway.post("/apps/hello/call", {"user_id": "a", "input": {"name": "A"}}, Prefer="wait=30")
        assert made.status == 200
