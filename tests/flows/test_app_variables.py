"""The environment variables of apps, whose flows share a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.apps.folder import AppsFolder
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from tests.support.flow_stores import result

FLOW = """
import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from penstock.flows import flow, run

AT_LOAD = os.environ.get("SIZE")
POOL = ThreadPoolExecutor(1)


def read() -> str | None:
    return os.environ.get("SIZE")


async def later() -> list[str | None]:
    loop = asyncio.get_running_loop()
    code = "import os; print(os.environ.get('SIZE'))"
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    printed = (await program.communicate())[0].decode().strip()
    return [read(), await asyncio.to_thread(read), await loop.run_in_executor(None, read), printed]


def in_programs() -> list[str | None]:
    code = "import os; print(os.environ.get('SIZE'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"SIZE": "mine"})
    return [found.stdout.strip(), own.stdout.strip(), POOL.submit(read).result()]


async def undo(_result: object) -> None:
    run.progress(os.environ.get("SIZE"))


@flow(name="NAME", version="1")
async def sized(fail: bool = False) -> dict:
    both = await asyncio.gather(asyncio.create_task(own()), run.side_effect(read))
    effects = [await run.side_effect(later), await run.side_effect(in_programs)]
    listed = {name: value for name, value in os.environ.items() if name in {"SIZE", "ONLY_FIRST", "SHARED"}}
    copied = {name: value for name, value in os.environ.copy().items() if name in {"SIZE", "ONLY_FIRST", "SHARED"}}
    return {"at_load": AT_LOAD, "both": both, "effects": effects, "listed": listed, "same": listed == copied}


async def own() -> str | None:
    return os.getenv("SIZE")
"""


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[FlowProcess]:
    apps = {
        "first": 'SIZE = "1"\nONLY_FIRST = true\nSHARED = "default"\n',
        "second": "SIZE = 2\n",
        "third": "",
    }
    for name, variables in apps.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "app.toml").write_text(f"[variables]\n{variables}")
        (folder / "code.py").write_text(FLOW.replace("NAME", name))
    process = FlowProcess(
        FlowFolders(apps=tmp_path),
        ours={"SHARED": "of the environment"},
        private=frozenset(),
        defaults=AppsFolder(tmp_path).variables,
    )
    await process.start()
    assert process.problems == {}
    yield process
    await process.stop()


@pytest.mark.parametrize(
    ("app", "size", "listed"),
    [
        ("first", "1", {"SIZE": "1", "ONLY_FIRST": "true"}),
        ("second", "2", {"SIZE": "2"}),
        ("third", None, {}),
    ],
)
async def test_code_of_an_app_sees_the_defaults_of_its_own_app_only(
    process: FlowProcess, app: str, size: str | None, listed: dict[str, str]
) -> None:
    for other in ("first", "second", "third"):  # in the same process, and its threads, before
        await result(process, other)
    found = await result(process, app)
    assert found == {
        "at_load": size,
        "both": [size, size],
        "effects": [[size, size, size, str(size)], [str(size), "mine", size]],
        "listed": listed | {"SHARED": "of the environment"},
        "same": True,
    }
