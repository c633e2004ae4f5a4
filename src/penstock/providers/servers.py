"""The providers of one process: their connections and gates, opened when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from penstock.outbound.gate import Gate
from penstock.providers.kinds.audio_chat import AudioChatServer
from penstock.providers.kinds.chat import ChatServer, OnDelta
from penstock.providers.kinds.model import AudioModel, ChatModel, ModelCaller
from penstock.providers.kinds.whisperx import WhisperXServer
from penstock.providers.profile import Kind, ProviderSpec
from penstock.providers.reply import Reply
from penstock.providers.reports import ProviderReport, report_of
from penstock.providers.speech import SpeechServer


class ChatProvider(Protocol):
    """A provider that makes completions. ``complete`` raises CallFailed; ``key`` is the idempotency key."""

    async def complete(
        self, messages: list[dict[str, Any]], options: Mapping[str, Any], *, key: str, on_delta: OnDelta | None = None
    ) -> Reply: ...
    async def close(self) -> None: ...


class Servers:
    """Connections to providers; ``close`` them at the end. ``models`` calls the registered models among them."""

    def __init__(self, models: ModelCaller | None = None) -> None:
        self._models = models
        self._gates: dict[str, Gate] = {}
        self._chat: dict[str, ChatProvider] = {}
        self._speech: dict[str, SpeechServer] = {}

    def gate(self, spec: ProviderSpec) -> Gate:
        """Return the gate that every call to that provider passes."""
        if spec.name not in self._gates:
            self._gates[spec.name] = Gate(spec.concurrency, per_minute=spec.requests_per_minute)
        return self._gates[spec.name]

    def chat(self, spec: ProviderSpec) -> ChatProvider:
        """Return a provider that makes completions."""
        if spec.name not in self._chat:
            self._chat[spec.name] = self._opened_chat(spec)
        return self._chat[spec.name]

    def speech(self, spec: ProviderSpec) -> SpeechServer:
        """Return a provider that transcribes."""
        if spec.name not in self._speech:
            self._speech[spec.name] = self._opened_speech(spec)
        return self._speech[spec.name]

    def _opened_chat(self, spec: ProviderSpec) -> ChatProvider:
        observe = self.gate(spec).observe
        return ChatModel(spec, self._caller(spec), observe) if spec.kind is Kind.MODEL else ChatServer(spec, observe)

    def _opened_speech(self, spec: ProviderSpec) -> SpeechServer:
        observe = self.gate(spec).observe
        match spec.kind:
            case Kind.AUDIO_MODEL:
                return AudioModel(spec, self._caller(spec), observe)
            case Kind.AUDIO_CHAT:
                return AudioChatServer(spec, observe)
            case _:
                return WhisperXServer(spec, observe)

    def _caller(self, spec: ProviderSpec) -> ModelCaller:
        if self._models is None:
            raise ValueError(f"provider {spec.name} is a registered model, and this process calls none")
        return self._models

    def reports(self) -> dict[str, ProviderReport]:
        """Return the state in this process of each provider that was called."""
        return {name: report_of(gate) for name, gate in self._gates.items()}

    async def close(self) -> None:
        for chat in self._chat.values():
            await chat.close()
        for speech in self._speech.values():
            await speech.close()
