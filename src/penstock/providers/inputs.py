"""The parts of a job's ``input`` that the built-in workers read."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta, Struct

from penstock.providers.profile import Mode

Speakers = Annotated[int, Meta(ge=1, le=100)]


class ChatInput(Struct, frozen=True, kw_only=True):
    """The fields of a job's ``input`` that the executor reads; all others are the caller's own and are ignored."""

    messages: list[dict[str, Any]] | None = None
    system: Any = None  # read only without messages
    user: Any = None  # read only without messages
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False  # send the reply as output while it arrives; for profiles with the mode "first"


class TranscriptionInput(Struct, frozen=True, kw_only=True):
    """The fields of a job's ``input`` that the executor reads; all others are the caller's own and are ignored.

    Exactly one of ``audio_url``, ``audio`` and ``audio_blob`` names the recording.
    """

    audio_url: str | None = None  # http or https
    audio: str | None = None  # base64, or a data: URL
    audio_blob: UUID | None = None  # of an uploaded file
    language: Annotated[str, Meta(min_length=1, max_length=50)] | None = None
    diarization: bool = False
    min_speakers: Speakers | None = None
    max_speakers: Speakers | None = None
    prompt: Annotated[str, Meta(max_length=10_000)] | None = None
    mode: Mode | None = None  # None: the profile's
    providers: Annotated[list[str], Meta(min_length=1, max_length=20)] | None = None  # None: all of the profile's
