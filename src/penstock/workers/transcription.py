"""The built-in executor for transcription jobs: it loads a recording and calls the providers to transcribe it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from penstock.blobs.service import BlobService
from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable, NotFound
from penstock.failures import failure_of
from penstock.jobs.work import ClaimedJob
from penstock.providers import dispatch, job_inputs, pieces
from penstock.providers.agreement import Agreement
from penstock.providers.dispatch import Candidate
from penstock.providers.fetching import Fetcher
from penstock.providers.inputs import TranscriptionInput
from penstock.providers.metered import MeteredGate
from penstock.providers.profile import Profile, ProviderSpec
from penstock.providers.reply import ProviderAttempt, Reply
from penstock.providers.servers import Servers
from penstock.providers.speech import Sound, SpeechRequest
from penstock.recordings.recording import Recording, UnusableAudio, examine
from penstock.tenants.principal import TenantId
from penstock.work.context import JobContext
from penstock.workers import provider_jobs

_FOLDER: Final = "penstock-recording-"


class TranscriptionResult(Struct, frozen=True, kw_only=True):
    """A job's ``result``: the transcript of the first provider that succeeded, and the attempts of all."""

    segments: list[dict[str, Any]]  # start and end in seconds, text; speaker and words if the provider returns them
    text: str
    language: str | None
    provider: str
    model: str
    audio_seconds: float
    duration_ms: int
    attempts: list[ProviderAttempt]
    agreement: list[Agreement] = []  # of every pair of transcripts, with the mode "all"


class TranscriptionExecutor:
    """Runs the transcription jobs of one profile."""

    def __init__(
        self,
        profile: Profile,
        servers: Servers,
        *,
        fetcher: Fetcher,
        blobs: BlobService,
        max_result_bytes: int | None = None,
    ) -> None:
        self._max_result_bytes = max_result_bytes
        self._profile = profile
        self._servers = servers
        self._fetcher = fetcher
        self._blobs = blobs

    async def __call__(self, job: ClaimedJob, context: JobContext, /) -> TranscriptionResult:
        begun = time.monotonic()
        wanted = job_inputs.transcription(bytes(job.input), self._profile)
        specs = job_inputs.chosen_providers(self._profile, wanted.providers)
        mode = wanted.mode or self._profile.mode
        async with self._recording(wanted, context) as recording:
            sound = Sound(recording)
            context.progress(_transcribing(sound))
            dispatched = await dispatch.dispatch(
                [self._candidate(spec, job, sound, _request(wanted), context) for spec in specs],
                mode,
                max_wait_seconds=provider_jobs.max_wait_seconds(job),
                on_attempt=provider_jobs.attempt_recorder(context),
            )
        reply = dispatched.reply
        result = TranscriptionResult(
            segments=reply.segments or [],
            text=reply.text,
            language=reply.language or wanted.language,
            provider=dispatched.provider,
            model=reply.model,
            audio_seconds=round(recording.duration_seconds, 3),
            duration_ms=round(1000 * (time.monotonic() - begun)),
            attempts=dispatched.attempts,
            agreement=await provider_jobs.agreement(mode, dispatched.attempts),
        )
        return result if self._max_result_bytes is None else fitted(result, self._max_result_bytes)

    def _candidate(
        self, spec: ProviderSpec, job: ClaimedJob, sound: Sound, request: SpeechRequest, context: JobContext
    ) -> Candidate:
        server = self._servers.speech(spec)

        def report_progress(seconds: float) -> None:
            context.progress(_transcribing(sound) | {"provider": spec.name, "heard_seconds": round(seconds, 1)})

        async def prepare() -> None:
            await sound.taken_by(server)

        async def call(gate: MeteredGate) -> Reply:
            key, seconds = provider_jobs.key(job, spec), spec.timeout.total_seconds()
            return await pieces.transcribed(
                server, sound, request, gate, key=key, seconds=seconds, on_progress=report_progress
            )

        return Candidate(
            name=spec.name, model=spec.model or spec.name, gate=self._servers.gate(spec), call=call, prepare=prepare
        )

    @asynccontextmanager
    async def _recording(self, wanted: TranscriptionInput, context: JobContext) -> AsyncIterator[Recording]:
        """Yield the recording in a folder of its own, which is removed when the block ends."""
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix=f"{_FOLDER}{os.getpid()}-")
        try:
            path = Path(folder.name) / "recording"
            context.progress({"stage": "fetching"})
            await self._save(wanted, path, context.tenant)
            try:
                recording = await examine(path)
            except UnusableAudio as error:
                raise job_inputs.bad_input(f"the file {error}", job_inputs.source_of(wanted)) from None
            yield recording
        finally:
            await asyncio.to_thread(folder.cleanup)

    async def _save(self, wanted: TranscriptionInput, path: Path, tenant: TenantId) -> None:
        if wanted.audio_url is not None:
            await self._fetcher.fetch(wanted.audio_url, path, field="audio_url")
        elif wanted.audio_blob is not None:
            try:
                with await asyncio.to_thread(path.open, "wb") as file:
                    async for part in self._blobs.read(tenant, wanted.audio_blob):
                        await asyncio.to_thread(file.write, part)
            except NotFound as error:
                raise job_inputs.bad_input(error.message, "audio_blob") from None
            except (BlobStoreUnavailable, DatabaseUnavailable) as error:
                raise failure_of(error) from error
        else:
            await asyncio.to_thread(path.write_bytes, _decoded(wanted.audio or ""))


def fitted(result: TranscriptionResult, max_result_bytes: int) -> TranscriptionResult:
    """Return a result small enough to store: a transcript that was paid for is not lost because of its details.

    Details are dropped until it fits: the times of words in the attempts, the segments of the attempts, and then the
    times of words in the result.
    """
    for shorten in (_attempts_without_words, _attempts_without_segments, _segments_without_words):
        if len(msgspec.json.encode(result)) <= max_result_bytes:
            break
        result = shorten(result)
    return result


def _attempts_without_words(result: TranscriptionResult) -> TranscriptionResult:
    attempts = [replace(attempt, segments=_without_words(attempt.segments)) for attempt in result.attempts]
    return replace(result, attempts=attempts)


def _attempts_without_segments(result: TranscriptionResult) -> TranscriptionResult:
    return replace(result, attempts=[replace(attempt, segments=None) for attempt in result.attempts])


def _segments_without_words(result: TranscriptionResult) -> TranscriptionResult:
    return replace(result, segments=_without_words(result.segments) or [])


def _without_words(segments: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if segments is None:
        return None
    return [{name: value for name, value in one.items() if name != "words"} for one in segments]


def sweep() -> None:
    """Remove recordings that killed workers left behind. Call it once, before the first job."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(folder, ignore_errors=True)


def _decoded(audio: str) -> bytes:
    """Decode base64, with or without ``data:…;base64,`` before it."""
    text = audio
    if audio.startswith("data:"):
        head, comma, text = audio.partition(",")
        if not comma or not head.endswith(";base64"):
            raise job_inputs.bad_input("must be a data: URL in base64", "audio")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise job_inputs.bad_input("must be base64, or a data: URL in base64", "audio") from None


def _transcribing(sound: Sound) -> dict[str, Any]:
    return {"stage": "transcribing", "audio_seconds": round(sound.recording.duration_seconds, 1)}


def _request(wanted: TranscriptionInput) -> SpeechRequest:
    return SpeechRequest(
        language=wanted.language,
        diarization=wanted.diarization,
        min_speakers=wanted.min_speakers,
        max_speakers=wanted.max_speakers,
        prompt=wanted.prompt,
    )
