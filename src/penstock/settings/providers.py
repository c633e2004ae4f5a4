"""Settings of the built-in providers (language models, transcription), and of the file that defines others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from penstock.masking import Secret
from penstock.settings.kinds import (
    DAY,
    SECOND,
    choice,
    duration,
    folder,
    header_secret,
    http_url,
    integer,
    several,
    text,
)
from penstock.settings.variable import Relation, setting

Transcriber = Literal["whisperx", "qwen2-audio", "voxtral-small"]
TranscriptionMode = Literal["first", "all", "race"]
WhisperxInterface = Literal["transcribe", "asr", "openai"]

_TRANSCRIBERS: Final[tuple[Transcriber, ...]] = ("whisperx", "qwen2-audio", "voxtral-small")
_MODES: Final[tuple[TranscriptionMode, ...]] = ("first", "all", "race")
_INTERFACES: Final[tuple[WhisperxInterface, ...]] = ("transcribe", "asr", "openai")
_piece: Final = duration(timedelta(seconds=5), DAY)  # of a recording


@dataclass(frozen=True, kw_only=True, repr=False)
class ProviderSettings:
    """Providers."""

    llm_base_url: str | None = setting(http_url, None, "primary OpenAI-compatible endpoint")
    llm_api_key: Secret | None = setting(header_secret, None, "key of the primary LLM")
    llm_model: str = setting(text, "qwen2.5-14b", "model_profile that the built-in LLM worker serves")
    llm_timeout: timedelta = setting(duration(SECOND, DAY), timedelta(minutes=5), "time limit of one LLM call")
    transcription_providers: tuple[Transcriber, ...] = setting(
        several(choice(*_TRANSCRIBERS)), ("whisperx",), "ordered, comma-separated: whisperx, qwen2-audio, voxtral-small"
    )
    transcription_mode: TranscriptionMode = setting(
        choice(*_MODES),
        "all",
        "all: call every provider and compare; first: in turn until one succeeds; race: the fastest wins",
    )
    transcription_timeout: timedelta = setting(
        duration(SECOND, DAY), timedelta(minutes=30), "time limit of one provider's transcription"
    )
    whisperx_url: str | None = setting(http_url, None, "WhisperX endpoint for transcription jobs")
    whisperx_interface: WhisperxInterface = setting(
        choice(*_INTERFACES),
        "transcribe",
        "the API of WHISPERX_URL: POST /transcribe, POST /asr, or /v1/audio/transcriptions",
    )
    whisperx_model: str | None = setting(text, None, "model name sent to it; unset: the server's own choice")
    whisperx_api_key: Secret | None = setting(header_secret, None, "bearer token of WhisperX")
    qwen_audio_base_url: str | None = setting(http_url, None, "OpenAI-compatible endpoint for Qwen2-Audio")
    qwen_audio_model: str = setting(text, "Qwen/Qwen2-Audio-7B-Instruct", "model name sent to it")
    qwen_audio_api_key: Secret | None = setting(
        header_secret, None, "falls back to AUDIO_LLM_API_KEY, then LLM_API_KEY"
    )
    qwen_audio_max_duration: timedelta = setting(
        _piece, timedelta(seconds=30), "longest recording that it accepts: longer ones are cut"
    )
    voxtral_base_url: str | None = setting(http_url, None, "OpenAI-compatible endpoint for Voxtral")
    voxtral_model: str = setting(text, "mistralai/Voxtral-Small-24B-2507", "model name sent to it")
    voxtral_api_key: Secret | None = setting(header_secret, None, "falls back to AUDIO_LLM_API_KEY, then LLM_API_KEY")
    voxtral_max_duration: timedelta = setting(
        _piece, timedelta(minutes=10), "longer recordings are sent to it in pieces"
    )
    audio_llm_api_key: Secret | None = setting(header_secret, None, "key shared by the audio LLM providers")
    audio_llm_prompt: str = setting(
        text,
        "Transcribe this recording word for word in the language spoken. Answer with the transcript only.",
        "transcription instruction for audio LLM providers",
    )
    audio_llm_max_tokens: int = setting(integer(1), 4096, "longest reply of an audio LLM, in tokens")
    penstock_profiles: Path | None = setting(
        folder, None, "file of providers and model profiles; unset: profiles.toml in the working directory, if any"
    )
    penstock_provider_concurrency: int = setting(
        integer(1, 10_000), 8, "calls of one worker to one provider at a time, unless its profile sets a number"
    )

    @property
    def qwen_audio_key(self) -> Secret | None:
        """The key for Qwen2-Audio, with the documented fallbacks."""
        return self.qwen_audio_api_key or self.audio_llm_api_key or self.llm_api_key

    @property
    def voxtral_key(self) -> Secret | None:
        """The key for Voxtral, with the documented fallbacks."""
        return self.voxtral_api_key or self.audio_llm_api_key or self.llm_api_key


def _each_once(providers: tuple[Transcriber, ...]) -> str | None:
    if len(set(providers)) != len(providers) or not providers:
        return "must name at least one provider, and each only once"
    return None


RELATIONS: Final = (Relation(blames="transcription_providers", over=("transcription_providers",), problem=_each_once),)
