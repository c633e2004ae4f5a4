"""Documents beside manifests, categories, and several services in one message."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.athena.protocol.data import DataObject, DataType
from penstock.athena.webgate.division import divide, hand_on
from penstock.errors import InvalidInput
from penstock.masking import Secret
from penstock.models.checking import Checker
from tests.support.engines import OCR, put_engine, put_python
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.waiting import until

UPPER = """
    class Model:
        def predict(self, text: str, mark: str = "") -> str:
            return text.upper() + mark
"""
COUNT = """
    class Model:
        def predict(self, text: str) -> dict[str, int]:
            return {"letters": len(text)}
"""
WAITING = """
    import os, time

    class Model:
        def predict(self, text: str, wait_for: str = "", write: str = "") -> str:
            if write:
                open(write, "w").close()
            while wait_for and not os.path.exists(wait_for):
                time.sleep(0.002)
            return text
"""
DOCUMENT: dict[str, Any] = {
    "meta": {
        "serviceId": "s67c9c78c",
        "route": ["/read", "/v2/private/reader"],
        "sub": "rdr",
        "codeMap": {"10909": 418},
        "build_header": True,
        "s67c9c78c": {"input": {"img": {"dataType": "image"}}, "accept": {"boxes": {"dataType": "text"}}},
    },
    "schemainput": {
        "type": "object",
        "properties": {
            "header": {"type": "object", "properties": {"app_id": {"type": "string"}, "trace": {"type": "string"}}},
            "parameter": {
                "type": "object",
                "properties": {
                    "s67c9c78c": {
                        "type": "object",
                        "properties": {
                            "language": {"type": "string", "replaceKey": "lang", "defaultVal": "zh"},
                            "scale": {"constVal": 3},
                            "boxes": {"type": "object", "properties": {"format": {"constVal": "json"}}},
                        },
                    }
                },
            },
        },
    },
}
CATEGORY = {
    "meta": {
        "serviceId": "text",
        "type": "category",
        "subRoute": [
            {"subServiceId": "upper", "rules": {"$.header.kind": "upper"}},
            {"subServiceId": "count", "priority": 2, "rules": {"$.header.kind": ["count", "length"]}},
        ],
    }
}


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    put_engine(folder, name="reader")
    (folder / "reader" / "athena.json").write_text(json.dumps(DOCUMENT))
    put_engine(folder, OCR, name="broken")
    (folder / "broken" / "athena.json").write_text('{"meta": {"serviceId": 7}}')
    for name, code in (("upper", UPPER), ("count", COUNT), ("one", WAITING), ("two", WAITING), ("text", UPPER)):
        put_python(folder, name, code)
    (folder / "text" / "athena.json").write_text(json.dumps(CATEGORY))
    async with running_gateway(
        module_database_url, models_folder=folder, ai_service_token=Secret("operators-token")
    ) as caller:
        yield caller


async def post(caller: HttpCaller, path: str, message: Any) -> Reply:
    async with caller.session.post(caller.address + path, json=message) as response:
        return Reply(status=response.status, headers=response.headers.copy(), body=await response.read())


def text(value: str) -> dict[str, Any]:
    return {"text": base64.b64encode(value.encode()).decode()}


def plain(reply: Reply, name: str) -> Any:
    """Return a result, decoded unless it is JSON."""
    found = reply.json["payload"][name]["text"]
    return base64.b64decode(found).decode() if isinstance(found, str) else found


class TestDocuments:
    """A document of the operator beside a manifest."""

    @pytest.mark.parametrize("path", ["/v1/private/reader", "/v1/private/s67c9c78c", "/read", "/v2/private/reader"])
    async def test_its_rules_apply_at_each_of_its_addresses(self, caller: HttpCaller, path: str) -> None:
        message = {"header": {"app_id": "a", "trace": "t-1", "other": "x"}, "payload": {"img": {"image": ""}}}
        reply = await post(caller, path, message)
        assert reply.status == 200, reply.body
        seen = reply.json["payload"]["boxes"]["text"]
        assert (seen["lang"], seen["scale"]) == ("zh", 3)
        header = reply.json["header"]
        assert header["sid"].startswith("rdr")
        assert (header["app_id"], header["trace"]) == ("a", "t-1")
        assert "other" not in header

    async def test_codes_have_the_statuses_that_it_maps(self, caller: HttpCaller) -> None:
        message = {"parameter": {"s67c9c78c": {"act": "raise"}}}
        reply = await post(caller, "/read", message)
        assert (reply.status, reply.json["header"]["code"]) == (418, 10909)

    async def test_a_wrong_document_is_reported(self, caller: HttpCaller) -> None:
        reply = await post(caller, "/v1/private/broken", {})
        assert reply.status == 503
        assert "meta.serviceId: must be a text" in reply.json["header"]["message"]

    async def test_a_wrong_document_is_read_once(self, caller: HttpCaller) -> None:
        """Requests to unknown paths, which any client may send, read no files again."""
        document = caller.parts.models.find("broken").model.folder / "athena.json"
        await post(caller, "/v1/private/broken", {})
        before = document.read_text()
        document.write_text(json.dumps({"meta": {"serviceId": "mended", "route": "/mended"}}))
        try:
            reply = await post(caller, "/v1/private/broken", {})
            assert (reply.status, (await post(caller, "/mended", {})).status) == (503, 404)
        finally:
            document.write_text(before)

    async def test_a_category_passes_a_message_to_the_service_whose_rules_it_meets(self, caller: HttpCaller) -> None:
        for kind, expected in (("upper", "ABC"), ("length", {"letters": 3})):
            message = {"header": {"kind": kind}, "payload": {"text": text("abc")}}
            reply = await post(caller, "/v1/private/text", message)
            assert plain(reply, "result") == expected
        reply = await post(caller, "/v1/private/text", {"header": {"kind": "none"}})
        assert (reply.status, reply.json["header"]["code"]) == (400, 10163)
        assert "meets no rules" in reply.json["header"]["message"]


class TestSeveralServices:
    """One message for several services."""

    async def test_they_are_called_side_by_side(self, caller: HttpCaller, tmp_path_factory: Any) -> None:
        """Each of the two waits for what the other writes."""
        folder = tmp_path_factory.mktemp("files")
        message = {
            "parameter": {
                "one": {"wait_for": str(folder / "b"), "write": str(folder / "a")},
                "two": {"wait_for": str(folder / "a"), "write": str(folder / "b")},
            },
            "payload": {"one_text": text("first"), "two_text": text("second")},
        }
        reply = await post(caller, "/v1/private/one", message)
        assert reply.status == 200, reply.body
        assert (plain(reply, "one_result"), plain(reply, "two_result")) == ("first", "second")

    async def test_in_a_row_each_gets_the_results_of_the_one_before(self, caller: HttpCaller) -> None:
        message = {
            "header": {"services": "upper>one>count"},
            "parameter": {"upper": {"mark": "!"}},
            "payload": {"upper_text": text("abc")},
        }
        reply = await post(caller, "/v1/private/upper", message)
        assert reply.status == 200, reply.body
        assert plain(reply, "upper_result") == "ABC!"
        assert plain(reply, "one_result") == "ABC!"
        assert plain(reply, "count_result") == {"letters": 4}

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"payload": {"three_text": text("x")}}, "payload.three_text"),
            ({"payload": {"upper_text": text("x"), "count_text": {"text": "*"}}}, "payload.count_text.text"),
            ({"parameter": {"upper": {"mark": 7}, "count": {}}}, "parameter.upper.mark"),
            ({"header": {"services": "upper>upper"}}, "header.services"),
            ({"parameter": {"upper": {}, "nope": {}}}, "parameter.nope: is not the name of a service"),
            ({"header": {"services": 5}}, "header.services"),
            ({"header": {"services": ["upper", "one"]}}, "header.services"),
            ({"header": {"services": ",".join(f"m{i}" for i in range(20))}}, "at most 16"),
        ],
    )
    async def test_a_mistake_names_the_field_of_the_whole_message(
        self, caller: HttpCaller, changes: dict[str, Any], field: str
    ) -> None:
        message = {
            "parameter": {"upper": {}, "count": {}},
            "payload": {"upper_text": text("x"), "count_text": text("y")},
        }
        reply = await post(caller, "/v1/private/upper", message | changes)
        assert reply.status in {400, 404}, reply.body
        assert field in reply.json["header"]["message"]

    async def test_a_task_is_for_one_service(self, caller: HttpCaller) -> None:
        message = {"header": {"services": "one,two", "downMethod": "async"}, "payload": {"one_text": text("a")}}
        reply = await post(caller, "/v1/private/one", message)
        assert reply.status == 400, reply.body
        assert "header.downMethod" in reply.json["header"]["message"]

    async def test_the_failure_of_one_ends_the_others(self, caller: HttpCaller) -> None:
        message = {
            "parameter": {"one": {"wait_for": "/nowhere"}, "reader": {"act": "raise"}},
            "payload": {"one_text": text("x"), "reader_img": {"image": ""}},
        }
        reply = await post(caller, "/v1/private/one", message)
        assert (reply.status, reply.json["header"]["code"]) == (502, 10909)
        deployment = caller.parts.models.find("one")
        await until(lambda: deployment.waiting == 0, "no call of it waits")

    def test_a_name_belongs_to_the_longest_service(self) -> None:
        message = {
            "parameter": {"a": {}, "a_b": {}},
            "payload": {"a_b_c": {"text": ""}, "a_x": {"text": ""}, "a_b": {"text": ""}},
        }
        division = divide(message, {"a", "a_b"}.__contains__)
        assert division is not None
        assert {part.service: sorted(part.message["payload"]) for part in division.parts} == {
            "a": ["x"],
            "a_b": ["a_b", "c"],
        }

    def test_one_service_with_several_names_of_parameters_is_not_divided(self) -> None:
        assert divide({"parameter": {"a": {}, "other": {}}}, {"a"}.__contains__) is None
        assert divide({"parameter": {"a": {}}}, {"a"}.__contains__) is None
        assert divide({}, bool) is None

    def test_results_are_handed_on_by_name_then_by_type(self) -> None:
        results = [
            DataObject(name="text", data=b"1"),
            DataObject(name="picture", type=DataType.IMAGE),
            DataObject(name="more", data=b"2"),
            DataObject(name="left", data=b"3"),
        ]
        takes = {"text": DataType.TEXT, "note": DataType.TEXT, "img": DataType.IMAGE}
        assert {name: one.data for name, one in hand_on(results, takes).items()} == {
            "text": b"1",
            "img": b"",
            "note": b"2",
        }

    @pytest.mark.parametrize("payload", [7, [], "x"])
    def test_a_payload_of_another_kind_is_refused(self, payload: Any) -> None:
        with pytest.raises(InvalidInput):
            divide({"parameter": {"a": {}, "b": {}}, "payload": payload}, {"a", "b"}.__contains__)


class TestDescriptions:
    """OpenAPI of a service, and the page to try it."""

    async def test_a_service_is_described_as_openapi(self, caller: HttpCaller) -> None:
        async with caller.session.get(caller.address + "/v1/private/reader/openapi.json") as response:
            found = await response.json()
        assert response.status == 200
        assert list(found["paths"]) == ["/read"]
        given = found["paths"]["/read"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        stated = given["properties"]["parameter"]["properties"]["s67c9c78c"]["properties"]
        assert stated["language"] == {"type": "string", "default": "zh"}
        assert stated["scale"] == {"const": 3}
        assert found["x-athena"]["inputs"] == {"img": "image"}
        assert found["x-athena"]["routes"] == ["/read", "/v2/private/reader", "/v1/private/reader"]
        for schema in (given, found["paths"]["/read"]["post"]["responses"]["200"]["content"]["application/json"]):
            Checker.check_schema(schema.get("schema", schema), "schema")

    async def test_a_description_needs_the_sender_of_a_call(self, caller: HttpCaller) -> None:
        reply = await caller.call("GET", "/v1/private/reader/openapi.json", headers={"Authorization": ""})
        assert reply.status == 401
        reply = await caller.call("GET", "/v1/private/none/openapi.json")
        assert (reply.status, reply.json) == (404, {"message": "not found"})

    async def test_the_page_loads_its_parts_from_this_server_only(self, caller: HttpCaller) -> None:
        async with caller.session.get(caller.address + "/v1/private/reader/try") as response:
            text = await response.text()
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        parts = re.findall(r'(?:src|href)="([^"]+)"', text)
        own = sorted(part for part in parts if part != "data:,")
        assert own == ["/athena/try/page.css", "/athena/try/page.js", "/athena/try/stream.js"]
        for path in own:
            async with caller.session.get(caller.address + path) as response:
                assert response.status == 200
                assert b"http://" not in await response.read()
