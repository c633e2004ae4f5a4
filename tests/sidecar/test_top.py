"""``penstock top`` as people and scripts use it: one frame, JSON, live on a terminal, and without a gateway."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from rich.console import Console

from penstock.cli.top_views import View, frame
from penstock.jobs.counts import Stats
from penstock.sidecar.infra import InfraStatus, SidecarStatus
from penstock.sidecar.telemetry import Container, Gpu, GpuProcess, HealthCheck, Telemetry, VllmModel, VllmServer
from tests.support.http_servers import closed_port, serving
from tests.support.processes import PENSTOCK, clean_environment
from tests.support.waiting import until

TOKEN = "a-token-that-must-not-be-shown"
GIB = 2**30
TELEMETRY = Telemetry(
    sampled_at=datetime(2026, 1, 1, tzinfo=UTC),
    host="ai-server",
    gpus=[
        Gpu(
            index=0,
            name="NVIDIA A100",
            memory_used_bytes=60 * GIB,
            memory_total_bytes=80 * GIB,
            utilization_percent=87,
            temperature_celsius=64,
            power_watts=312.5,
            power_limit_watts=400,
            processes=[GpuProcess(pid=1, name="python3", memory_bytes=40 * GIB), GpuProcess(pid=4322)],
        ),
        Gpu(index=1),
    ],
    containers=[
        Container(id="8dfafdbc3a40", name="vllm", image="vllm/vllm-openai", state="running", health="healthy"),
        Container(id="8dfafdbc3a41", name="evil\x1b[2J", image="x", state="exited", cpu_percent=150.5),
    ],
    vllm=[
        VllmServer(
            url="http://vllm:8000",
            reachable=True,
            models=[VllmModel(name="qwen2.5-14b", requests_running=5, cache_usage=0.5, prompt_tokens_per_second=1500)],
        ),
        VllmServer(url="http://qwen-audio:8000", reachable=False, error="no response within 3 s"),
    ],
    whisperx=[HealthCheck(url="http://whisperx-1:9000", reachable=True, status=200, latency_ms=3.5)],
    errors={"containers": "cannot connect: Permission denied", "vllm qwen-audio:8000": "no response within 3 s"},
)
INFRA = InfraStatus(
    configured=True,
    sidecars=[
        SidecarStatus(
            name="10.2.3.5:8090",
            url="http://10.2.3.5:8090",
            reachable=True,
            latency_ms=3.0,
            age_seconds=0.5,
            telemetry=TELEMETRY,
        ),
        SidecarStatus(
            name="10.2.3.6:8090",
            url="http://10.2.3.6:8090",
            reachable=False,
            error="no response within 3 s",
            age_seconds=34.0,
            telemetry=Telemetry(sampled_at=datetime(2026, 1, 1, tzinfo=UTC), host="other-server"),
        ),
    ],
)
PROVIDERS = {
    "providers": [
        {"name": "llm", "configured": True, "reachable": True, "latency_ms": 4.2, "models": ["qwen2.5-14b"]},
        {"name": "whisperx", "configured": True, "reachable": False, "error": "TimeoutError", "something_newer": 1},
        {"name": "voxtral-small", "configured": False},
    ]
}
COUNTS = {"pending": 4, "running": 2, "completed": 12345, "failed": 1, "cancelled": 0, "errors": {}}
STATS = {
    "totals": COUNTS,
    "queues": [{"task_type": "transcription", "model_profile": "whisperx", "oldest_pending_seconds": 75.5} | COUNTS],
    "owners": [],
    "oldest_pending_seconds": 75.5,
}
SHOWN = (
    "10.2.3.5:8090",
    "ai-server  measured 0.5 s ago",
    "0 NVIDIA A100",
    "87 %",
    "60.0 / 80.0",
    "312.5 / 400",
    "python3 40.0, 4322 –",
    "1 unknown",
    "vllm/vllm-openai",
    "150.5 %",
    "evil�[2J",
    "containers: cannot connect: Permission denied",
    "1,500",
    "50 %",
    "qwen-audio:8000",
    "whisperx-1:9000",
    "10.2.3.6:8090  other-server  measured 34.0 s ago  no response within 3 s",
    "TimeoutError",
    "transcription / whisperx",
    "12,345",
    "75.5 s",
)


async def gateway(request: web.Request) -> web.StreamResponse:
    """Respond like a gateway to requests with the token."""
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        problem = {"code": "unauthorized", "detail": "the right token is needed"}
        return web.json_response(problem, status=401, content_type="application/problem+json")
    values: dict[str, Any] = {
        "/api/v1/infra/status": INFRA,
        "/api/v1/providers/status": PROVIDERS,
        "/api/v1/stats": STATS,
    }
    return web.Response(body=msgspec.json.encode(values[request.path]), content_type="application/json")


async def run(folder: Path, url: str, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    """Run ``penstock top`` and return its exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *PENSTOCK,
        "top",
        *arguments,
        env=clean_environment(PENSTOCK_URL=url, AI_SERVICE_TOKEN=token),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    assert TOKEN not in out.decode() + err.decode()
    return process.returncode, out.decode(), err.decode()


class Terminal:
    """A terminal with ``penstock top`` on it."""

    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            part = os.read(self._descriptor, 65536)
        except OSError:  # a terminal reports in this way that the other side is gone
            part = b""
        self.shown += part.decode("utf-8", "replace")
        if not part:
            self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)


