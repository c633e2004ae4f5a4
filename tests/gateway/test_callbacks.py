"""Callbacks are registered, changed, rotated, tested, replayed and removed over HTTP; mistakes are named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from penstock.masking import Secret
from tests.support.gateways import HttpCaller, Reply, running_gateway

URL = "https://hooks.example/jobs"
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
JOB = {"owner_service": "shop", "task_type": "echo", "model_profile": "small"}


@pytest.fixture(scope="module")
async def gateway(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


async def created(gateway: HttpCaller, **fields: Any) -> dict[str, Any]:
    reply = await gateway.post("/callbacks", {"url": URL} | fields)
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


def mistakes(reply: Reply) -> list[str]:
    assert reply.status == 422, reply.body
    return [error["field"] for error in reply.json["errors"]]


async def test_a_callback_is_registered_read_and_removed(gateway: HttpCaller) -> None:
    one = await created(gateway, description="the shop")
    assert one["secret"].startswith("whsec_")
    assert one["events"] == ["job.completed", "job.failed", "job.cancelled"]
    shown = (await gateway.get(f"/callbacks/{one['id']}")).json
    assert shown == {name: value for name, value in one.items() if name != "secret"}
    assert shown in (await gateway.get("/callbacks?limit=1000")).json["callbacks"]
    assert (await gateway.call("DELETE", f"/callbacks/{one['id']}")).status == 204
    assert (await gateway.get(f"/callbacks/{one['id']}")).status == 404
    assert shown not in (await gateway.get("/callbacks?limit=1000")).json["callbacks"]


async def test_the_list_has_pages(gateway: HttpCaller) -> None:
    ids = [(await created(gateway))["id"] for _ in range(3)]
    found: list[str] = []
    after = ""
    while True:
        page = (await gateway.get(f"/callbacks?limit=2{after}")).json
        found += [one["id"] for one in page["callbacks"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == sorted(found)
    assert set(ids) <= set(found)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"url": "ftp://hooks.example/"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://[::1]:8080/"}, "url"),
        ({"url": "http://0x7f000001/"}, "url"),
        ({"url": "https://user:password@hooks.example/"}, "url"),
        ({"url": "https://hooks.example/#part"}, "url"),
        ({"url": "https://hooks example/"}, "url"),
        ({"url": ""}, "url"),
        ({"url": "https://hooks.example/" + "x" * 3000}, "url"),
        ({"events": []}, "events"),
        ({"events": ["job.complete"]}, "events[0]"),
        ({"events": ["*", "jobs.*"]}, "events[1]"),
        ({"events": ["job.*"] * 21}, "events"),
        ({"secret": "topsecret"}, "secret"),
        ({"secret": "whsec_c2hvcnQ="}, "secret"),
        ({"secret": "whsec_!!!"}, "secret"),
        ({"description": "a\nb"}, "description"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_mistakes_are_named(gateway: HttpCaller, fields: dict[str, Any], wrong: str) -> None:
    reply = await gateway.post("/callbacks", {"url": URL} | fields)
    assert mistakes(reply) == [wrong]
    assert b"topsecret" not in reply.body


@pytest.mark.parametrize(
    ("callback", "wrong"),
    [
        ({"url": "http://127.0.0.1:1/"}, "callback.url"),
        ({"url": URL, "events": ["job.gone"]}, "callback.events[0]"),
        ({"url": URL, "secret": "x"}, "callback.secret"),
        ({}, "callback.url"),
        ({"url": URL, "colour": "red"}, "callback.colour"),
    ],
)
async def test_mistakes_in_the_callback_of_a_job_are_named(
    gateway: HttpCaller, callback: dict[str, Any], wrong: str
) -> None:
    assert mistakes(await gateway.post("/jobs", JOB | {"callback": callback})) == [wrong]
    batch = {"jobs": [JOB, JOB | {"callback": callback}]}
    assert mistakes(await gateway.post("/jobs/batch", batch)) == [f"jobs[1].{wrong}"]


async def test_a_suggestion_names_the_type_that_was_meant(gateway: HttpCaller) -> None:
    reply = await gateway.post("/callbacks", {"url": URL, "events": ["job.complete"]})
    assert "did you mean job.completed?" in reply.json["errors"][0]["detail"]


async def test_the_same_request_with_another_callback_is_another_request(gateway: HttpCaller) -> None:
    first = JOB | {"idempotency_key": "order 1", "callback": {"url": URL, "secret": SECRET}}
    reply = await gateway.post("/jobs", first)
    assert reply.status == 201, reply.body
    assert b"whsec_" not in reply.body
    assert (await gateway.post("/jobs", first)).status == 200
    for other in (first | {"callback": {"url": f"{URL}/2", "secret": SECRET}}, first | {"callback": None}):
        assert (await gateway.post("/jobs", other)).status == 422
    plain = JOB | {"idempotency_key": "order 2"}
    assert (await gateway.post("/jobs", plain)).status == 201
    assert (await gateway.post("/jobs", plain | {"callback": {"url": URL}})).status == 422


async def test_callbacks_that_jobs_name_are_listed_and_can_only_be_disabled(gateway: HttpCaller) -> None:
    url = f"{URL}/named"
    for _ in range(3):
        assert (await gateway.post("/jobs", JOB | {"callback": {"url": url}})).status == 201
    listed = (await gateway.get("/callbacks?of_jobs=true")).json["callbacks"]
    (one,) = [found for found in listed if found["url"] == url]
    assert (one["registered"], one["signed"]) == (False, False)
    path = f"/callbacks/{one['id']}"
    assert (await gateway.call("PATCH", path, {"url": URL})).status == 409
    assert (await gateway.call("DELETE", path)).status == 409
    assert (await gateway.post(f"{path}/secret", {})).status == 409
    assert (await gateway.post(f"{path}/test")).status == 409
    assert (await gateway.call("PATCH", path, {"disabled": True})).json["disabled_reason"] == "on request"
    assert (await gateway.call("PATCH", path, {"disabled": False})).json["disabled_at"] is None


async def test_a_callback_is_changed_disabled_and_enabled(gateway: HttpCaller) -> None:
    path = f"/callbacks/{(await created(gateway))['id']}"
    changed = (await gateway.call("PATCH", path, {"url": f"{URL}/new", "events": ["job.*"]})).json
    assert (changed["url"], changed["events"]) == (f"{URL}/new", ["job.*"])
    assert mistakes(await gateway.call("PATCH", path, {"url": "nowhere"})) == ["url"]
    assert mistakes(await gateway.call("PATCH", path, {"events": ["x"]})) == ["events[0]"]
    assert (await gateway.call("PATCH", path, {"disabled": True})).json["disabled_reason"] == "on request"
    assert (await gateway.post(f"{path}/test")).status == 409
    assert (await gateway.post(f"{path}/replay", {"dead": True})).status == 409
    assert (await gateway.call("PATCH", path, {"disabled": False})).json["disabled_at"] is None
    assert (await gateway.post(f"{path}/test")).status == 202


async def test_a_secret_is_shown_once(gateway: HttpCaller) -> None:
    one = await created(gateway, secret=SECRET)
    assert one["secret"] == SECRET
    path = f"/callbacks/{one['id']}"
    rotated = (await gateway.post(f"{path}/secret", {"overlap_seconds": 60})).json
    assert rotated["secret"] != SECRET
    assert rotated["previous_secret_until"] is not None
    shown = [
        await gateway.get(path),
        await gateway.get("/callbacks?limit=1000"),
        await gateway.get("/audit?limit=1000"),
    ]
    for reply in shown:
        assert b"whsec_" not in reply.body
    again = (await gateway.post(f"{path}/secret", {"secret": SECRET, "overlap_seconds": 0})).json
    assert (again["secret"], again["previous_secret_until"]) == (SECRET, None)


async def test_what_is_managed_is_in_the_audit_log(gateway: HttpCaller) -> None:
    one = await created(gateway)
    path = f"/callbacks/{one['id']}"
    await gateway.call("PATCH", path, {"disabled": True})
    await gateway.call("DELETE", path)
    actions = (await gateway.get(f"/audit?subject={one['id']}")).json["actions"]
    assert [action["action"] for action in actions] == ["callback.remove", "callback.change", "callback.create"]
    assert actions[1]["after"] == {"disabled": True}


async def test_the_number_of_callbacks_is_bounded(gateway: HttpCaller) -> None:
    await gateway.post("/tenants", {"name": "many"})
    headers = {"Penstock-Tenant": "many"}
    replies = [await gateway.call("POST", "/callbacks", {"url": URL}, headers=headers) for _ in range(51)]
    assert [reply.status for reply in replies] == [201] * 50 + [503]


async def test_replays_name_deliveries_of_the_tenant(gateway: HttpCaller) -> None:
    path = f"/callbacks/{(await created(gateway))['id']}/replay"
    assert mistakes(await gateway.post(path, {"ids": ["msg_1"]})) == ["ids[0]"]
    assert mistakes(await gateway.post(path, {"ids": ["msg_2_1-1-1"]})) == ["ids[0]"]
    assert mistakes(await gateway.post(path, {"ids": ["msg_1_99999999999999999999-1-1"]})) == ["ids[0]"]
    assert mistakes(await gateway.post(path, {})) == ["ids"]
    assert mistakes(await gateway.post(path, {"ids": ["msg_1_1-1-1"], "dead": True})) == ["ids"]
    assert (await gateway.post(path, {"ids": ["msg_1_1-1-1"]})).json == {"replayed": 0}
    assert (await gateway.post(f"/callbacks/{uuid4()}/replay", {"dead": True})).status == 404
