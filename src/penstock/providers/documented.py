"""The providers and profiles of the documented variables: ``LLM_BASE_URL``, ``WHISPERX_URL`` and the audio models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from penstock.masking import Secret
from penstock.providers.endpoint import Endpoint
from penstock.providers.profile import Kind, Mode, Profile, ProviderSpec
from penstock.settings import Settings

#: The variable that configures each documented provider.
VARIABLES: Final = {
    "llm": "LLM_BASE_URL",
    "whisperx": "WHISPERX_URL",
    "qwen2-audio": "QWEN_AUDIO_BASE_URL",
    "voxtral-small": "VOXTRAL_BASE_URL",
}


def transcribes(name: str) -> bool | None:
    """Return whether profiles of that provider transcribe; None for a name that is not documented."""
    return None if name not in VARIABLES else name != "llm"


def providers(settings: Settings) -> Iterator[ProviderSpec]:
    """Yield the providers that have a URL."""
    if settings.llm_base_url is not None:
        yield ProviderSpec(
            name="llm",
            kind=Kind.CHAT,
            endpoint=_endpoint(settings.llm_base_url, settings.llm_api_key),
            model=settings.llm_model,
            timeout=settings.llm_timeout,
            concurrency=settings.penstock_provider_concurrency,
            hints={"credentials": "LLM_API_KEY", "address": "LLM_BASE_URL and LLM_MODEL"},
        )
    if settings.whisperx_url is not None:
        yield ProviderSpec(
            name="whisperx",
            kind=Kind.WHISPERX,
            endpoint=_endpoint(settings.whisperx_url, settings.whisperx_api_key),
            model=settings.whisperx_model or "",
            timeout=settings.transcription_timeout,
            concurrency=settings.penstock_provider_concurrency,
            interface=settings.whisperx_interface,
            hints={"credentials": "WHISPERX_API_KEY", "address": "WHISPERX_URL and WHISPERX_INTERFACE"},
        )
    yield from _audio_models(settings)


def _audio_models(settings: Settings) -> Iterator[ProviderSpec]:
    qwen = (
        "qwen2-audio",
        settings.qwen_audio_base_url,
        settings.qwen_audio_key,
        settings.qwen_audio_model,
        settings.qwen_audio_max_duration,
        "QWEN_AUDIO",
    )
    voxtral = (
        "voxtral-small",
        settings.voxtral_base_url,
        settings.voxtral_key,
        settings.voxtral_model,
        settings.voxtral_max_duration,
        "VOXTRAL",
    )
    for name, url, key, model, max_duration, prefix in (qwen, voxtral):
        if url is not None:
            yield ProviderSpec(
                name=name,
                kind=Kind.AUDIO_CHAT,
                endpoint=_endpoint(url, key),
                model=model,
                timeout=settings.transcription_timeout,
                concurrency=settings.penstock_provider_concurrency,
                prompt=settings.audio_llm_prompt,
                max_tokens=settings.audio_llm_max_tokens,
                max_duration=max_duration,
                hints={"credentials": f"{prefix}_API_KEY", "address": f"{prefix}_BASE_URL and {prefix}_MODEL"},
            )


def profiles(settings: Settings, known: Mapping[str, ProviderSpec]) -> Iterator[Profile]:
    """Yield the profiles of the documented variables.

    The profile ``whisperx``, which callers name for transcription, has all TRANSCRIPTION_PROVIDERS in their order. Each
    audio model also has a profile of its own, and the profile of the language model has the name LLM_MODEL.
    """
    if "llm" in known:
        yield Profile(name=settings.llm_model, providers=(known["llm"],), mode=Mode.FIRST)
    for name in ("qwen2-audio", "voxtral-small"):
        if name in known:
            yield Profile(name=name, providers=(known[name],), mode=Mode.FIRST)
    listed = tuple(known[name] for name in settings.transcription_providers if name in known)
    if listed:
        yield Profile(name="whisperx", providers=listed, mode=Mode(settings.transcription_mode))


def _endpoint(url: str, key: Secret | None) -> Endpoint:
    return Endpoint(base_url=url, api_key=key.reveal() if key is not None else None)
