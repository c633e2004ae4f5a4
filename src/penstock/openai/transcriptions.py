"""Transcriptions: requests are forms with a file, responses are ``verbose_json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.failures import CallFailed, Category

PATH: Final = "/audio/transcriptions"
DEFAULT_MODEL: Final = "whisper-1"  # the protocol requires a name


class Transcription(Struct, omit_defaults=True):
    """A server's response in the format ``verbose_json``; the format ``json`` has only the text."""

    text: str
    language: str | None = None
    duration: float | str | None = None  # seconds; OpenAI sends them as a string
    segments: list[dict[str, Any]] | None = None
    words: list[dict[str, Any]] | None = None


def form_fields(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield options as fields of a form. None is left out; values other than texts are written as JSON."""
    for name, value in options.items():
        if value is not None:
            yield name, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def transcription(body: bytes) -> Transcription:
    """Return a server's response, typed. Raises CallFailed (``provider_error``)."""
    try:
        return msgspec.json.decode(body, type=Transcription)
    except msgspec.ValidationError as error:
        raise CallFailed(Category.PROVIDER_ERROR, f"the provider's response is not a transcription: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response is not JSON") from None
