"""Requests to providers that transcribe, and a common form for their responses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from penstock.failures import CallFailed, Category
from penstock.providers.reply import Reply, Used
from penstock.recordings.recording import Recording, UnusableAudio, converted

# Fields of a segment that are kept beside its times and text.
_KEPT: Final = ("id", "speaker", "words", "avg_logprob", "no_speech_prob")
_NAME_LENGTH: Final = 200  # characters of a model's name in a response
_MAX_SEGMENTS: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """The options of a transcription. None leaves the choice to the provider."""

    language: str | None = None  # ISO 639-1, such as "en"
    diarization: bool = False  # label the speakers
    min_speakers: int | None = None
    max_speakers: int | None = None
    prompt: str | None = None  # names and words that occur in the recording


class Sound:
    """A recording from a caller. It is converted once for all providers that do not take its format."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._converting = asyncio.Lock()
        self._wav: Recording | None = None

    async def taken_by(self, server: SpeechServer) -> Recording:
        """Return the recording in a format that the server takes, or that can be cut. Raises CallFailed."""
        taken = server.takes is None or self.recording.format.name in server.takes
        too_long = server.max_seconds is not None and self.recording.duration_seconds > server.max_seconds
        if taken and not too_long:
            return self.recording
        async with self._converting:
            if self._wav is None:
                self._wav = await self._converted()
        return self._wav

    async def _converted(self) -> Recording:
        try:
            return await converted(self.recording, self.recording.path.with_name("converted.wav"))
        except UnusableAudio as error:
            raise CallFailed(Category.BAD_INPUT, f"the recording {error}") from None
        except OSError as error:
            raise CallFailed(
                Category.INTERNAL, f"the recording cannot be converted here: {error.strerror or error}"
            ) from None


class SpeechServer(Protocol):
    """A provider that transcribes. ``transcribe`` raises CallFailed; ``key`` is the idempotency key."""

    @property
    def takes(self) -> frozenset[str] | None:
        """The names of the formats that the provider takes; None: any."""

    @property
    def max_seconds(self) -> float | None:
        """The longest recording that the provider takes at once; None: any."""

    async def transcribe(self, recording: Recording, request: SpeechRequest, *, key: str) -> Reply: ...
    async def close(self) -> None: ...


def transcript(body: bytes, recording: Recording, model: str) -> Reply:
    """Return the reply of a server that returns ``segments``, ``text`` or both, at the top or under ``result``.

    Raises CallFailed (``provider_error``) for anything else.
    """
    try:
        response = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response is not JSON") from None
    if isinstance(response, dict) and isinstance(response.get("result"), dict):
        response = response["result"]
    if not isinstance(response, dict):
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response is not an object")
    stated = response.get("segments")
    if stated is not None and not isinstance(stated, list):
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's segments are not a list")
    text = response.get("text")
    if not isinstance(text, str) and stated is None:
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response has neither text nor segments")
    segments = [_segment(one) for one in (stated or [])[:_MAX_SEGMENTS]]
    if not isinstance(text, str):
        text = " ".join(one["text"] for one in segments if one["text"])
    if not segments and text.strip():
        segments = [whole(text, recording)]
    language = response.get("language")
    served = response.get("model")
    return Reply(
        text=text.strip(),
        model=served[:_NAME_LENGTH] if isinstance(served, str) and served else model,
        used=Used(audio_seconds=recording.duration_seconds),
        segments=segments,
        language=language if isinstance(language, str) else None,
    )


def whole(text: str, recording: Recording) -> dict[str, Any]:
    """Return one segment for the whole text, for a provider that returns no times."""
    return {"start": 0.0, "end": round(recording.duration_seconds, 3), "text": text.strip()}


def _segment(stated: Any) -> dict[str, Any]:
    if not isinstance(stated, Mapping) or not isinstance(stated.get("text"), str):
        raise CallFailed(Category.PROVIDER_ERROR, "a segment of the provider's response has no text")
    found: dict[str, Any] = {
        "start": _seconds(stated.get("start")),
        "end": _seconds(stated.get("end")),
        "text": stated["text"].strip(),
    }
    return found | {name: stated[name] for name in _KEPT if stated.get(name) is not None}


def _seconds(stated: Any) -> float | None:
    """Return a time in a recording; some servers write numbers as texts."""
    try:
        value = float(stated)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(value, 3) if 0 <= value < 1e9 else None
