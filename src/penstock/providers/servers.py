"""The providers of one process: their connections and gates, opened when they are first needed."""

from __future__ import annotations

from penstock.outbound.gate import Gate
from penstock.providers.kinds.audio_chat import AudioChatServer
from penstock.providers.kinds.chat import ChatServer
from penstock.providers.kinds.whisperx import WhisperXServer
from penstock.providers.profile import Kind, ProviderSpec
from penstock.providers.reports import ProviderReport, report_of
from penstock.providers.speech import SpeechServer


class Servers:
    """Connections to providers; ``close`` them at the end."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._chat: dict[str, ChatServer] = {}
        self._speech: dict[str, SpeechServer] = {}

    def gate(self, spec: ProviderSpec) -> Gate:
        """What every call to that provider passes."""
        if spec.name not in self._gates:
            self._gates[spec.name] = Gate(spec.concurrency, per_minute=spec.requests_per_minute)
        return self._gates[spec.name]

    def chat(self, spec: ProviderSpec) -> ChatServer:
        """A provider of kind chat."""
        if spec.name not in self._chat:
            self._chat[spec.name] = ChatServer(spec, self.gate(spec).observe)
        return self._chat[spec.name]

    def speech(self, spec: ProviderSpec) -> SpeechServer:
        """A provider that transcribes."""
        if spec.name not in self._speech:
            make = WhisperXServer if spec.kind is Kind.WHISPERX else AudioChatServer
            self._speech[spec.name] = make(spec, self.gate(spec).observe)
        return self._speech[spec.name]

    def reports(self) -> dict[str, ProviderReport]:
        """How each provider that was asked stands with this process."""
        return {name: report_of(gate) for name, gate in self._gates.items()}

    async def close(self) -> None:
        for chat in self._chat.values():
            await chat.close()
        for speech in self._speech.values():
            await speech.close()
