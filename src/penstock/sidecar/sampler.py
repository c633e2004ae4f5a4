"""Measure everything on this host at intervals, and keep the newest measurement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from socket import gethostname
from typing import Any, Generic, TypeVar

import aiohttp

from penstock.masking import mask_url
from penstock.processes.waiting import set_within
from penstock.settings import Settings
from penstock.settings.sidecar import USUAL_DOCKER_SOCKET
from penstock.sidecar.containers import ContainerReader
from penstock.sidecar.fetching import TIMEOUT_SECONDS, SourceFailed, place, too_slow
from penstock.sidecar.gpus import GpuReader
from penstock.sidecar.telemetry import HealthCheck, Report, Telemetry, VllmServer
from penstock.sidecar.vllm import VllmReader
from penstock.sidecar.whisperx import WhisperxReader
from penstock.telemetry import logs

T = TypeVar("T")

log = logs.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources to measure."""

    gpus: GpuReader
    containers: ContainerReader
    vllm: Sequence[VllmReader] = ()
    whisperx: Sequence[WhisperxReader] = ()


@asynccontextmanager
async def sources(settings: Settings) -> AsyncIterator[Sources]:
    """Open the sources that the settings name; their connections are closed at the end."""
    socket = settings.sidecar_docker_socket
    containers = ContainerReader(socket, required=socket != USUAL_DOCKER_SOCKET)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        try:
            yield Sources(
                gpus=GpuReader(),
                containers=containers,
                vllm=[VllmReader(session, url) for url in settings.sidecar_vllm_urls],
                whisperx=[WhisperxReader(session, url) for url in settings.sidecar_whisperx_urls],
            )
        finally:
            await containers.close()


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    """A source's result or error, and the time of the request."""

    at: datetime
    began: float  # monotonic
    value: T | None = None
    error: str | None = None


class _Source(Generic[T]):
    """One source and its last result. A measurement that hangs delays only the next one of the same source."""

    def __init__(self, name: str, read: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> None:
        self.name = name
        self.found: _Found[T] | None = None
        self._read = read
        self._timeout = timeout
        self._measuring: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Return the running measurement, or start one."""
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.create_task(self._measure())
        return self._measuring

    async def close(self) -> None:
        """Cancel the running measurement."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)

    @property
    def error(self) -> str | None:
        return None if self.found is None else self.found.error

    @property
    def value(self) -> T | None:
        return None if self.found is None else self.found.value

    async def _measure(self) -> None:
        at, began = datetime.now(UTC), time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                self.found = _Found(at, began, value=await self._read())
        except TimeoutError:
            self.found = _Found(at, began, error=too_slow(self._timeout))
        except SourceFailed as error:
            self.found = _Found(at, began, error=str(error))
        except Exception as error:  # any fault of one source, even an unexpected one, is reported only for that source
            log.exception("source_failed")
            self.found = _Found(at, began, error=type(error).__name__)


class Sampler:
    """Measures every source at each ``interval``, each within ``timeout``, and keeps the last results.

    No source waits for another one. ``stop`` is idempotent, cancels running measurements, and is safe if ``run`` was
    never called.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        interval: timedelta,
        timeout: timedelta = timedelta(seconds=TIMEOUT_SECONDS),
        host: str | None = None,
    ) -> None:
        seconds = timeout.total_seconds()
        self._interval = interval.total_seconds()
        self._host = host or gethostname()
        self._gpus = _Source("gpus", sources.gpus.read, seconds)
        self._containers = _Source("containers", sources.containers.read, seconds)
        self._vllm = [(mask_url(one.url), _Source(f"vllm {place(one.url)}", one.read, seconds)) for one in sources.vllm]
        self._whisperx = [
            (mask_url(one.url), _Source(f"whisperx {place(one.url)}", one.read, seconds)) for one in sources.whisperx
        ]
        self._measured = asyncio.Event()  # every source, once
        self._failing: dict[str, str] = {}
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    async def run(self) -> None:
        """Measure until ``stop``."""
        self._stopped.clear()
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                for source in self._sources():
                    source.begin().add_done_callback(self._note)
                await set_within(self._stopping, began + self._interval - time.monotonic())
        finally:
            for source in self._sources():
                await source.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Stop measuring, and return when everything has ended."""
        self._stopping.set()
        await self._stopped.wait()

    async def report(self) -> Report:
        """Return the last results of the sources and their age; wait for the first measurement of each.

        The age is that of the oldest working source; a source that hangs has an error instead.
        """
        await self._measured.wait()
        found = [one.found for one in self._sources() if one.found is not None]
        oldest = min([one for one in found if one.error is None] or found, key=lambda one: one.began)
        age = round(time.monotonic() - oldest.began, 3)
        return Report(age_seconds=age, telemetry=self._telemetry(oldest.at))

    async def sample(self) -> Telemetry:
        """Measure every source once, and wait for all of them."""
        at = datetime.now(UTC)
        await asyncio.gather(*(source.begin() for source in self._sources()))
        return self._telemetry(at)

    def _note(self, _: asyncio.Task[None]) -> None:
        """Note that a measurement has ended."""
        if all(source.found is not None for source in self._sources()):
            self._measured.set()
        errors = self._errors()
        for source, error in errors.items():
            if source not in self._failing:
                log.warning("source_failing", source=source, reason=error)
        for source in self._failing.keys() - errors.keys():
            log.info("source_recovered", source=source)
        self._failing = errors

    def _sources(self) -> list[_Source[Any]]:
        every: list[_Source[Any]] = [self._gpus, self._containers]
        return every + [source for _, source in self._vllm] + [source for _, source in self._whisperx]

    def _errors(self) -> dict[str, str]:
        """Return the errors of sources that do not work, including those that a health check returned as its result."""
        errors = {one.name: one.error for one in self._sources()}
        errors |= {one.name: one.value.error for _, one in self._whisperx if one.value is not None}
        return {name: error for name, error in errors.items() if error is not None}

    def _telemetry(self, at: datetime) -> Telemetry:
        """Return the last results of the sources."""
        return Telemetry(
            sampled_at=at,
            host=self._host,
            gpus=self._gpus.value or [],
            containers=self._containers.value or [],
            vllm=[
                VllmServer(url=url, reachable=one.error is None, models=one.value or [], error=one.error)
                for url, one in self._vllm
            ],
            whisperx=[
                one.value or HealthCheck(url=url, reachable=False, error=one.error) for url, one in self._whisperx
            ],
            errors=self._errors(),
        )
