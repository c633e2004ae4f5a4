"""``penstock athena schema …``: documents of services from folders, files and gateways, checked and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.command_line import run_command, run_on_terminal
from tests.support.scripted_gateways import scripted_gateway

_MODEL = """
from typing import Annotated, Literal
from pydantic import Field
from penstock import Image

Top = Annotated[int, Field(ge=1, le=5)]

class Model:
    def predict(self, image: Image, top: Top = 3, lang: Literal["en", "zh"] = "en") -> str:
        return lang
"""
_REQUEST = {"header": {"appid": "a"}, "payload": {"image": {"image": "eA=="}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one model."""
    (tmp_path / "ocr").mkdir()
    (tmp_path / "ocr" / "model.toml").write_text('runtime = "python"\n[python]\nclass = "model:Model"\n')
    (tmp_path / "ocr" / "model.py").write_text(_MODEL)
    return tmp_path


async def _document(folder: Path, *options: str) -> Any:
    return (await run_command(folder, "athena", "schema", "generate", "ocr", *options)).json


async def test_a_document_is_made_from_python_types(folder: Path) -> None:
    """In the current dialect, or in the legacy one."""
    current = await _document(folder)
    assert current["meta"]["route"] == "/v1/private/ocr"
    top = current["schemainput"]["properties"]["parameter"]["properties"]["ocr"]["properties"]["top"]
    assert top == {"type": "integer", "minimum": 1, "maximum": 5, "defaultVal": 3}
    legacy = await _document(folder, "--dialect", "legacy")
    stated = legacy["schemainput"]["properties"]["parameter"]["properties"]["ocr"]["properties"]
    assert stated["lang"] == {"type": "string", "enum": ["en", "zh"], "default": "en"}
    wrong = await run_command(folder, "athena", "schema", "generate", "ocr", "--dialect", "new")
    assert (wrong.status, "legacy, current" in wrong.err) == (2, True)


async def test_requests_and_documents_are_checked(folder: Path) -> None:
    """The exit status is for scripts, the table for people."""
    document = await _document(folder)
    (folder / "schema.json").write_text(json.dumps(document))
    (folder / "request.json").write_text(json.dumps(_REQUEST))
    command = ("athena", "schema", "validate", "schema.json")
    assert (await run_command(folder, *command, "@request.json")).json == {"valid": True, "problems": []}
    wrong = json.dumps(_REQUEST | {"parameter": {"ocr": {"top": 9}}})
    done = await run_command(folder, *command, "-", stdin=wrong)
    assert done.status == 1
    (problem,) = json.loads(done.out)["problems"]
    assert problem["field"] == "parameter.ocr.top"
    assert "Valid." in await run_on_terminal(folder, *command)
    later = json.dumps({"payload": {"image": {"image": "eA==", "status": 2}}})
    assert (await run_command(folder, *command, later)).status == 1
    (folder / "schema.json").write_text('{"meta": {}}')
    done = await run_command(folder, *command)
    assert (done.status, json.loads(done.out)["problems"][0]["field"]) == (1, "meta.serviceId")


async def test_documents_are_compared(folder: Path) -> None:
    """The exit status says whether clients break."""
    (folder / "old.json").write_text(json.dumps(await _document(folder)))
    same = await run_command(folder, "athena", "schema", "diff", "old.json", "ocr")
    assert same.json == {"breaking": False, "changes": []}
    (folder / "ocr" / "model.py").write_text(_MODEL.replace("le=5", "le=4"))
    done = await run_command(folder, "athena", "schema", "diff", "old.json", "ocr")
    assert done.status == 1
    (change,) = json.loads(done.out)["changes"]
    assert (change["change"], change["breaking"]) == ("was 5, is 4", True)
    assert "was 4, is 5" in await run_on_terminal(folder, "athena", "schema", "diff", "ocr", "old.json")


async def test_a_document_is_made_from_a_model_of_a_gateway(tmp_path: Path) -> None:
    """By its name, or by a URL; only the gateway of the settings gets the key."""
    view = {
        "name": "m",
        "version": "2",
        "input_schema": {"properties": {"n": {"type": "integer"}}},
        "output_schema": {},
    }

    async def model(_request: web.Request) -> web.Response:
        return web.json_response(view)

    async with scripted_gateway(model) as server:
        own = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": "ps_secret"}
        found = (await run_command(tmp_path, "athena", "schema", "generate", "m", **own)).json
        assert found["meta"]["version"] == "v2"
        other = {"PENSTOCK_URL": "http://127.0.0.1:1", "PENSTOCK_KEY": "ps_secret"}
        again = await run_command(tmp_path, "athena", "schema", "generate", f"{server.url}/m", **other)
        assert again.json == found
    first, second = (headers for *_, headers in server.requests)
    assert first["Authorization"] == "Bearer ps_secret"
    assert "Authorization" not in second


_WRAPPER = """
from aiges.dto import Response, ResponseData
from aiges.sdk import StringBodyField, StringParamField, WrapperBase

class UserRequest(object):
    lang = StringParamField(key="lang", minLength=2, maxLength=5, required=True)
    text = StringBodyField(key="text", value=b"x")

class UserResponse(object):
    accept1 = StringBodyField(key="words")

class Wrapper(WrapperBase):
    serviceId = "split"
    version = "v2"
    requestCls = UserRequest()
    responseCls = UserResponse()

    def wrapperOnceExec(self, params, reqData):
        return Response()
"""


async def test_a_folder_of_the_original_is_a_model(tmp_path: Path) -> None:
    """With its aiges.toml, and without a manifest."""
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "wrapper.py").write_text(_WRAPPER)
    (engine / "aiges.toml").write_text("[split]\n[fc]\nmax = 2\nbest = 1\n[pprof]\nhost = 'h'\n")
    found = (await run_command(tmp_path, "athena", "inspect", "engine")).json
    assert [(one["name"], one["runtime"], one["concurrency"]) for one in found["manifests"]] == [("split", "aiges", 2)]
    assert {one["key"]: one["effect"] for one in found["keys"]} == {
        "fc.max": "honoured",
        "fc.best": "not needed",
        "pprof.host": "unsupported",
    }
    assert "aiges.config" not in await run_on_terminal(tmp_path, "athena", "inspect", "engine")
    document = (await run_command(tmp_path, "athena", "schema", "generate", "engine", "--dialect", "legacy")).json
    assert document["meta"]["route"] == "/v2/private/split"
    parameter = document["schemainput"]["properties"]["parameter"]["properties"]["split"]
    assert parameter["properties"]["lang"] == {"type": "string", "minLength": 2, "maxLength": 5}
    assert parameter["required"] == ["lang"]
