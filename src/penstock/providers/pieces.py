"""Recordings that are longer than a provider hears at once: asked piece by piece, answered as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from uuid import uuid4

from penstock.outbound.failure import CallFailed
from penstock.providers.asking import Reply, Used
from penstock.providers.speech import Sound, SpeechRequest, SpeechServer
from penstock.recordings import cutting
from penstock.recordings.recording import Recording

_TRIES: Final = 3  # of a piece, once others are done: they would be lost with it
_LONGEST_WAIT: Final = 20.0  # seconds, for a provider that limits us in the middle
_PASSING: Final = frozenset({"provider", "rate_limited"})  # what may be otherwise the next time

Tell = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a provider answered to a piece, which begins so many seconds from the start."""

    begins: float
    reply: Reply


async def transcribed(
    server: SpeechServer, sound: Sound, request: SpeechRequest, *, key: str, seconds: float, tell: Tell
) -> Reply:
    """What a provider hears in a recording, within ``seconds``; ``tell`` is told how many seconds of it are done.

    Raises CallFailed. ``key`` is the idempotency key; each piece has one of its own.
    """
    recording = await sound.taken_by(server)
    if server.max_seconds is None or recording.duration_seconds <= server.max_seconds:
        return await server.ask(recording, request, key=key)
    try:
        async with asyncio.timeout(seconds):
            heard = await _piecewise(server, recording, server.max_seconds, request, key, tell)
    except TimeoutError:
        raise CallFailed("timeout", f"it took longer than {seconds:g} s for all pieces of the recording") from None
    except OSError as error:
        raise CallFailed("failed", f"the recording cannot be cut here: {error.strerror or error}") from None
    return _joined(heard, request)


async def _piecewise(
    server: SpeechServer, recording: Recording, longest: float, request: SpeechRequest, key: str, tell: Tell
) -> list[_Heard]:
    heard: list[_Heard] = []
    spans = list(pairwise(await cutting.cuts(recording, longest)))
    for number, (begin, end) in enumerate(spans, start=1):
        path = recording.path.with_name(f"piece-{uuid4().hex}.wav")
        try:
            piece = await cutting.piece(recording, begin, end, path)
            reply = await _patiently(server, piece, request, f"{key}-{number}", tries=_TRIES if heard else 1)
        except CallFailed as error:
            message = f"{error.message} (piece {number} of {len(spans)}, at {begin:.0f} s)"
            raise CallFailed(error.kind, message, field=error.field, retry_after=error.retry_after) from error
        finally:
            path.unlink(missing_ok=True)
        heard.append(_Heard(begin, reply))
        tell(end)
    return heard


async def _patiently(server: SpeechServer, piece: Recording, request: SpeechRequest, key: str, *, tries: int) -> Reply:
    for again in range(1, tries):
        try:
            return await server.ask(piece, request, key=key)
        except CallFailed as error:
            wait = error.retry_after if error.retry_after is not None else float(again)
            if error.kind not in _PASSING or wait > _LONGEST_WAIT:
                raise
        await asyncio.sleep(wait)
    return await server.ask(piece, request, key=key)


def _joined(heard: Sequence[_Heard], request: SpeechRequest) -> Reply:
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
    """A segment, or a word in it, with its times from the start of the whole recording."""
    moved = dict(segment)
    for name in ("start", "end"):
        if isinstance(moved.get(name), (int, float)):
            moved[name] = round(moved[name] + seconds, 3)
    if isinstance(moved.get("words"), list):
        moved["words"] = [_later(word, seconds) if isinstance(word, Mapping) else word for word in moved["words"]]
    moved.pop("id", None)  # it counts from the start of its piece
    return moved
