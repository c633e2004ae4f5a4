"""The examples of docs/marketplace.md: the files are those that `app new` writes, and the commands work."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.processes import clean_environment
from tests.support.serve import serving

GUIDE = (Path(__file__).parents[2] / "docs" / "marketplace.md").read_text()
PAGE = GUIDE[: GUIDE.index("## The manifest")]
FILES = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.DOTALL))
FIRST, *COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


async def run(script: str, folder: Path, **variables: str) -> str:
    """Run commands of the page, and return what they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script,
        env=clean_environment(PATH=path, **variables), cwd=folder, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, errors.decode() + out.decode()
    return out.decode()


@pytest.mark.usefixtures("prepared_data")
async def test_the_commands_of_the_page(tmp_path: Path) -> None:
    assert '"problems": []' in await run(FIRST, tmp_path)
    for file, text in FILES.items():
        assert (tmp_path / file).read_text() == text
    async with serving(tmp_path, PENSTOCK_APPS_DIR=str(tmp_path / "apps")) as served:
        url = f"http://127.0.0.1:{served.port}"
        variables = {"PENSTOCK_URL": url, "api": f"{url}/api/v1"}
        ready = "until curl -sf $api/apps/hello/health | grep -q '\"ok\"'; do sleep 0.1; done"
        await run(ready, tmp_path, **variables)
        requests, http = [await run(script, tmp_path, **variables) for script in COMMANDS[:2]]
        assert '"summary": "a penstock feeds…"' in requests
        assert '"result":{"summary":"gates close…","words":2}' in http
        assert '"result":{"summary":"water turns the…","words":3}' in http
        recorded = "until curl -sf $api/apps/hello/stats | grep -q '\"completed\":3'; do sleep 0.1; done"
        await run(recorded, tmp_path, **variables)
        statistics = await run(COMMANDS[2], tmp_path, **variables)
        assert '"units":5.0' in statistics
