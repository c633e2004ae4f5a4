"""Chat and transcription jobs on a provider that responds at once: the cost of jobs compared with direct calls."""

from __future__ import annotations

import asyncio
import io
import math
import random
import statistics
import struct
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
import msgspec
import psutil
from msgspec import Raw

from benchmarks.figures import Figure
from benchmarks.ground import fresh_database, process, service
from penstock.blobs.service import BlobService
from penstock.jobs.job import JobSubmission
from penstock.jobs.states import Status
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.outbound.gate import Gate
from penstock.postgres.embedded import EmbeddedServer
from penstock.providers.agreement import rate
from penstock.supervisor.ports import free_port
from penstock.tenants.principal import DEFAULT_TENANT

CHATS = 5000
WARM = 500  # jobs before the measurement
AT_ONCE = 64
RECORDINGS = 30
SECONDS = 60  # of each recording
PASSES = 20_000
WORDS = 9000  # spoken in about an hour

_MESSAGES = [{"role": "user", "content": "Classify this text. " + "x" * 400}]


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure each scenario and its limit in the same run."""
    async with _provider() as address:
        await _straight_calls(address)  # connections, caches
        straight = await _straight_calls(address)
        jobs = await _chat_jobs(server, address)
        overhead = await _transcriptions(server, address)
    share = _percent(straight.cpu_microseconds, jobs.cpu_microseconds)
    return [
        Figure(
            scenario=f"chat calls straight to the provider, {AT_ONCE} at once",
            value=straight.per_second,
            unit="/s",
            note=f"{straight.cpu_microseconds:.0f} µs of CPU each",
            group=_GROUP,
        ),
        Figure(
            scenario="chat jobs on it, one worker process",
            value=jobs.per_second,
            unit="/s",
            note=f"{_percent(jobs.per_second, straight.per_second)} of straight calls; results stored, usage counted",
            group=_GROUP,
        ),
        Figure(
            scenario="CPU of the worker, a chat job",
            value=jobs.cpu_microseconds,
            unit="µs",
            note=f"a straight call of the same HTTP client is {share} of it",
            group=_GROUP,
        ),
        Figure(
            scenario=f"a transcription job of {SECONDS} s of wav, submit to result, p50",
            value=1000 * overhead,
            unit="ms",
            note="the provider takes none of it",
            group=_GROUP,
        ),
        Figure(scenario="passing a gate", value=await _gate(), unit="µs", group=_GROUP),
        Figure(
            scenario=f"word error rate of two texts of {WORDS:,} words",
            value=_agreement(),
            unit="ms",
            note="an hour of speech, one word in ten differs",
            group=_GROUP,
        ),
    ]


_GROUP = "providers"


def _percent(value: float, whole: float) -> str:
    return f"{100 * value / whole:.0f} %"


@asynccontextmanager
async def _provider() -> AsyncIterator[str]:
    port = free_port()
    async with process("-m", "benchmarks.instant_provider", str(port)):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            break
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class _Speed:
    per_second: float
    cpu_microseconds: float  # of the process that makes the calls


async def _straight_calls(address: str) -> _Speed:
    """Make calls with aiohttp, as the worker makes them."""
    body = msgspec.json.encode({"model": "m", "messages": _MESSAGES})
    left = iter(range(CHATS))

    async def caller(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(f"{address}/v1/chat/completions", data=body) as answer:
                msgspec.json.decode(await answer.read())

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(session) for _ in range(AT_ONCE)))
        cpu = 1e6 * (time.process_time() - used) / CHATS
        return _Speed(CHATS / (time.perf_counter() - began), cpu)


async def _chat_jobs(server: EmbeddedServer, address: str) -> _Speed:
    """Run chat jobs on a worker that is warm."""
    chat = JobSubmission(
        owner_service="bench",
        task_type="llm_chat",
        model_profile="m",
        input=Raw(msgspec.json.encode({"messages": _MESSAGES})),
    )
    async with fresh_database(server) as url, service(url) as (every, _):
        jobs = every.of(DEFAULT_TENANT)
        async with _worker(url, LLM_BASE_URL=f"{address}/v1", LLM_MODEL="m") as pid:
            await jobs.submit_many([chat] * WARM)
            await _completed(jobs, WARM)
            began, used = time.perf_counter(), _cpu_seconds(pid)
            for _ in range(CHATS // 1000):
                await jobs.submit_many([chat] * 1000)
            await _completed(jobs, WARM + CHATS)
            seconds, cpu = time.perf_counter() - began, _cpu_seconds(pid) - used
        usage = (await jobs.stats()).totals.usage
        if usage.calls != WARM + CHATS or usage.prompt_tokens != 30 * (WARM + CHATS):
            raise RuntimeError(f"usage was not counted once for each job: {usage}")
        return _Speed(CHATS / seconds, 1e6 * cpu / CHATS)


async def _completed(jobs: TenantJobs, count: int) -> None:
    while (await jobs.stats()).totals.completed < count:
        await asyncio.sleep(0.02)


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _transcriptions(server: EmbeddedServer, address: str) -> float:
    """Return the seconds from submitting each of several jobs about an uploaded recording to its result."""
    samples: list[float] = []
    async with fresh_database(server) as url, service(url) as (jobs, database):
        blobs = BlobService(database, max_bytes=2**26, keep=timedelta(days=1))
        blob = await blobs.put(DEFAULT_TENANT, _once(_sound()), media_type="audio/wav", filename="a.wav")
        job_input = Raw(msgspec.json.encode({"audio_blob": blob.id}))
        submission = JobSubmission(
            owner_service="bench", task_type="transcription", model_profile="whisperx", input=job_input
        )
        async with _worker(url, WHISPERX_URL=address):
            for _ in range(RECORDINGS + 3):
                began = time.perf_counter()
                job = (await jobs.of(DEFAULT_TENANT).submit(submission)).job
                done = await jobs.of(DEFAULT_TENANT).wait(job.id, timedelta(seconds=30))
                if done.status is not Status.COMPLETED:
                    raise RuntimeError(f"{done.status}: {done.error}")
                samples.append(time.perf_counter() - began)
    return statistics.median(samples[3:])


@asynccontextmanager
async def _worker(url: str, **variables: str) -> AsyncIterator[int]:
    """Run a worker; yield the number of its process."""
    async with process(
        "-m",
        "penstock",
        "worker",
        DATABASE_URL=url,
        WORKER_HTTP_PORT="0",
        WORKER_CLAIM_LIMIT=str(AT_ONCE),
        PENSTOCK_PROVIDER_CONCURRENCY=str(AT_ONCE),
        **variables,
    ) as child:
        yield child.pid


async def _gate() -> float:
    """Return the microseconds that a call spends at an open gate."""
    gate = Gate(8)
    began = time.perf_counter()
    for _ in range(PASSES):
        async with gate.slot(0):
            pass
    return 1e6 * (time.perf_counter() - began) / PASSES


def _agreement() -> float:
    pick = random.Random(1)
    reference = [f"word{pick.randrange(3000)}" for _ in range(WORDS)]
    hypothesis = [word if pick.random() > 0.1 else "other" for word in reference]
    began = time.perf_counter()
    if not 0.05 < (rate(reference, hypothesis) or 0) < 0.15:
        raise RuntimeError("the rate is wrong")
    return 1000 * (time.perf_counter() - began)


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        second = b"".join(struct.pack("<h", round(9000 * math.sin(number / 8))) for number in range(16_000))
        sound.writeframes(second * SECONDS)
    return file.getvalue()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
