"""Wrappers under ``penstock serve``: the guide's example and a stream, by Penstock's API and by Athena's protocol."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from penstock import Client, Status
from tests.models.aiges.test_sessions import pool
from tests.support import wrappers
from tests.support.serve import serving
from tests.support.waiting import until

GUIDE = (Path(__file__).parents[2] / "docs" / "athena" / "wrappers.md").read_text()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"pixels").decode()
STREAM = 'runtime = "aiges"\nconcurrency = 2\n'
SOON = timedelta(seconds=60)

pytestmark = pytest.mark.usefixtures("prepared_data")


def block(language: str) -> str:
    """Return the first example of the guide in a language."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    models = folder / "models"
    for name in ("ocr", "asr"):
        (models / name).mkdir(parents=True)
    manifest = "\n".join(line for line in block("toml").splitlines() if "environment" not in line)
    (models / "ocr" / "model.toml").write_text(manifest)
    (models / "ocr" / "wrapper.py").write_text(block("python"))
    (models / "asr" / "model.toml").write_text(STREAM)
    wrappers.write(models / "asr", pool(handles=2))
    async with serving(folder, PENSTOCK_MODELS_DIR=str(models)) as one, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{one.port}"

        async def described() -> bool:
            async with session.get(f"{url}/api/v1/models") as response:
                return {"ocr", "asr"} <= {model["name"] for model in (await response.json())["models"]}

        await until(described, "both models are there")
        yield session, url


async def test_a_wrapper_is_called_by_both_apis(tmp_path: Path) -> None:
    async with served(tmp_path) as (session, url):
        await _by_the_api_of_models(session, url)
        await _as_a_job(url)
        await _by_the_protocol(session, url)
        await _in_a_session(session, url)


async def _post(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
    async with session.post(url, json=body) as response:
        return response.status, await response.json()


async def _by_the_api_of_models(session: aiohttp.ClientSession, url: str) -> None:
    given = {"parameter": {"lang": "en"}, "payload": {"img": {"image": f"data:image/png;base64,{PNG}"}}}
    status, reply = await _post(session, f"{url}/api/v1/models/ocr/predict", given)
    assert (status, reply) == (200, {"payload": {"boxes": {"text": '{"bytes": 14}', "status": 3}}})
    status, reply = await _post(session, f"{url}/api/v1/models/ocr/predict", {"parameter": {"lang": "de"}})
    assert status == 422
    assert "parameter.lang" in str(reply)
    status, reply = await _post(session, f"{url}/api/v1/models/ocr/predict", {})
    assert status >= 500
    assert "wrapperOnceExec: AttributeError" in str(reply)


async def _as_a_job(url: str) -> None:
    given = {"payload": {"img": {"image": f"data:image/png;base64,{PNG}"}}}
    async with Client(url) as client:
        job = await client.submit("predict", "ocr", given)
        done = await client.wait(job.id, timeout=SOON)
        assert done.status is Status.COMPLETED, done


async def _by_the_protocol(session: aiohttp.ClientSession, url: str) -> None:
    message = {
        "header": {"app_id": "a", "status": 3},
        "parameter": {"ocr": {"lang": "en", "boxes": {"encoding": "utf8", "format": "json"}}},
        "payload": {"img": {"image": PNG, "encoding": "png", "status": 3}},
    }
    status, reply = await _post(session, f"{url}/v1/private/ocr", message)
    assert (status, reply["header"]["code"]) == (200, 0)
    assert reply["payload"]["boxes"]["text"] == {"bytes": 14}
    del message["payload"]
    status, reply = await _post(session, f"{url}/v1/private/ocr", message)
    assert reply["header"]["code"] != 0


async def _in_a_session(session: aiohttp.ClientSession, url: str) -> None:
    async with session.ws_connect(f"{url}/v1/private/asr") as socket:
        for text, status in (("one", 0), ("two", 1), ("three", 2)):
            data = base64.b64encode(text.encode()).decode()
            message = {
                "header": {"app_id": "a", "status": status},
                "payload": {"text": {"text": data, "status": status}},
            }
            await socket.send_bytes(msgspec.json.encode(message))
        heard: list[str] = []
        async for received in socket:
            reply = msgspec.json.decode(received.data)
            assert reply["header"]["code"] == 0, reply
            heard += [base64.b64decode(one["text"]).decode() for one in reply.get("payload", {}).values()]
    assert heard == ["one", "two", "three"]
