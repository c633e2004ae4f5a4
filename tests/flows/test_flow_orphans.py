"""No process of flows outlives the service, however that ends; nor does what a side effect has started."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.flows.conftest import Write
from tests.support.processes import alive
from tests.support.waiting import until

FLOW = """
import asyncio, sys
from penstock.flows import flow, run

async def starts() -> int:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(300)")
    return child.pid

@flow(name="starts", version="1")
async def parent() -> int:
    return await run.side_effect(starts)
"""
SERVICE = """
import asyncio, os, sys
from pathlib import Path
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from penstock.telemetry import logs
from tests.support.flow_stores import StoredRun

async def main():
    process = FlowProcess(FlowFolders.of(Path(sys.argv[1])), ours=os.environ, private=frozenset())
    await process.start()
    turn = await process.begin(StoredRun("starts", {}).history())
    print(process.pid, bytes(turn.recorded[0].value).decode(), flush=True)
    await asyncio.sleep(300)

logs.configure(stream=sys.stderr)
asyncio.run(main())
"""


async def test_the_process_of_flows_ends_with_its_service(tmp_path: Path, write: Write) -> None:
    write("starts.py", FLOW)
    service = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVICE,
        str(tmp_path / "flows"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert service.stdout is not None
    try:
        program, child = map(int, (await service.stdout.readline()).split())
        assert alive(program)
        assert alive(child)
    finally:
        service.kill()
        await service.wait()
    await until(lambda: not alive(program) and not alive(child), "no orphan is left")
