"""No replica outlives its host, however the host ends; nor does what a replica has started."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.processes import alive, children
from tests.support.waiting import until

HOST = """
import asyncio, sys
from pathlib import Path
from penstock.telemetry import logs
from tests.support.models import model_host

async def main():
    async with model_host(Path(sys.argv[1])) as models:
        model = await models.serve("stubborn", '''
import signal, subprocess, sys, time

class Model:
    def load(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

    def predict(self) -> list[int]:
        return [self.child.pid]

    def unload(self):
        time.sleep(300)
''')
        child, = await models.call(model, {})
        print(model.replicas[0].pid, child, flush=True)
        await asyncio.sleep(300)

logs.configure(stream=sys.stderr)
asyncio.run(main())
"""


async def test_replicas_end_with_their_host(tmp_path: Path) -> None:
    """Killed with SIGKILL: within five seconds neither replica nor its child is left, though it ignores signals."""
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert host.stdout is not None
    try:
        replica, child = map(int, (await host.stdout.readline()).split())
        assert alive(replica)
        assert alive(child)
        assert replica in children(host.pid)
    finally:
        host.kill()
        await host.wait()
    await until(lambda: not alive(replica) and not alive(child), "no orphan is left")
