"""Transcribe recordings that are too long for one call: send pieces and join their transcripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from uuid import uuid4

from penstock.failures import CallFailed, Category
from penstock.providers.metered import MeteredGate
from penstock.providers.reply import Reply, Used
from penstock.providers.speech import Sound, SpeechRequest, SpeechServer
from penstock.recordings import cutting
from penstock.recordings.recording import Recording

_MIN_WAIT_SECONDS: Final = 1.0  # for a provider that limits us
_MARGIN: Final = 1.0  # seconds
_TRIES: Final = 3  # attempts for a piece at which the provider fails

OnProgress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class _Piece:
    """The reply to a piece, and the second of the recording at which the piece begins."""

    begins: float
    reply: Reply


async def transcribed(
    server: SpeechServer,
    sound: Sound,
    request: SpeechRequest,
    gate: MeteredGate,
    *,
    key: str,
    seconds: float,
    on_progress: OnProgress,
) -> Reply:
    """Transcribe a recording within ``seconds``; call ``on_progress`` with the seconds of sound that are done.

    Each piece is a call, with a slot and an idempotency key of its own. Raises CallFailed, GateClosed.
    """
    recording = await sound.taken_by(server)
    if server.max_seconds is None or recording.duration_seconds <= server.max_seconds:
        async with gate.slot():
            return await server.transcribe(recording, request, key=key)
    work = _Piecewise(server, recording, request, gate, key, seconds, on_progress)
    try:
        async with asyncio.timeout(seconds + _MARGIN):
            return _joined(await work.all(server.max_seconds, time.monotonic() + seconds), request)
    except TimeoutError:  # other calls held all slots of the provider
        raise _too_long(seconds) from None
    except OSError as error:
        raise CallFailed(Category.INTERNAL, f"the recording cannot be cut here: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class _Piecewise:
    """One recording that one provider transcribes in pieces."""

    server: SpeechServer
    recording: Recording
    request: SpeechRequest
    gate: MeteredGate
    key: str
    seconds: float
    on_progress: OnProgress

    async def all(self, longest: float, deadline: float) -> list[_Piece]:
        heard: list[_Piece] = []
        spans = list(pairwise(await cutting.cuts(self.recording, longest)))
        for number, (begin, end) in enumerate(spans, start=1):
            path = self.recording.path.with_name(f"piece-{uuid4().hex}.wav")
            try:
                piece = await cutting.piece(self.recording, begin, end, path)
                send = self._with_retries if heard else self._once
                reply = await send(piece, f"{self.key}-{number}", deadline)
            except CallFailed as error:
                message = f"{error.message} (piece {number} of {len(spans)}, at {begin:.0f} s)"
                raise CallFailed(
                    error.category, message, field=error.field, retry_after=error.retry_after, code=error.code
                ) from error
            finally:
                path.unlink(missing_ok=True)
            heard.append(_Piece(begin, reply))
            self.gate.paid(reply.used)
            self.on_progress(end)
        return heard

    async def _once(self, piece: Recording, key: str, deadline: float) -> Reply:
        async with self.gate.slot():
            return await self._call(piece, key, deadline)

    async def _with_retries(self, piece: Recording, key: str, deadline: float) -> Reply:
        """Retry until the deadline, because the job would lose all earlier pieces with this one."""
        failures = 0
        while True:
            try:
                async with self.gate.slot(deadline - time.monotonic()):
                    return await self._call(piece, key, deadline)
            except CallFailed as error:
                if error.category is Category.RATE_LIMITED:
                    await asyncio.sleep(_MIN_WAIT_SECONDS)  # the gate determines the rest of the wait
                    continue
                failures += 1
                pause = float(failures) if error.retry_after is None else error.retry_after.total_seconds()
                if (
                    error.category is not Category.PROVIDER_ERROR
                    or failures == _TRIES
                    or time.monotonic() + pause >= deadline
                ):
                    raise
                await asyncio.sleep(pause)

    async def _call(self, piece: Recording, key: str, deadline: float) -> Reply:
        """Make one call within the time that is left. The limit applies inside the slot, so that the gate notices a
        provider that hangs."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self.server.transcribe(piece, self.request, key=key)
        except TimeoutError:
            raise _too_long(self.seconds) from None


def _too_long(seconds: float) -> CallFailed:
    return CallFailed(Category.TIMEOUT, f"it took longer than {seconds:g} s for all pieces of the recording")


def _joined(heard: Sequence[_Piece], request: SpeechRequest) -> Reply:
    replies = [one.reply for one in heard]
    languages = [reply.language for reply in replies if reply.language]
    return Reply(
        text=("\n" if request.diarization else " ").join(reply.text for reply in replies if reply.text),
        model=replies[0].model,
        used=Used(
            prompt_tokens=sum(reply.used.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.used.completion_tokens for reply in replies),
            audio_seconds=sum(reply.used.audio_seconds for reply in replies),
        ),
        segments=[_later(segment, one.begins) for one in heard for segment in one.reply.segments or []],
        language=max(languages, key=languages.count) if languages else None,
    )


def _later(segment: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return a segment, or a word in it, with times relative to the start of the whole recording."""
    moved = dict(segment)
    for name in ("start", "end"):
        if isinstance(moved.get(name), (int, float)):
            moved[name] = round(moved[name] + seconds, 3)
    if isinstance(moved.get("words"), list):
        moved["words"] = [_later(word, seconds) if isinstance(word, Mapping) else word for word in moved["words"]]
    moved.pop("id", None)  # its times are relative to the start of its piece
    return moved
