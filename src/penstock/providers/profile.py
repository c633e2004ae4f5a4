"""Providers and model profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from penstock.providers.endpoint import Endpoint


class Kind(StrEnum):
    """The protocol of a provider, which decides what the provider can be used for."""

    CHAT = "chat"  # chat completions by OpenAI's /chat/completions
    WHISPERX = "whisperx"  # transcription as a form with a file
    AUDIO_CHAT = "audio-chat"  # transcription by a chat model that takes input_audio
    MODEL = "model"  # a registered model with the inputs and outputs of chat jobs
    AUDIO_MODEL = "audio-model"  # a registered model that transcribes

    @property
    def transcribes(self) -> bool:
        return self not in {Kind.CHAT, Kind.MODEL}

    @property
    def registered(self) -> bool:
        """Whether the provider is a registered model and not a server at an address."""
        return self in {Kind.MODEL, Kind.AUDIO_MODEL}


class Mode(StrEnum):
    """The way in which several providers are called."""

    FIRST = "first"  # in order, until one succeeds
    ALL = "all"  # all at once; the first in order that succeeds gives the result
    RACE = "race"  # all at once, until one succeeds


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """One provider: its address, its model, and the limits for calls to it."""

    name: str
    kind: Kind
    endpoint: Endpoint | None  # None for a registered model, which the host or the gateway finds by its name
    model: str  # "": the server chooses
    timeout: timedelta = timedelta(minutes=5)
    concurrency: int = 8  # calls of one process at a time
    requests_per_minute: int | None = None  # of one process; None: learned from the provider's responses
    interface: str = "transcribe"  # of whisperx: transcribe, asr or openai
    prompt: str = ""  # of audio-chat: the instruction
    max_tokens: int = 4096  # of audio-chat
    max_duration: timedelta | None = None  # the longest recording in one call; longer ones are cut. None: any
    defaults: Mapping[str, Any] = field(default_factory=dict)  # sent with every request
    hints: Mapping[str, str] = field(default_factory=dict)  # settings to check when it refuses our requests

    @property
    def server(self) -> Endpoint:
        """The address of a provider that is a server."""
        if self.endpoint is None:
            raise ValueError(f"provider {self.name} is a registered model")
        return self.endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A name for jobs: providers for one task, in order, and how they are called."""

    name: str
    providers: tuple[ProviderSpec, ...]
    mode: Mode
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of a job's input

    @property
    def transcribes(self) -> bool:
        return self.providers[0].kind.transcribes

    @property
    def concurrency(self) -> int:
        """The number of jobs that keep the providers busy: the first limit, or the lowest one if all are called."""
        every = [provider.concurrency for provider in self.providers]
        return every[0] if self.mode is Mode.FIRST else min(every)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All providers and profiles, by name."""

    providers: Mapping[str, ProviderSpec]
    profiles: Mapping[str, Profile]

    @property
    def secrets(self) -> set[str]:
        """Every secret of every provider."""
        endpoints = [spec.endpoint for spec in self.providers.values() if spec.endpoint is not None]
        return {secret for endpoint in endpoints for secret in endpoint.secrets}
