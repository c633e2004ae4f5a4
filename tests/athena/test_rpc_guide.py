"""The example of docs/athena/rpc.md runs as it stands."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.athena.rpc import model
from tests.support.engines import put_engine
from tests.support.gateways import running_gateway
from tests.support.waiting import until

GUIDE = Path(__file__).parents[2] / "docs" / "athena" / "rpc.md"


async def test_the_example_calls_an_engine(
    module_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the port of this gateway in place of the original's."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    models = tmp_path / "models"
    models.mkdir()
    put_engine(models)
    (tmp_path / "page.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_KEY", "none")
    async with running_gateway(module_database_url, models_folder=models, penstock_athena_grpc_port=0) as gateway:
        atom = gateway.parts.athena.atom
        assert atom is not None
        found: dict[str, Any] = {}
        script = compile(code.replace("5090", str(atom.server.port)), str(GUIDE), "exec")
        await asyncio.to_thread(exec, script, found)
        output = found["output"]
        assert (output.code, output.pl[0].meta.name) == (0, "boxes"), output
        await until(lambda: model(gateway, "ocr").in_flight == 0, "the call has ended")
