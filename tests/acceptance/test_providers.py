"""Speech and language providers with ``penstock serve``: jobs, comparisons, status, and no secret anywhere."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from penstock.client import Client
from penstock.errors import PenstockError
from penstock.supervisor.ports import free_port
from tests.support.http_servers import running, serving
from tests.support.processes import PENSTOCK, clean_environment
from tests.support.recordings import TEXT, encoded, recorded, spoken
from tests.support.speech_servers import Heard, transcribing
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="penstock serve is run as it is on Linux")

# Parts of the secrets too: not even half of one may be shown.
SECRETS = ("canary-llm", "canary-audio", "canary-whis", "canary-file", "canary-pass")
TOKEN = "canary-service-token"
PROFILES = """
[providers.broken]
kind = "chat"
url = "{broken}/v1"
model = "large"
api_key = "${{FILE_KEY}}"

[providers.seeing]
kind = "chat"
url = "{seeing}/v1"
model = "small-vision"

[profiles.vision]
providers = ["broken", "seeing"]
defaults = {{ max_tokens = 77 }}
"""


@dataclass(slots=True)
class House:
    """A running ``penstock serve`` with its providers, and everything that has left it."""

    url: str
    client: Client
    environment: dict[str, str]
    whisperx: Heard
    audio_llm: Heard
    llm_responds: list[tuple[int, dict[str, str]]]  # status and headers of the next responses; 200 when empty
    worker_port: int
    left: list[str] = field(default_factory=list)

    async def get(self, path: str, *, port: int | None = None) -> Any:
        address = self.url if port is None else f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(address + path) as reply:
            text = await reply.text()
        self.left.append(text)
        return json.loads(text) if text.startswith("{") else text

    async def penstock(self, *words: str, status: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            *PENSTOCK, *words, env=self.environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        self.left += [out.decode(), err.decode()]
        assert process.returncode == status, err.decode()
        return out.decode()

    async def run(self, task_type: str, profile: str, job_input: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Submit a job, wait for its end, and return it as the API does."""
        job = await self.client.submit(task_type, profile, job_input, **options)
        await self.client.wait(job.id)
        job_view: dict[str, Any] = await self.get(f"/api/v1/jobs/{job.id}")
        return job_view


@asynccontextmanager
async def serve(environment: dict[str, str], log: Path) -> AsyncIterator[Process]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*PENSTOCK, "serve", env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 40)


async def responds(client: Client) -> bool:
    try:
        await client.stats()
    except PenstockError:
        return False
    return True


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("house")
    folder.chmod(0o711)
    llm_responds: list[tuple[int, dict[str, str]]] = []

    failures = 0

    async def llm(request: web.Request) -> web.Response:
        status, headers = llm_responds.pop(0) if llm_responds else (200, {})
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "qwen2.5-14b"}, {"id": str(dict(request.headers))}]})
        if status != 200:
            said = f"no: {request.headers.get('Authorization')} at {request.url}"
            return web.json_response({"error": {"message": said}}, status=status, headers=headers)
        usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
        message = {"role": "assistant", "content": "A fox."}
        return web.json_response({"model": "served", "choices": [{"message": message}], "usage": usage})

    async def broken(request: web.Request) -> web.Response:
        """Echo everything that was sent, as error pages do."""
        nonlocal failures
        said = f"{request.headers.get('Authorization')} {request.url} {dict(request.headers)}"
        said = "." * (failures % 300) + said  # an error is cut somewhere: at each place of it in turn
        failures += 17
        return web.json_response({"error": {"message": said}}, status=500)

    async with AsyncExitStack() as parts:
        whisperx = await parts.enter_async_context(transcribing())
        audio_llm = await parts.enter_async_context(transcribing(text="The quick brown fox jumped over a lazy dog."))
        chat = await parts.enter_async_context(serving(llm))
        failing = await parts.enter_async_context(serving(broken))
        profiles = folder / "profiles.toml"
        profiles.write_text(PROFILES.format(broken=failing.address, seeing=chat.address))
        port, worker_port = free_port(), free_port()
        environment = clean_environment(
            HTTP_PORT=str(port),
            WORKER_HTTP_PORT=str(worker_port),
            PENSTOCK_URL=f"http://127.0.0.1:{port}",
            PENSTOCK_DATA_DIR=str(folder / "data"),
            PENSTOCK_LOG_LEVEL="debug",
            PENSTOCK_PROFILES=str(profiles),
            PENSTOCK_FETCH_NETWORKS="127.0.0.0/8",
            AI_SERVICE_TOKEN=TOKEN,
            LLM_BASE_URL=f"{chat.address}/v1",
            LLM_API_KEY="canary-llm-key",
            TRANSCRIPTION_PROVIDERS="whisperx,qwen2-audio",
            WHISPERX_URL=whisperx.address.replace("http://", "http://someone:canary-password@"),
            WHISPERX_API_KEY="canary-whisper-key",
            QWEN_AUDIO_BASE_URL=f"{audio_llm.address}/v1",
            QWEN_AUDIO_MAX_DURATION="5s",
            AUDIO_LLM_API_KEY="canary-audio-key",
            VOXTRAL_BASE_URL=failing.address.replace("http://", "http://someone:canary-password@"),
            FILE_KEY="canary-file-key",
        )
        client = await parts.enter_async_context(Client(f"http://127.0.0.1:{port}", token=TOKEN))
        log = folder / "serve.log"
        async with serve(environment, log):
            await until(lambda: responds(client), "the gateway responds", seconds=40)
            yield (
                running := House(
                    url=f"http://127.0.0.1:{port}",
                    client=client,
                    environment=environment,
                    whisperx=whisperx,
                    audio_llm=audio_llm,
                    llm_responds=llm_responds,
                    worker_port=worker_port,
                )
            )
            async with (
                aiohttp.ClientSession() as stranger,
                stranger.get(f"http://127.0.0.1:{worker_port}/metrics") as no,
            ):
                assert no.status == 401
            for path in ("/healthz", "/worker/status", "/metrics"):
                await running.get(path, port=worker_port)
            for path in ("/metrics", "/api/v1/stats", "/api/v1/providers/status", "/openapi.json", "/api/v1/jobs"):
                await running.get(path)
            last = await client.submit("llm_chat", "nobody-serves-this", {"user": "Hi"})
            await client.cancel(last.id)
            async for event in client.events(after="0-0-0"):
                running.left.append(repr(event))
                if (event.type, event.job_id) == ("job.cancelled", last.id):
                    break
            await running.penstock("config", "show")
        running.left.append(log.read_text())
    for secret in (*SECRETS, TOKEN):
        for text in running.left:
            assert secret not in text


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken(tmp_path_factory.mktemp("speech") / "speech.wav")


