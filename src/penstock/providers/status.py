"""Check whether the providers can be reached, and show their state in the workers, without any secrets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Struct

from penstock.cached import Cached
from penstock.errors import ServiceError
from penstock.failures import CallFailed
from penstock.models.host.host import ModelHost
from penstock.openai.listing import model_names
from penstock.outbound.breaker import BreakerState
from penstock.postgres.pool import Database
from penstock.providers import store
from penstock.providers.profile import Catalogue, Kind, ProviderSpec
from penstock.providers.reports import LastError
from penstock.providers.store import WorkerReport
from penstock.telemetry import logs

log = logs.get(__name__)

_SECONDS: Final = 3.0  # of one check, at most
_KEPT: Final = 5.0  # seconds that a result is shared
_FRESH: Final = timedelta(seconds=30)  # workers report every ten seconds at least
_MAX_BYTES: Final = 2**20
_NAME_LENGTH: Final = 200  # characters of a model's name in a response
_DOCUMENTED: Final = ("llm", "whisperx", "qwen2-audio", "voxtral-small")
_WORST: Final = (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED)


class ProviderStatus(Struct, frozen=True, kw_only=True):
    """One provider: its response to a check now, and its state in the workers. Unknown values are null."""

    name: str
    configured: bool
    kind: str | None = None  # chat, whisperx, audio-chat, model or audio-model
    model: str | None = None  # the model that calls request
    profiles: list[str] = []  # profiles that use the provider
    reachable: bool | None = None
    latency_ms: float | None = None
    models: list[str] = []  # models that an OpenAI-compatible server lists
    error: str | None = None  # of the check
    breaker: str | None = None  # the worst state in any worker: closed, open or half_open; null: no recent call
    wait_seconds: float | None = None  # the longest that a worker's next call must wait
    running: int | None = None  # calls of all workers
    last_error: LastError | None = None  # the newest of all workers
    workers: int = 0  # workers that have called the provider recently


class ProvidersStatus(Struct, frozen=True, kw_only=True):
    providers: list[ProviderStatus]


class ProvidersWatch:
    """Checks all providers at once, for three seconds at most; requests within five seconds share the result."""

    def __init__(self, catalogue: Catalogue, database: Database, host: ModelHost) -> None:
        self._catalogue = catalogue
        self._host = host
        self._database = database
        self.status = Cached(self._check_all, keep=_KEPT)

    async def close(self) -> None:
        await self.status.close()

    async def _check_all(self) -> ProvidersStatus:
        specs = list(self._catalogue.providers.values())
        reporting = asyncio.ensure_future(self.reports())
        checked = await asyncio.gather(*(self._check(spec) for spec in specs))
        reports = await reporting
        known = [_with_reports(one, reports) for one in checked]
        absent = [name for name in _DOCUMENTED if name not in self._catalogue.providers]
        return ProvidersStatus(providers=[*known, *(ProviderStatus(name=name, configured=False) for name in absent)])

    async def reports(self) -> list[WorkerReport]:
        """Return what workers have reported of late; nothing while the database is unavailable."""
        try:
            async with asyncio.timeout(_SECONDS), self._database.acquire() as connection:
                return await store.recent_reports(connection, within=_FRESH)
        except (ServiceError, TimeoutError):
            return []  # the checks of this process work without the workers' reports

    async def _check(self, spec: ProviderSpec) -> ProviderStatus:
        if spec.kind.registered:
            return self._registered(spec)
        heard: list[tuple[int, float]] = []
        began = time.perf_counter()

        def observe(status: int, _headers: Mapping[str, str]) -> None:
            heard.append((status, round(1000 * (time.perf_counter() - began), 1)))

        from penstock.outbound.peer import Peer  # noqa: PLC0415  (slow to import; a gateway without providers needs none)

        server = Peer(
            headers={},
            timeout_seconds=_SECONDS,
            secrets=spec.server.secrets,
            max_bytes=_MAX_BYTES,
            hints=spec.hints,
            name="provider",
            observe=observe,
        )
        models: list[str] = []
        error: str | None = None
        try:
            async with asyncio.timeout(_SECONDS):
                body = await server.get(_address(spec), headers=spec.server.headers)
            models = [server.masked(name)[:_NAME_LENGTH] for name in model_names(body)]
        except TimeoutError:
            error = f"the provider did not respond within {_SECONDS:g} s"
        except CallFailed as failed:
            # A server that takes recordings may have no health page, so any response is enough.
            error = failed.message if _lists_models(spec) or not heard or heard[0][0] >= 500 else None
        except Exception as surprise:  # one provider's response must not hide the others
            log.exception("provider_check_failed", provider=spec.name)
            error = f"the provider could not be checked ({type(surprise).__name__})"
        finally:
            await server.close()
        status, latency = heard[0] if heard else (None, None)
        return ProviderStatus(
            name=spec.name,
            configured=True,
            kind=spec.kind.value,
            model=spec.model or None,
            profiles=self._profiles(spec),
            reachable=status is not None and status < 500,
            latency_ms=latency,
            models=models,
            error=error,
        )

    def _registered(self, spec: ProviderSpec) -> ProviderStatus:
        """Return the state of a registered model; a worker may host one that this gateway does not."""
        entry = self._host.entries.get((None, spec.model))
        return ProviderStatus(
            name=spec.name,
            configured=True,
            kind=spec.kind.value,
            model=spec.model,
            profiles=self._profiles(spec),
            reachable=None if entry is None else True,
            error=f"this gateway hosts no model {spec.model}" if entry is None else None,
        )

    def _profiles(self, spec: ProviderSpec) -> list[str]:
        return [profile.name for profile in self._catalogue.profiles.values() if spec in profile.providers]


def _lists_models(spec: ProviderSpec) -> bool:
    return spec.kind is not Kind.WHISPERX or spec.interface == "openai"


def _address(spec: ProviderSpec) -> str:
    """Return what to request: the models of an OpenAI-compatible server, the health of another."""
    if spec.kind is not Kind.WHISPERX:
        return spec.server.url("/models")
    for ending in ("/audio/transcriptions", "/transcribe", "/asr"):
        if spec.server.path.endswith(ending):
            url = spec.server.url()
            place = url.index(ending, url.index("://") + 3)
            base, rest = url[:place], url[place + len(ending) :]
            break
    else:
        base, _, rest = spec.server.url().partition("?")
        rest = f"?{rest}" if rest else ""
    if spec.interface == "openai":
        return (base if spec.server.path else f"{base}/v1") + "/models" + rest
    return base + "/health" + rest


def _with_reports(status: ProviderStatus, reports: Sequence[WorkerReport]) -> ProviderStatus:
    """Return a provider's state, completed by the workers' reports."""
    own = [one.report for one in reports if one.provider == status.name]
    if not own:
        return status
    errors = [one.last_error for one in own if one.last_error is not None]
    states = {one.breaker for one in own}
    return msgspec.structs.replace(
        status,
        breaker=next((state.value for state in _WORST if state.value in states), None),
        wait_seconds=max(one.wait_seconds for one in own),
        running=sum(one.running for one in own),
        last_error=max(errors, key=lambda error: error.at, default=None),
        workers=len(own),
    )
