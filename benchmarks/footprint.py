"""The time from nothing to ready, and the cost of an idle system."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.ground import process, until_ready
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

_SECONDS = 20.0


async def run(_server: EmbeddedServer) -> list[Figure]:
    """Start ``penstock serve`` on an empty folder, then let it idle."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        Path(folder).chmod(0o711)
        port = free_port()
        began = time.perf_counter()
        async with process(
            "-m",
            "penstock",
            "serve",
            HTTP_PORT=str(port),
            WORKER_HTTP_PORT=str(free_port()),
            PENSTOCK_DATA_DIR=f"{folder}/data",
        ) as serve:
            await until_ready(f"http://127.0.0.1:{port}")
            start = time.perf_counter() - began
            await asyncio.sleep(5)  # until the work of start-up has ended
            before = _cpu_seconds(serve.pid)
            await asyncio.sleep(_SECONDS)
            busy = (_cpu_seconds(serve.pid) - before) / _SECONDS
    return [
        Figure(scenario="from nothing to ready", value=start, unit="s", promise=3, at_most=True),
        Figure(
            scenario="idle, all processes and PostgreSQL", value=100 * busy, unit="% of a core", promise=1, at_most=True
        ),
    ]


def _cpu_seconds(root: int) -> float:
    """Return the user and system time of a process and of its living descendants."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(entry.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        ticks[pid] = sum(map(int, fields[11:15]))  # including those of child processes that have ended
    total, queue = 0, [root]
    while queue:
        pid = queue.pop()
        total += ticks.get(pid, 0)
        queue += children.get(pid, [])
    return total / os.sysconf("SC_CLK_TCK")