async def test_an_uploaded_recording_is_transcribed_by_all_and_compared(
    house: House, tmp_path: Path, wav: Path
) -> None:
    recording = encoded(wav, tmp_path / "call.mp3", "libmp3lame")
    out = await house.penstock(
        "job", "submit", "transcription", "whisperx", "--file", f"audio_blob={recording}",
        "--input", '{"language": "en", "diarization": true}', "--tag", "compared", "--watch", "--json",
    )  # fmt: skip
    job = json.loads(out)
    result = job["result"]
    assert (job["status"], result["text"], result["provider"]) == ("completed", TEXT, "whisperx")
    assert [segment.get("speaker") for segment in result["segments"]] == ["SPEAKER_00", None]
    assert [(one["provider"], one["status"], bool(one["duration_ms"] >= 0)) for one in result["attempts"]] == [
        ("whisperx", "completed", True),
        ("qwen2-audio", "completed", True),
    ]
    assert result["agreement"][0]["wer"] == pytest.approx(2 / 9, abs=0.001)
    (sent,) = house.whisperx.files.values()
    assert sent[2] == recording.read_bytes()
    assert house.whisperx.headers["Authorization"] == "Bearer canary-whisper-key"
    assert house.audio_llm.headers["Authorization"] == "Bearer canary-audio-key"
    assert {one["provider"]: one["status"] for one in job["usage"]} == {
        "whisperx": "completed",
        "qwen2-audio": "completed",
    }


async def test_a_long_recording_is_cut_into_pieces_for_a_model_with_a_limit(house: House, tmp_path: Path) -> None:
    long = recorded(tmp_path / "long.wav", [(3.6, 9000), (0.4, 0)] * 3)
    blob = await house.client.upload(long.path)
    before = house.audio_llm.count
    job = await house.run("transcription", "whisperx", {"audio_blob": str(blob.id), "mode": "all"})
    assert house.audio_llm.count - before == 3
    whisperx, audio_llm = job["result"]["attempts"]
    assert [round(one["start"]) for one in audio_llm["segments"]] == [0, 4, 8]
    assert audio_llm["usage"]["audio_seconds"] == whisperx["usage"]["audio_seconds"] == 12
    assert job["progress"] == {
        "stage": "transcribing",
        "audio_seconds": 12.0,
        "provider": "qwen2-audio",
        "heard_seconds": 12.0,
    }