@asynccontextmanager
async def on_terminal(
    folder: Path, url: str, *arguments: str, columns: int = 150, lines: int = 60
) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = clean_environment(PENSTOCK_URL=url, AI_SERVICE_TOKEN=TOKEN, TERM="xterm", NO_COLOR="1")
    process = await asyncio.create_subprocess_exec(
        *PENSTOCK, "top", *arguments, env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    terminal = Terminal(process, ours)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        terminal.close()


async def test_one_frame_shows_everything_and_escapes_names(tmp_path: Path) -> None:
    async with serving(gateway) as server:
        for arguments in (("--once",), ()):
            status, out, err = await run(tmp_path, server.address, *arguments)
            assert (status, err) == (0, "")
            for text in SHOWN:
                assert text in out
            assert "voxtral-small" not in out, "it is not configured"
            assert "\x1b" not in out


async def test_json_is_what_the_sidecars_report(tmp_path: Path) -> None:
    async with serving(gateway) as server:
        status, out, _ = await run(tmp_path, server.address, "--json")
    assert status == 0
    assert msgspec.json.decode(out, type=InfraStatus) == INFRA


async def test_live_it_polls_survives_the_gateway_and_exits_quietly(tmp_path: Path) -> None:
    away = False

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response({"detail": "it is away"}, status=500) if away else await gateway(request)

    async with serving(respond) as server, on_terminal(tmp_path, server.address, "--interval", "0.2") as terminal:
        await until(lambda: terminal.shown.count("penstock top") >= 3, "three frames", seconds=20)
        assert "0 NVIDIA A100" in terminal.shown
        away = True
        await until(lambda: "it is away" in terminal.shown, "the error is shown")
        away, terminal.shown = False, ""
        await until(lambda: "0 NVIDIA A100" in terminal.shown, "it continues")
        terminal.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(terminal.process.wait(), 20) == 0
    assert "Traceback" not in terminal.shown
    assert "Aborted" not in terminal.shown


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [
        (
            60,
            {
                "GiB, °C, W (91 columns show all)",
                "image (68 columns show all)",
                "prompt tokens/s, tokens/s (98 columns show all)",
                "oldest pending (79 columns show all)",
            },
        ),
        (80, {"W (91 columns show all)", "prompt tokens/s (98 columns show all)"}),
        (120, set()),
        (200, set()),
    ],
)
async def test_a_frame_fits_the_terminal_and_names_what_it_leaves_out(
    tmp_path: Path, columns: int, left_out: set[str]
) -> None:
    async with (
        serving(gateway) as server,
        on_terminal(tmp_path, server.address, "--once", columns=columns, lines=20) as terminal,
    ):
        assert await asyncio.wait_for(terminal.process.wait(), 30) == 0
        await until(lambda: "12,345" in terminal.shown, "the last table")
        shown = plain(terminal.shown)
    assert max(len(line) for line in shown) <= columns
    assert {line.removeprefix("… without ") for line in shown if line.startswith("… without ")} == left_out
    for name in ("0 NVIDIA A100", "87 %", "vllm", "qwen2.5-14b", "whisperx-1:9000", "llm", "12,345"):
        assert any(name in line for line in shown), name


async def test_a_low_terminal_shows_a_part_of_each_section_and_counts_the_rest(tmp_path: Path) -> None:
    async with (
        serving(gateway) as server,
        on_terminal(tmp_path, server.address, columns=80, lines=16) as terminal,
    ):
        await until(lambda: "more lines of" in terminal.shown and "12,345" in terminal.shown, "a frame", seconds=20)
        terminal.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(terminal.process.wait(), 20) == 0
        shown = plain(terminal.shown)
    frame = shown[next(index for index, line in enumerate(shown) if line.startswith("penstock top")) :][:16]
    assert "more lines of containers of 10.2.3.5:8090" in "".join(frame)
    assert frame[-1].startswith("transcription / whisperx")


@pytest.mark.parametrize("width", [1, 12, 60, 200])
def test_no_frame_is_larger_than_its_terminal(width: int) -> None:
    view = View(
        url="http://gateway", infra=msgspec.to_builtins(INFRA), providers=PROVIDERS, stats=msgspec.convert(STATS, Stats)
    )
    console = Console(width=width)
    for height in (*range(1, 45), None):
        lines = console.render_lines(frame(view, height=height), pad=False)
        assert height is None or len(lines) <= height
        assert all(sum(segment.cell_length for segment in line) <= width for line in lines)


def plain(shown: str) -> list[str]:
    """Return the lines of a terminal's output without its control sequences."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


async def test_an_unreachable_or_refusing_gateway_is_shown_with_exit_status_1(tmp_path: Path) -> None:
    url = closed_port()
    status, out, err = await run(tmp_path, url, "--once")
    assert (status, err) == (1, "")
    assert f"no response from {url}" in out
    async with serving(gateway) as server:
        status, out, _ = await run(tmp_path, server.address, "--once", token="another")
    assert status == 1
    assert out.count("the right token is needed") == 1


async def test_a_gateway_without_sidecars_or_of_another_version(tmp_path: Path) -> None:
    content: dict[str, Any] = {"configured": False, "sidecars": []}

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(content) if request.path == "/api/v1/infra/status" else await gateway(request)

    async with serving(respond) as server:
        _, out, _ = await run(tmp_path, server.address, "--once")
        assert "INFRA_SIDECAR_URLS is not set" in out
        assert "transcription / whisperx" in out
        content = {"configured": "yes"}
        status, out, _ = await run(tmp_path, server.address, "--once")
        assert status == 0
        assert "this version does not understand the gateway's response" in out


async def test_an_interval_that_is_too_short_is_refused(tmp_path: Path) -> None:
    status, _, err = await run(tmp_path, "http://127.0.0.1:1", "--interval", "0")
    assert status == 2
    assert "--interval" in err
