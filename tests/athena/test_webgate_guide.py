"""The examples in docs/athena/webgate.md run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.masking import Secret
from tests.athena.test_services import COUNT, UPPER, plain
from tests.athena.test_webgate import GREET, new_credential
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway

PAGE = (Path(__file__).parents[2] / "docs/athena/webgate.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
async def operator(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    for name, code in (("greet", GREET), ("count", COUNT), ("upper", UPPER)):
        put_python(folder, name, code)
    async with running_gateway(
        module_database_url, models_folder=folder, ai_service_token=Secret("operators-token")
    ) as caller:
        yield caller


async def test_the_client_in_python_signs_and_calls(operator: HttpCaller) -> None:
    (program,) = blocks("python")
    made = await new_credential(operator)
    environment = os.environ | {
        "GATEWAY": operator.address,
        "APP_ID": made["app_id"],
        "API_KEY": made["api_key"],
        "API_SECRET": made["api_secret"],
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert out.decode().strip() == "warm Ada", errors.decode()


async def test_the_messages_do_what_the_page_says(operator: HttpCaller) -> None:
    several, row, task = [json.loads(text) for text in blocks("json")]
    found: Any = await operator.call("POST", "/v1/private/greet", several)
    assert (found.status, plain(found, "greet_result")["said"]) == (200, "cold Ada "), found.body
    assert plain(found, "count_result") == {"letters": 3}
    found = await operator.call("POST", "/v1/private/upper", row)
    assert (plain(found, "upper_result"), plain(found, "count_result")) == ("ADA", {"letters": 3})
    found = await operator.call("POST", "/v1/private/greet", task)
    header = found.json["header"]
    assert header["task_status"] == "1"
    state = await operator.call("GET", f"/v1/private/greet/tasks/{header['task_id']}")
    assert state.json["header"]["task_status"] == "1"