async def test_the_upload_in_the_guide_works_as_written(house: House, tmp_path: Path, wav: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
    (script,) = [text for text in re.findall(r"```bash\n(.*?)```", guide, re.DOTALL) if "$api/blobs" in text]
    encoded(wav, tmp_path / "meeting.mp3", "libmp3lame")
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script.replace("curl -s", f'curl -s -H "Authorization: Bearer {TOKEN}"'),
        cwd=tmp_path, env={**house.environment, "api": f"{house.url}/api/v1"}, stdout=PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    job = await house.client.wait(json.loads(out)["id"])
    assert job.result["text"] == TEXT


async def test_a_recording_is_fetched_and_the_comparison_covers_many_jobs(house: House, wav: Path) -> None:
    async def file(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(wav)

    job: dict[str, Any] = {}
    async with running(file) as url:
        for mode in ("all", "first", "race"):
            given = {"audio_url": f"{url}/call.wav?signature=canary-password", "mode": mode}
            job = await house.run("transcription", "whisperx", given, tags=["compared"])
            assert (job["status"], len(job["result"]["attempts"])) == ("completed", 1 if mode == "first" else 2)
            house.left.remove(json_of(house, job))  # the caller's own input holds what looks like a secret here
    summary = json.loads(await house.penstock("compare", "--task-type", "transcription", "--tag", "compared", "--json"))
    by_name = {one["provider"]: one for one in summary["providers"]}
    assert summary["jobs"] >= 3
    assert by_name["whisperx"]["completed"] >= 2
    assert by_name["whisperx"]["audio_seconds"] > 3
    (pair,) = summary["agreement"]
    assert (pair["reference"], pair["hypothesis"], pair["wer"]) == (
        "whisperx",
        "qwen2-audio",
        pytest.approx(2 / 9, abs=0.001),
    )
    one = json.loads(await house.penstock("compare", job["id"], "--json"))
    assert (one["jobs"], len(one["attempts"])) == (1, 2)
    stats = await house.get("/api/v1/stats")
    (queue,) = [queue for queue in stats["queues"] if queue["task_type"] == "transcription"]
    assert queue["usage"]["calls"] >= 5
    assert queue["usage"]["audio_seconds"] > 3
    assert {one["provider"] for one in stats["providers"]} >= {"whisperx", "qwen2-audio"}


def json_of(house: House, job: dict[str, Any]) -> str:
    return next(text for text in reversed(house.left) if text.startswith("{") and json.loads(text) == job)


async def test_a_profile_falls_back_and_reports_it_without_what_was_echoed(house: House) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    job = await house.run("llm_chat", "vision", {"messages": messages})
    result = job["result"]
    assert (job["status"], result["content"], result["provider"]) == ("completed", "A fox.", "seeing")
    first, second = result["attempts"]
    assert (first["provider"], first["model"], first["status"]) == ("broken", "large", "failed")
    assert "******" in first["error"]
    assert (second["usage"]["prompt_tokens"], second["usage"]["completion_tokens"]) == (30, 4)


async def test_rate_limited_work_waits_and_uses_no_attempt(house: House) -> None:
    house.llm_responds += [(429, {"Retry-After": "1"}), (429, {"Retry-After": "0.2"})]
    job = await house.run("llm_chat", "qwen2.5-14b", {"user": "Hi"}, max_attempts=1)
    assert (job["status"], job["result"]["content"]) == ("completed", "A fox.")
    assert [attempt["error"]["category"] for attempt in job["attempts"]] == ["rate_limited", "rate_limited"]
    assert [attempt["usage"][0]["status"] for attempt in job["attempts"]] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("status", "category"), [(400, "bad_input"), (401, "provider_error"), (500, "provider_error"), (504, "timeout")]
)
async def test_each_fault_ends_the_job_with_its_category_and_state(house: House, status: int, category: str) -> None:
    house.llm_responds += [(status, {})]
    job = await house.run("llm_chat", "qwen2.5-14b", {"user": "Hi"}, max_attempts=1)
    assert (job["status"], job["error"]["category"]) == ("failed", category)
    assert "llm: " in job["error"]["message"]


async def test_audio_that_cannot_be_used_is_the_callers_mistake(house: House) -> None:
    for given, what in (
        ({"audio": "AAAAAAAA"}, "input.audio: the file is not audio that can be read"),
        ({"audio_url": "http://10.1.2.3/call.wav"}, "input.audio_url: "),
        ({"audio_blob": "01990000-0000-7000-8000-000000000007"}, "input.audio_blob: there is no blob"),
    ):
        job = await house.run("transcription", "whisperx", given)
        assert (job["status"], job["error"]["category"]) == ("failed", "bad_input")
        assert job["error"]["message"].startswith(what)


async def test_status_shows_every_provider_with_the_reports_of_workers(house: House) -> None:
    for _ in range(6):  # opens the breaker of the one that always fails
        await house.run("llm_chat", "vision", {"user": "Hi"}, max_attempts=1)

    async def breaker_is_reported() -> bool:
        status = await house.get("/api/v1/providers/status")
        return any((one["name"], one["breaker"]) == ("broken", "open") for one in status["providers"])

    await until(breaker_is_reported, "the worker has reported the open breaker", seconds=20)
    status = {one["name"]: one for one in (await house.get("/api/v1/providers/status"))["providers"]}
    assert set(status) == {"llm", "whisperx", "qwen2-audio", "voxtral-small", "broken", "seeing"}
    assert (status["llm"]["reachable"], status["llm"]["models"][0]) == (True, "qwen2.5-14b")
    assert status["llm"]["profiles"] == ["qwen2.5-14b"]
    assert status["whisperx"]["reachable"]
    assert not status["broken"]["reachable"]
    assert status["broken"]["last_error"]["category"] == "provider_error"
    assert status["broken"]["workers"] == 1
    measured = await house.get("/metrics", port=house.worker_port)
    assert 'penstock_provider_calls_total{outcome="failed",provider="broken"}' in measured
    assert 'penstock_provider_seconds_count{provider="seeing"}' in measured
    shown = await house.penstock("top", "--once")
    assert "broken" in shown
