"""Once calls over HTTP: engines and other models as services, who may call them, and what fails."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from penstock.masking import Secret
from tests.support.athena_messages import is_session_id
from tests.support.engines import put_engine, put_python
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.waiting import until

OCR = "/v1/private/ocr"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
GREET = """
    from typing import Annotated, Literal
    from pydantic import Field
    from penstock import Image

    class Model:
        def predict(
            self, text: str, tone: Literal["warm", "cold"] = "warm", times: int = 1, picture: Image | None = None
        ) -> dict[str, object]:
            return {"said": f"{tone} {text} " * times, "bytes": len(picture.data) if picture else 0}
"""


@pytest.fixture(scope="module")
async def operator(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN a gateway with an engine and a Python model."""
    folder = tmp_path_factory.mktemp("models")
    put_engine(folder)
    put_python(folder, "greet", GREET)
    async with running_gateway(
        module_database_url, models_folder=folder, ai_service_token=Secret("operators-token")
    ) as caller:
        yield caller


@pytest.fixture(scope="module")
async def credential(operator: HttpCaller) -> dict[str, Any]:
    return await new_credential(operator, services=["ocr", "greet"])


async def new_credential(operator: HttpCaller, **fields: Any) -> dict[str, Any]:
    reply = await operator.call("POST", "/api/v1/athena/keys", {"name": "test", "app_id": "app-1"} | fields)
    assert reply.status == 201, reply.body
    made: dict[str, Any] = reply.json
    return made


def envelope(**changes: Any) -> dict[str, Any]:
    message = {
        "header": {"app_id": "app-1", "status": 3},
        "parameter": {"ocr": {"lang": "zh", "boxes": {"encoding": "utf8", "format": "json"}}},
        "payload": {"img": {"image": base64.b64encode(PNG).decode(), "encoding": "png", "status": 3}},
    }
    return message | changes


def signed(credential: dict[str, Any], path: str = OCR, *, method: str = "POST", at: datetime | None = None) -> str:
    """Return the path with a signature as the original's client makes it."""
    date = format_datetime(at or datetime.now(UTC), usegmt=True)
    text = f"host: 127.0.0.1\ndate: {date}\n{method} {path} HTTP/1.1"
    made = hmac.new(credential["api_secret"].encode(), text.encode(), hashlib.sha256).digest()
    stated = (
        f'api_key="{credential["api_key"]}", algorithm="hmac-sha256", headers="host date request-line", '
        f'signature="{base64.b64encode(made).decode()}"'
    )
    query = {"host": "127.0.0.1", "date": date, "authorization": base64.b64encode(stated.encode()).decode()}
    return f"{path}?{urlencode(query)}"


async def post(operator: HttpCaller, path: str, message: Any, headers: dict[str, str] | None = None) -> Reply:
    """Call without the operator's token."""
    return await operator.call("POST", path, message, headers={"Authorization": ""} | (headers or {}))


