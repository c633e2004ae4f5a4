"""Transcription servers that take a form with a file: WhisperX servers, and OpenAI's ``/v1/audio/transcriptions``."""

from __future__ import annotations

from typing import Any, Final

import aiohttp

from penstock.openai import transcriptions
from penstock.outbound.peer import ObserveHead
from penstock.providers.kinds.chat import peer_of
from penstock.providers.profile import ProviderSpec
from penstock.providers.reply import Reply
from penstock.providers.speech import SpeechRequest, transcript
from penstock.recordings.recording import Recording

_MAX_RESPONSE_BYTES: Final = 64 * 2**20  # bytes
_PATHS: Final = {"transcribe": "/transcribe", "asr": "/asr", "openai": transcriptions.PATH}


class WhisperXServer:
    """One server and its connections; ``close`` it at the end. It decodes every format by itself.

    Its interface is one of three: ``transcribe`` (the file in ``file``, options as fields of the form), ``asr`` (the
    file in ``audio_file``, options in the query; whisper-asr-webservice), ``openai`` (as OpenAI documents it, with
    ``response_format=verbose_json``; options that OpenAI does not define are sent only if a job states them).
    """

    takes: frozenset[str] | None = None

    def __init__(self, spec: ProviderSpec, observe: ObserveHead | None = None) -> None:
        self.max_seconds = None if spec.max_duration is None else spec.max_duration.total_seconds()
        self._spec = spec
        self._peer = peer_of(spec, observe, max_bytes=_MAX_RESPONSE_BYTES)

    async def transcribe(self, recording: Recording, request: SpeechRequest, *, key: str) -> Reply:
        options = dict(transcriptions.form_fields(self._options(request)))
        headers = {**self._spec.server.headers, "Accept": "application/json", "Idempotency-Key": key}
        form = aiohttp.FormData(default_to_multipart=True)
        in_query = self._spec.interface == "asr"
        if not in_query:
            for name, value in options.items():
                form.add_field(name, value)
        with recording.path.open("rb") as file:
            form.add_field(
                "audio_file" if in_query else "file",
                file,
                filename=f"recording{recording.format.extension}",
                content_type=recording.media_type,
            )
            query = options if in_query else None
            body, _ = await self._peer.post(self._url(), headers=headers, data=form, params=query)
        return transcript(await self._peer.cleaned(body), recording, self._spec.model or self._spec.name)

    def _url(self) -> str:
        """Return the configured address, if it names an endpoint, or the usual one below it."""
        endpoint = self._spec.server
        path = _PATHS[self._spec.interface]
        if endpoint.path.endswith(path):
            return endpoint.url()
        return endpoint.url("/v1" + path if self._spec.interface == "openai" and not endpoint.path else path)

    def _options(self, request: SpeechRequest) -> dict[str, Any]:
        stated: dict[str, Any] = {"language": request.language}
        if request.diarization:
            stated |= {"diarize": True, "min_speakers": request.min_speakers, "max_speakers": request.max_speakers}
        match self._spec.interface:
            case "openai":
                stated |= {
                    "model": self._spec.model or transcriptions.DEFAULT_MODEL,
                    "response_format": "verbose_json",
                    "prompt": request.prompt,
                }
            case "asr":
                stated |= {"task": "transcribe", "output": "json", "encode": True, "initial_prompt": request.prompt}
            case _:
                stated |= {"model": self._spec.model or None, "initial_prompt": request.prompt}
        return {**self._spec.defaults, **{name: value for name, value in stated.items() if value is not None}}

    async def close(self) -> None:
        await self._peer.close()
