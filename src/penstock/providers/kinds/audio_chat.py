"""Chat models that take sound: a recording as ``input_audio`` of OpenAI's ``/chat/completions``."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from penstock.failures import CallFailed, Category
from penstock.outbound.peer import ObserveHead
from penstock.providers.kinds.chat import Attachment, ChatServer
from penstock.providers.metered import ChargedFailure
from penstock.providers.profile import ProviderSpec
from penstock.providers.reply import Reply
from penstock.providers.speech import SpeechRequest, whole
from penstock.recordings.recording import Recording

_MAX_RECORDING_BYTES: Final = 128 * 2**20  # a third more as base64


class AudioChatServer:
    """One server and its connections; ``close`` it at the end."""

    takes: frozenset[str] | None = frozenset({"wav", "mp3"})  # the formats that input_audio supports

    def __init__(self, spec: ProviderSpec, observe: ObserveHead | None = None) -> None:
        self.max_seconds = None if spec.max_duration is None else spec.max_duration.total_seconds()
        self._spec = spec
        self._chat = ChatServer(spec, observe)

    async def transcribe(self, recording: Recording, request: SpeechRequest, *, key: str) -> Reply:
        if recording.size_bytes > _MAX_RECORDING_BYTES:
            message = f"the recording has {recording.size_bytes} bytes; at most {_MAX_RECORDING_BYTES} can be sent"
            raise CallFailed(Category.BAD_INPUT, message)
        audio = Attachment(recording.path, recording.size_bytes)
        parts: list[dict[str, Any]] = [
            {"type": "input_audio", "input_audio": {"data": audio.mark, "format": recording.format.name}},
            {"type": "text", "text": instruction(self._spec.prompt, request)},
        ]
        options = {"max_tokens": self._spec.max_tokens, "temperature": 0} | dict(self._spec.defaults)
        reply = await self._chat.complete([{"role": "user", "content": parts}], options, key=key, attachment=audio)
        if reply.finish_reason == "length":  # half a transcript that seems complete is worse than none
            most = options["max_tokens"]
            message = f"the transcript was cut off after max_tokens ({most}); raise it, or lower max_duration"
            raise ChargedFailure(message, replace(reply.used, audio_seconds=recording.duration_seconds))
        text = reply.text.strip()
        return Reply(
            text=text,
            model=reply.model,
            used=replace(reply.used, audio_seconds=recording.duration_seconds),
            segments=[whole(text, recording)] if text else [],
            language=request.language,
            usage=reply.usage,
        )

    async def close(self) -> None:
        await self._chat.close()


def instruction(prompt: str, request: SpeechRequest) -> str:
    """Return the instruction for the model: the configured prompt, completed by the options of the request."""
    lines = [prompt]
    if request.language:
        lines.append(f"The language spoken is {request.language}.")
    if request.diarization:
        lines.append("Begin a new line whenever the speaker changes, with SPEAKER_00: for the first, then SPEAKER_01:.")
        if request.min_speakers or request.max_speakers:
            lines.append(f"There are {_range(request.min_speakers, request.max_speakers)} speakers.")
    if request.prompt:
        lines.append(f"What may help to understand it: {request.prompt}")
    return "\n".join(lines)


def _range(least: int | None, most: int | None) -> str:
    if least == most:
        return str(least)
    return f"{least or 1} or more" if most is None else f"{least or 1} to {most}"