class TestCalls:
    """What a call returns."""

    async def test_an_engine_returns_its_results_in_the_documents_form(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        reply = await post(operator, signed(credential), envelope())
        assert reply.status == 200, reply.body
        header, boxes = reply.json["header"], reply.json["payload"]["boxes"]
        assert (header["code"], header["message"], header["status"]) == (0, "success", 3)
        assert is_session_id(header["sid"])
        assert header["sid"].startswith("ocr")
        assert boxes["text"]["lang"] == "zh"
        assert boxes["text"]["bytes"] == len(PNG)
        assert boxes["text"]["sid"] == header["sid"]
        assert (boxes["status"], boxes["format"], boxes["encoding"]) == (3, "json", "utf8")

    async def test_media_are_base64_and_numbers_stay_numbers(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        parameter = {"ocr": {"scale": 0.5, "crop": {"encoding": "png"}, "boxes": {"format": "json"}}}
        reply = await post(operator, signed(credential), envelope(parameter=parameter))
        assert reply.status == 200, reply.body
        payload = reply.json["payload"]
        assert base64.b64decode(payload["crop"]["image"]) == PNG[::-1]
        assert payload["boxes"]["text"]["scale"] == 0.5

    async def test_any_model_is_a_service(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        message = {
            "header": {"appid": "app-1"},
            "parameter": {"greet": {"tone": "cold", "times": "2", "result": {"format": "json"}}},
            "payload": {
                "text": {"text": base64.b64encode(b"Ada").decode(), "encoding": "utf8"},
                "picture": {"image": base64.b64encode(PNG).decode(), "encoding": "png"},
            },
        }
        reply = await post(operator, signed(credential, "/v1/private/greet"), message)
        assert reply.status == 200, reply.body
        assert reply.json["payload"]["result"]["text"] == {"said": "cold Ada cold Ada ", "bytes": len(PNG)}

    async def test_numbers_may_be_sent_as_text(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        """Clients of the original do so."""
        parameter = {"ocr": {"scale": "2.5", "boxes": {"format": "json"}}}
        reply = await post(operator, signed(credential), envelope(parameter=parameter))
        assert reply.status == 200, reply.body
        assert reply.json["payload"]["boxes"]["text"]["scale"] == 2.5

    @pytest.mark.parametrize(
        ("changes", "status", "code", "field"),
        [
            ({"parameter": {"ocr": {"lang": "fr"}}}, 400, 10163, "parameter.ocr.lang"),
            ({"parameter": {"ocr": {"scale": 11}}}, 400, 10163, "parameter.ocr.scale"),
            ({"parameter": {"ocr": {"scale": "much"}}}, 400, 10163, "parameter.ocr.scale"),
            ({"parameter": {"ocr": 7}}, 400, 10163, "parameter.ocr"),
            ({"payload": {"img": {"image": "***"}}}, 400, 10161, "payload.img.image"),
            ({"payload": {"img": {"image": "", "status": 9}}}, 400, 10163, "payload.img.status"),
            ({"payload": {"img": 5}}, 400, 10163, "payload.img"),
            ({"payload": []}, 400, 10163, "payload"),
            ({"header": {"app_id": "app-1", "nested": {}}}, 400, 10163, "header.nested"),
            ({"header": {"app_id": ["app-1"]}}, 400, 10163, "header.app_id"),
            ({"header": {"appid": {}}}, 400, 10163, "header.appid"),
            ({"extra": {}}, 400, 10163, "extra"),
            ({"payload": {"img": {"image": "", "encoding": 7}}}, 400, 10163, "payload.img.encoding"),
        ],
    )
    async def test_a_mistake_names_the_field(
        self,
        operator: HttpCaller,
        credential: dict[str, Any],
        changes: dict[str, Any],
        status: int,
        code: int,
        field: str,
    ) -> None:
        reply = await post(operator, signed(credential), envelope(**changes))
        assert (reply.status, reply.json["header"]["code"]) == (status, code), reply.body
        assert field in reply.json["header"]["message"]
        assert is_session_id(reply.json["header"]["sid"])

    @pytest.mark.parametrize(
        "changes",
        [
            {"header": {"app_id": "app-1", "uid": None, "status": None}},
            {"parameter": {"ocr": {"lang": None, "boxes": {"format": None}}}},
            {"parameter": {"ocr": None}},
            {"parameter": {"ocr": {"boxes": None}}},
            {"payload": {"img": {"image": "AAAA", "encoding": None, "status": None, "seq": None}}},
            {"payload": {"img": {"image": "AAAA"}, "note": None}},
        ],
    )
    async def test_null_stands_for_a_member_that_is_absent(
        self, operator: HttpCaller, credential: dict[str, Any], changes: dict[str, Any]
    ) -> None:
        reply = await post(operator, signed(credential), envelope(**changes))
        assert reply.status == 200, reply.body

    async def test_sections_may_be_null(self, operator: HttpCaller) -> None:
        message = {"header": None, "parameter": None, "payload": {"text": {"text": "QWRh"}}}
        assert (await operator.call("POST", "/v1/private/greet", message)).status == 200
        reply = await operator.call("POST", "/v1/private/greet", message | {"payload": None})
        assert (reply.status, reply.json["header"]["code"]) == (400, 10163)
        assert "is required" in reply.json["header"]["message"]

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, b'{"header":' * 2000])
    async def test_a_body_that_is_no_message_is_refused(
        self, operator: HttpCaller, credential: dict[str, Any], body: bytes
    ) -> None:
        headers = {"Authorization": "", "Content-Type": "application/json"}
        reply = await operator.call("POST", signed(credential), body=body, headers=headers)
        assert reply.status == 400
        assert reply.json["header"]["code"] in {10160, 10163}

    async def test_the_content_type_must_be_json(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        headers = {"Authorization": "", "Content-Type": "text/plain"}
        reply = await operator.call("POST", signed(credential), body=b"{}", headers=headers)
        assert (reply.status, reply.json) == (400, {"message": "content-type must be application/json"})

    async def test_what_an_engine_reports_has_status_502(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        for act, text in (("raise", "the engine is unhappy"), ("nonsense", "payload")):
            reply = await post(operator, signed(credential), envelope(parameter={"ocr": {"act": act}}))
            assert reply.status == 502, reply.body
            assert reply.json["header"]["code"] == 10909
            assert text in reply.json["header"]["message"]

    async def test_an_engine_that_dies_is_reported_at_once_and_replaced(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        reply = await post(operator, signed(credential), envelope(parameter={"ocr": {"act": "exit"}}))
        assert (reply.status, reply.json["header"]["code"]) == (502, 10109), reply.body
        assert (await post(operator, signed(credential), envelope())).status == 200

    async def test_the_end_user_and_the_seconds_of_sound_are_accounted(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        header = {"app_id": "app-1", "uid": "grace"}
        sound = {"audio": base64.b64encode(bytes(24_000)).decode(), "encoding": "raw", "sample_rate": 8000}
        message = envelope(header=header)
        message["payload"]["snd"] = sound
        assert (await post(operator, signed(credential), message)).status == 200

        async def counted() -> bool:
            rows = (await operator.get("/usage?by=user,model")).json["groups"]
            (counted,) = [row for row in rows if row["user"] == "grace"] or [{}]
            return (counted.get("calls"), counted.get("audio_seconds"), counted.get("sessions")) == (1, 1.5, 0)

        await until(counted, "the call is in the ledger")


class TestAddresses:
    """By which addresses a service is found."""

    @pytest.mark.parametrize(
        "path",
        ["/v1/private/ocr", "/v2.1/private/ocr", "/1/private/ocr", "/v1/ocr", "/custom/ocr", "/nowhere?serviceId=ocr"],
    )
    async def test_each_address_leads_to_the_service(self, operator: HttpCaller, path: str) -> None:
        reply = await at(operator, path)
        assert reply.status == 200, reply.body

    @pytest.mark.parametrize("path", ["/v1/private/none", "/v1/none", "/v1/private/ocr?serviceId=none"])
    async def test_an_unknown_service_is_not_found(self, operator: HttpCaller, path: str) -> None:
        reply = await at(operator, path)
        assert (reply.status, reply.json) == (404, {"message": "not found"})

    async def test_other_paths_are_not_of_this_protocol(self, operator: HttpCaller) -> None:
        for path in ("/nowhere", "/a/b/c", "/v1/private/a/b", "/custom/ocr/x"):
            assert (await at(operator, path)).outcome == (404, "not_found")

    async def test_a_get_that_is_no_websocket_says_so(self, operator: HttpCaller) -> None:
        async with operator.session.get(operator.address + OCR) as response:
            assert response.status == 426


async def at(operator: HttpCaller, path: str) -> Reply:
    async with operator.session.post(operator.address + path, json=envelope()) as response:
        return Reply(status=response.status, headers=response.headers.copy(), body=await response.read())


class TestSenders:
    """Who may call."""

    async def test_keys_tokens_and_credentials_are_accepted(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        assert (await operator.call("POST", OCR, envelope())).status == 200
        by_key = {"Authorization": f"Bearer {credential['key']}"}
        assert (await post(operator, OCR, envelope(), by_key)).status == 200
        query = {
            "grant_type": "client_credentials",
            "client_id": credential["api_key"],
            "client_secret": credential["api_secret"],
        }
        token = (await post(operator, f"/oauth2/token?{urlencode(query)}", None)).json["access_token"]
        assert (await post(operator, OCR, envelope(), {"Authorization": f"Bearer {token}"})).status == 200
        assert (await post(operator, f"{OCR}?access_token={token}", envelope())).status == 200

    async def test_a_signature_in_headers_is_accepted(self, operator: HttpCaller, credential: dict[str, Any]) -> None:
        date = format_datetime(datetime.now(UTC), usegmt=True)
        host = operator.address.removeprefix("http://")
        text = f"date: {date}\nhost: {host}\nPOST {OCR} HTTP/1.1"
        made = base64.b64encode(hmac.new(credential["api_secret"].encode(), text.encode(), hashlib.sha512).digest())
        stated = (
            f'hmac api_key="{credential["api_key"]}", algorithm="hmac-sha512", headers="date host request-line", '
            f'signature="{made.decode()}"'
        )
        assert (await post(operator, OCR, envelope(), {"Authorization": stated, "Date": date})).status == 200

    @pytest.mark.parametrize(
        ("header", "status", "message"),
        [
            ({"app_id": "app-2"}, 400, "app_id and api_key does not match"),
            ({}, 400, "app_id cannot be empty"),
            ({"appid": "app-1", "app_id": "app-2"}, 200, "success"),
        ],
    )
    async def test_the_app_id_must_belong_to_the_credentials(
        self, operator: HttpCaller, credential: dict[str, Any], header: dict[str, str], status: int, message: str
    ) -> None:
        reply = await post(operator, signed(credential), envelope(header=header))
        assert (reply.status, reply.json["header"]["message"]) == (status, message)
        assert reply.json["header"]["code"] == (0 if status == 200 else 10313)

    async def test_a_request_without_a_valid_sender_is_refused(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        wrong = credential | {"api_secret": "0" * 32}
        unknown = credential | {"api_key": "0" * 32}
        late = signed(credential, at=datetime.now(UTC) - timedelta(seconds=400))
        for path, status, message in (
            (OCR, 401, "key is needed"),
            (signed(wrong), 401, "HMAC signature does not match"),
            (signed(unknown), 401, "HMAC signature cannot be verified"),
            (signed(credential, method="GET"), 401, "HMAC signature does not match"),
            (late, 403, "a valid date or x-date header is required"),
            (f"{OCR}?authorization=%00%ff&date=x", 401, "HMAC signature cannot be verified"),
            (f"{OCR}?" + "&".join("a=b" for _ in range(200)), 400, "at most"),
        ):
            reply = await post(operator, path, envelope())
            assert reply.status == status, (path, reply.body)
            assert message in reply.json["message"]
        reply = await post(operator, f"{OCR}?access_token=at.x.y", envelope())
        assert (reply.status, reply.json["error"]) == (401, "invalid_token")

    async def test_a_key_for_other_services_sees_none(self, operator: HttpCaller) -> None:
        other = await new_credential(operator, services=["greet"])
        reply = await post(operator, signed(other), envelope())
        assert (reply.status, reply.json) == (404, {"message": "not found"})
        reply = await post(operator, signed(other, "/custom/ocr").replace("/custom", "/custom"), envelope())
        assert reply.status == 404

    async def test_a_key_that_may_not_call_models_is_refused(self, operator: HttpCaller) -> None:
        key = (await operator.call("POST", "/api/v1/keys", {"name": "jobs", "scopes": ["jobs:read"]})).json["key"]
        reply = await post(operator, OCR, envelope(), {"Authorization": f"Bearer {key}"})
        assert reply.status == 403
        assert "not allowed to access this service" in reply.json["message"]

    async def test_a_body_with_a_signed_digest_cannot_be_changed(
        self, operator: HttpCaller, credential: dict[str, Any]
    ) -> None:
        body = msgspec.json.encode(envelope())
        date = format_datetime(datetime.now(UTC), usegmt=True)
        digest = "SHA-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode()
        text = f"date: {date}\nPOST {OCR} HTTP/1.1\ndigest: {digest}"
        made = base64.b64encode(hmac.new(credential["api_secret"].encode(), text.encode(), hashlib.sha256).digest())
        stated = (
            f'hmac api_key="{credential["api_key"]}", headers="date request-line digest", signature="{made.decode()}"'
        )
        headers = {"Authorization": stated, "Date": date, "Digest": digest, "Content-Type": "application/json"}
        assert (await operator.call("POST", OCR, body=body, headers=headers)).status == 200
        reply = await operator.call("POST", OCR, body=body.replace(b"app-1", b"app-2"), headers=headers)
        assert (reply.status, reply.json["message"][:29]) == (401, "HMAC signature does not match")

    async def test_revoking_a_key_ends_its_open_calls(self, operator: HttpCaller) -> None:
        made = await new_credential(operator)
        call = asyncio.create_task(post(operator, signed(made), envelope(parameter={"ocr": {"act": "hang"}})))
        deployment = operator.parts.models.find("ocr")
        await until(lambda: deployment.in_flight > 0, "the call runs")
        assert (await operator.call("POST", f"/api/v1/athena/keys/{made['id']}/revoke")).status == 200
        reply = await asyncio.wait_for(call, 5)
        assert reply.status == 401, reply.body
        assert (await post(operator, signed(made), envelope())).status == 401


async def test_the_form_of_the_loader_is_a_setting(module_database_url: str, tmp_path: Path) -> None:
    put_engine(tmp_path)
    async with running_gateway(
        module_database_url, models_folder=tmp_path, ai_service_token=Secret("t"), penstock_athena_bodies="loader"
    ) as caller:
        reply = await caller.call("POST", OCR, envelope())
        assert reply.status == 200
        assert "message" not in reply.json["header"]
        assert isinstance(reply.json["payload"]["boxes"]["text"], str)
        assert reply.json["payload"]["boxes"]["status"] == "3"
        reply = await caller.call("POST", OCR, envelope(parameter={"ocr": {"lang": "fr"}}))
        assert (reply.status, reply.json["payload"], reply.json["header"]["code"]) == (500, None, 10001)


async def test_a_full_engine_may_refuse_at_once(module_database_url: str, tmp_path: Path) -> None:
    put_engine(tmp_path)
    async with running_gateway(
        module_database_url, models_folder=tmp_path, ai_service_token=Secret("t"), penstock_athena_queue=False
    ) as caller:
        call = asyncio.create_task(caller.call("POST", OCR, envelope(parameter={"ocr": {"act": "hang"}})))
        deployment = caller.parts.models.find("ocr")
        await until(lambda: deployment.in_flight + deployment.waiting > 0, "the call has the place")
        reply = await caller.call("POST", OCR, envelope())
        assert (reply.status, reply.json["header"]["code"]) == (503, 10110)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await until(lambda: deployment.in_flight + deployment.waiting == 0, "the place is free")
        assert (await caller.call("POST", OCR, envelope())).status == 200
