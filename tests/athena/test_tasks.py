"""Calls that are not in real time, and data that messages name by its address."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.masking import Secret
from penstock.web.limits import Limits
from tests.athena.test_webgate import OCR, PNG, envelope, new_credential, post, signed
from tests.support.engines import put_engine, put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.http_servers import running

SAY = """
    class Model:
        def predict(self, text: str) -> str:
            return text
"""


@pytest.fixture(scope="module")
async def operator(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    put_engine(folder)
    put_python(folder, "say", SAY)
    async with running_gateway(
        module_database_url,
        models_folder=folder,
        ai_service_token=Secret("operators-token"),
        penstock_fetch_networks=("127.0.0.0/8",),
        penstock_max_call_bytes=2**18,
    ) as caller:
        yield caller


@pytest.fixture
async def credential(operator: HttpCaller) -> dict[str, Any]:
    return await new_credential(operator, services=["ocr", "say"])


def task(**header: Any) -> dict[str, Any]:
    return envelope(header={"app_id": "app-1", "downMethod": "async", "uid": "ada"} | header)


async def state(operator: HttpCaller, credential: dict[str, Any], task_id: str) -> Any:
    path = f"{OCR}/tasks/{task_id}"
    return await operator.call("GET", signed(credential, path, method="GET"), headers={"Authorization": ""})


class TestTasks:
    """A message with ``downMethod: async``."""

    async def test_it_becomes_a_job_whose_result_is_read_later(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        reply = await post(operator, signed(credential), task())
        assert reply.status == 200, reply.body
        header = reply.json["header"]
        assert (header["code"], header["task_status"]) == (0, "1")
        assert "payload" not in reply.json
        (job,) = await operator.claim(task_types=["predict"])
        assert (job["id"], job["model_profile"], job["user_id"]) == (header["task_id"], "ocr", "ada")
        assert job["input"]["payload"]["img"]["image"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
        assert (await state(operator, credential, job["id"])).json["header"]["task_status"] == "2"
        crop = "data:image/png;base64," + base64.b64encode(PNG[::-1]).decode()
        result = {"payload": {"boxes": {"text": "[1]", "status": 3, "format": "json"}, "crop": {"image": crop}}}
        done = await operator.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": result})
        assert done.status == 200
        found = (await state(operator, credential, job["id"])).json
        assert (found["header"]["task_status"], found["header"]["sid"]) == ("3", header["sid"])
        assert found["payload"]["boxes"]["text"] == [1]
        assert base64.b64decode(found["payload"]["crop"]["image"]) == PNG[::-1]

    async def test_a_failed_task_has_its_code(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        task_id = (await post(operator, signed(credential), task())).json["header"]["task_id"]
        (job,) = await operator.claim(task_types=["predict"])
        failure = {"epoch": job["epoch"], "category": "bad_input", "message": "no"}
        assert (await operator.post(f"/jobs/{job['id']}/fail", failure)).status == 200
        reply = await state(operator, credential, task_id)
        assert reply.status == 400, reply.body
        header = reply.json["header"]
        assert (header["code"], header["task_id"], header["task_status"]) == (10163, task_id, "4")

    async def test_a_task_that_will_be_tried_again_has_not_failed(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        task_id = (await post(operator, signed(credential), task())).json["header"]["task_id"]
        (job,) = await operator.claim(task_types=["predict"])
        failure = {"epoch": job["epoch"], "category": "internal", "message": "no"}
        assert (await operator.post(f"/jobs/{job['id']}/fail", failure)).status == 200
        reply = await state(operator, credential, task_id)
        assert (reply.status, reply.json["header"]["code"], reply.json["header"]["task_status"]) == (200, 0, "1")
        assert (await operator.post(f"/jobs/{job['id']}/cancel", {})).status == 200

    async def test_a_cancelled_task_is_reported_as_failed(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        task_id = (await post(operator, signed(credential), task())).json["header"]["task_id"]
        assert (await operator.post(f"/jobs/{task_id}/cancel", {})).status == 200
        reply = await state(operator, credential, task_id)
        header = reply.json["header"]
        assert (reply.status, header["code"], header["task_status"]) == (502, 10909, "4")
        assert "cancelled" in header["message"]

    async def test_results_have_the_attributes_that_the_call_itself_returns(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        parameter = {"ocr": {"boxes": {"encoding": "gbk", "compress": "gzip"}}}
        called = await post(operator, signed(credential), envelope(parameter=parameter))
        assert called.status == 200, called.body
        await post(operator, signed(credential), task() | {"parameter": parameter})
        (job,) = await operator.claim(task_types=["predict"])
        result = {"payload": {"boxes": {"text": "[1]", "status": 3}}}
        done = await operator.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": result})
        assert done.status == 200
        found = (await state(operator, credential, job["id"])).json["payload"]["boxes"]
        theirs = called.json["payload"]["boxes"]
        assert found.keys() == theirs.keys()
        assert all(found[name] == theirs[name] for name in found.keys() - {"text"})

    async def test_results_of_other_models_have_the_expected_attributes(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        message = {
            "header": {"app_id": "app-1", "downMethod": "async"},
            "parameter": {"say": {"result": {"encoding": "gbk"}}},
            "payload": {"text": {"text": base64.b64encode(b"Ada").decode()}},
        }
        reply = await post(operator, signed(credential, "/v1/private/say"), message)
        assert reply.status == 200, reply.body
        (job,) = await operator.claim(task_types=["predict"])
        done = await operator.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": "\u4f60"})
        assert done.status == 200
        path = f"/v1/private/say/tasks/{job['id']}"
        found = await operator.call("GET", signed(credential, path, method="GET"), headers={"Authorization": ""})
        text = found.json["payload"]["result"]
        assert (text["encoding"], base64.b64decode(text["text"])) == ("gbk", "\u4f60".encode("gbk"))

    async def test_attributes_that_a_task_cannot_keep_are_refused(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        message = {
            "header": {"app_id": "app-1", "downMethod": "async"},
            "parameter": {"say": {"result": {"note": "x" * 100}}},
            "payload": {"text": {"text": base64.b64encode(b"Ada").decode()}},
        }
        reply = await post(operator, signed(credential, "/v1/private/say"), message)
        assert reply.status == 400, reply.body
        assert "parameter.say.result.note" in reply.json["header"]["message"]

    async def test_a_task_id_with_other_data_is_refused_by_its_name(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        assert (await post(operator, signed(credential), task(task_id="order-8"))).status == 200
        other = task(task_id="order-8") | {"parameter": {"ocr": {"lang": "en"}}}
        reply = await post(operator, signed(credential), other)
        assert reply.status == 400, reply.body
        assert "header.task_id: was used for another" in reply.json["header"]["message"]
        assert "idempotency_key" not in reply.json["header"]["message"]

    async def test_a_repeated_request_with_its_task_id_is_the_same_task(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        message = task(task_id="order-7")
        first, second = [await post(operator, signed(credential), message) for _ in range(2)]
        assert first.status == second.status == 200, second.body
        assert first.json["header"]["task_id"] == second.json["header"]["task_id"]
        other = await new_credential(operator, services=["ocr"])
        theirs = await post(operator, signed(other), message)
        assert theirs.json["header"]["task_id"] != first.json["header"]["task_id"]
        assert (await state(operator, other, first.json["header"]["task_id"])).status == 404

    @pytest.mark.parametrize("task_id", ["x", "01990000-0000-7000-8000-000000000007"])
    async def test_an_unknown_task_is_not_found(
        self, operator: HttpCaller, credential: dict[str, Any], task_id: str
    ) -> None:
        assert (await state(operator, credential, task_id)).status == 404

    @pytest.mark.parametrize(
        ("header", "field"),
        [
            ({"task_id": "x" * 300}, "header.task_id"),
            ({"callback_url": "ftp://x"}, "header.callback_url"),
            ({"callback_url": "http://169.254.169.254/"}, "header.callback_url"),
        ],
    )
    async def test_a_wrong_field_is_named(
        self, operator: HttpCaller, credential: dict[str, Any], header: dict[str, Any], field: str
    ) -> None:
        reply = await post(operator, signed(credential), task(**header))
        assert reply.status == 400, reply.body
        assert field in reply.json["header"]["message"]


class TestSources:
    """Data objects with ``dataSrc``."""

    async def test_data_is_fetched_by_http(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        async def picture(_request: web.Request) -> web.Response:
            return web.Response(body=PNG)

        async with running(picture) as server:
            payload = {"img": {"dataSrc": "http", "url": f"{server}/a.png", "encoding": "png"}}
            reply = await post(operator, signed(credential), envelope(payload=payload))
        assert reply.status == 200, reply.body
        assert reply.json["payload"]["boxes"]["text"]["bytes"] == len(PNG)

    @pytest.mark.parametrize(
        ("stated", "field", "why"),
        [
            ({"dataSrc": "http"}, "payload.img.url", "is required"),
            ({"dataSrc": "http", "url": "file:///etc/passwd"}, "payload.img.url", "http://"),
            ({"dataSrc": "http", "url": "http://169.254.169.254/x"}, "payload.img.url", ""),
            ({"dataSrc": "http", "url": "http://10.0.0.1/x"}, "payload.img.url", ""),
            ({"dataSrc": "s3", "bucket": "b"}, "payload.img.dataSrc", "presigned"),
            ({"dataSrc": 7}, "payload.img.dataSrc", "must be http or client"),
        ],
    )
    async def test_what_cannot_be_fetched_is_named(
        self, operator: HttpCaller, credential: dict[str, Any], stated: dict[str, Any], field: str, why: str
    ) -> None:
        reply = await post(operator, signed(credential), envelope(payload={"img": stated}))
        assert reply.status == 400, reply.body
        message = reply.json["header"]["message"]
        assert field in message
        assert why in message

    async def test_what_is_fetched_has_a_bound(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        async def respond(request: web.Request) -> web.Response:
            if request.path == "/large":
                return web.Response(body=bytes(2**18))
            if request.path == "/moved":
                raise web.HTTPFound("/large")
            raise web.HTTPNotFound

        async with running(respond) as server:
            for path, why in (("large", "more than the 131072 bytes"), ("moved", "status 302"), ("none", "status 404")):
                payload = {"img": {"dataSrc": "http", "url": f"{server}/{path}"}}
                reply = await post(operator, signed(credential), envelope(payload=payload))
                assert reply.status == 400
                assert why in reply.json["header"]["message"]

    @pytest.mark.parametrize(("space", "status"), [(3 * 2**20, 200), (2**20, 503)])
    async def test_what_is_fetched_counts_as_bodies_do(
        self, module_database_url: str, tmp_path: Path, space: int, status: int
    ) -> None:
        """It takes memory that all requests share, until the response; the second request needs that of the first."""

        async def picture(_request: web.Request) -> web.Response:
            return web.Response(body=PNG)

        put_engine(tmp_path)
        async with (
            running(picture) as server,
            running_gateway(
                module_database_url,
                models_folder=tmp_path,
                limits=Limits(bodies_bytes=space),
                ai_service_token=Secret("operators-token"),
                penstock_fetch_networks=("127.0.0.0/8",),
            ) as other,
        ):
            key = await new_credential(other, services=["ocr"])
            payload = {"img": {"dataSrc": "http", "url": f"{server}/a.png", "encoding": "png"}}
            for _ in range(2):
                reply = await post(other, signed(key), envelope(payload=payload))
                assert reply.status == status, reply.body
                assert reply.json["header"]["code"] == (0 if status == 200 else 10110)
