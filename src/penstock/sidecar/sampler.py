"""Measures everything on this host, again and again, and keeps the newest measurement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
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
    """What there is to measure."""

    gpus: GpuReader
    containers: ContainerReader
    vllm: Sequence[VllmReader] = ()
    whisperx: Sequence[WhisperxReader] = ()


@asynccontextmanager
async def sources(settings: Settings) -> AsyncIterator[Sources]:
    """The sources that the settings name; their connections are closed at the end."""
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
    """What a source told, or why it did not."""

    value: T | None = None
    error: str | None = None


class Sampler:
    """Asks all sources at once every ``interval``, each for ``timeout`` at most, so that none delays the others.

    ``stop`` is idempotent, gives up the measurement in hand, and is safe if ``run`` was never called.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        interval: timedelta,
        timeout: timedelta = timedelta(seconds=TIMEOUT_SECONDS),
        host: str | None = None,
    ) -> None:
        self._sources = sources
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self._host = host or gethostname()
        self._newest: tuple[float, Telemetry] | None = None  # with the monotonic time when it began
        self._measured = asyncio.Event()
        self._failing: dict[str, str] = {}
        self._measuring: asyncio.Task[Telemetry] | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    async def run(self) -> None:
        """Measure until ``stop``."""
        self._stopped.clear()
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self._measuring = asyncio.create_task(self.sample())
                try:
                    telemetry = await self._measuring
                except asyncio.CancelledError:
                    if not self._stopping.is_set():
                        raise
                except Exception:  # a mistake in one measurement must not end them all
                    log.exception("measurement_failed")
                else:
                    self._tell(telemetry.errors)
                    self._newest = began, telemetry
                    self._measured.set()
                await set_within(self._stopping, began + self._interval - time.monotonic())
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """End, and return when it has."""
        self._stopping.set()
        if self._measuring is not None:
            self._measuring.cancel()
        await self._stopped.wait()

    async def report(self) -> Report:
        """The newest measurement and its age; waits for the first."""
        while self._newest is None:
            await self._measured.wait()
        began, telemetry = self._newest
        return Report(age_seconds=round(time.monotonic() - began, 3), telemetry=telemetry)

    async def sample(self) -> Telemetry:
        """Measure once."""
        at = datetime.now(UTC)
        gpus, containers, vllm, whisperx = await asyncio.gather(
            self._within(self._sources.gpus.read()),
            self._within(self._sources.containers.read()),
            asyncio.gather(*(self._within(reader.read()) for reader in self._sources.vllm)),
            asyncio.gather(*(self._within(reader.read()) for reader in self._sources.whisperx)),
        )
        servers = [
            VllmServer(
                url=mask_url(reader.url), reachable=found.error is None, models=found.value or [], error=found.error
            )
            for reader, found in zip(self._sources.vllm, vllm, strict=True)
        ]
        checks = [
            found.value or HealthCheck(url=mask_url(reader.url), reachable=False, error=found.error)
            for reader, found in zip(self._sources.whisperx, whisperx, strict=True)
        ]
        errors = {
            "gpus": gpus.error,
            "containers": containers.error,
            **{f"vllm {place(server.url)}": server.error for server in servers},
            **{f"whisperx {place(check.url)}": check.error for check in checks},
        }
        return Telemetry(
            sampled_at=at,
            host=self._host,
            gpus=gpus.value or [],
            containers=containers.value or [],
            vllm=servers,
            whisperx=checks,
            errors={source: error for source, error in errors.items() if error is not None},
        )

    async def _within(self, reading: Coroutine[Any, Any, T]) -> _Found[T]:
        try:
            async with asyncio.timeout(self._timeout):
                return _Found(value=await reading)
        except TimeoutError:
            return _Found(error=too_slow(self._timeout))
        except SourceFailed as error:
            return _Found(error=str(error))
        except Exception as error:  # one source's fault, foreseen or not, is that source's line
            log.exception("source_failed")
            return _Found(error=type(error).__name__)

    def _tell(self, errors: dict[str, str]) -> None:
        """One line in the log when a source begins to fail, and one when it is well again."""
        for source, error in errors.items():
            if source not in self._failing:
                log.warning("source_failing", source=source, reason=error)
        for source in self._failing.keys() - errors.keys():
            log.info("source_recovered", source=source)
        self._failing = errors
