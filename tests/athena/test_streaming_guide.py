"""The client in the guide to sessions works as written."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from penstock.masking import Secret
from tests.support.engines import put_python
from tests.support.gateways import running_gateway
from tests.support.waiting import within

GUIDE = (Path(__file__).parents[2] / "docs" / "athena" / "streaming.md").read_text()
MODEL = """
    from collections.abc import AsyncIterator
    from penstock import Audio

    class Model:
        async def predict(self, audio: Audio) -> str:
            return "all at once"

        async def session(self, parts: AsyncIterator[Audio]) -> AsyncIterator[str]:
            total = 0
            async for part in parts:
                total += len(part.data)
                yield f"{len(part.data)} bytes"
            yield f"{total} bytes in all"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    path = tmp_path / "recognise.py"
    path.write_text(code)
    (tmp_path / "sound.raw").write_bytes(bytes(7000))
    return path


async def test_the_client_prints_results_and_errors(database_url: str, tmp_path: Path, script: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    put_python(models, "asr", MODEL)
    async with running_gateway(
        database_url, models_folder=models, ai_service_token=Secret("operators-token")
    ) as caller:
        url = caller.address.replace("http://", "ws://") + "/v1/private/asr"

        async def run(*arguments: str) -> tuple[int | None, str, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(script), url, str(tmp_path / "sound.raw"), *arguments, stdout=PIPE, stderr=PIPE
            )
            out, errors = await within(process.communicate(), 60)
            return process.returncode, out.decode(), errors.decode()

        code, out, errors = await run("operators-token")
        # The samples get a wav header of 44 bytes for a model that is not an engine.
        assert (code, errors) == (0, "")
        assert out.splitlines() == ["3244 bytes", "3244 bytes", "644 bytes", "7132 bytes in all"]
        code, out, errors = await run("wrong")
        assert code == 1
        assert "401" in errors
