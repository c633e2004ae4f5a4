"""Servers that transcribe recordings through the interfaces of the real ones."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from tests.support.http_servers import running
from tests.support.recordings import TEXT

SEGMENTS: list[dict[str, Any]] = [
    {"id": 0, "start": 0.0, "end": 1.25, "text": " The quick brown fox", "speaker": "SPEAKER_00", "tokens": [1, 2]},
    {"id": 1, "start": "1.25", "end": 2.5, "text": "jumps over the lazy dog.", "words": [{"word": "jumps"}]},
]


@dataclass(slots=True)
class Heard:
    """The last request that a transcription server got."""

    address: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)  # of the form, and of the query
    files: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)  # name, media type, bytes
    chats: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    @property
    def audio(self) -> tuple[str, bytes]:
        """Format and bytes of the recording in the last chat."""
        (part,) = [part for part in self.chats[-1]["messages"][0]["content"] if part["type"] == "input_audio"]
        return part["input_audio"]["format"], base64.b64decode(part["input_audio"]["data"], validate=True)

    @property
    def instruction(self) -> str:
        """The instruction of the last chat, beside the recording."""
        (part,) = [part for part in self.chats[-1]["messages"][0]["content"] if part["type"] == "text"]
        text: str = part["text"]
        return text


@asynccontextmanager
async def transcribing(output: Any = None, *, status: int = 200, text: str = TEXT) -> AsyncIterator[Heard]:
    """Return a server with the interfaces of WhisperX, of OpenAI's transcriptions, and of chat with ``input_audio``.

    Refuses what such servers refuse: a form without a file, a wrong file field, no model where one is required.
    """
    heard = Heard()

    async def transcribe(request: web.Request) -> web.Response:
        heard.count += 1
        heard.path, heard.headers = request.path, dict(request.headers)
        heard.fields, heard.files = dict(request.query), {}
        form = await request.multipart()
        while isinstance(part := await form.next(), BodyPartReader):
            data, name = bytes(await part.read()), part.name or ""
            if part.filename is not None:
                heard.files[name] = (part.filename, part.headers["Content-Type"], data)
            else:
                heard.fields[name] = data.decode()
        wanted = "audio_file" if request.path.endswith("/asr") else "file"
        if set(heard.files) != {wanted}:
            return web.json_response({"detail": f"field {wanted} required"}, status=422)
        if request.path.endswith("/transcriptions") and "model" not in heard.fields:
            return web.json_response({"error": {"message": "you must provide a model parameter"}}, status=400)
        if status != 200:
            return web.json_response({"detail": "the model failed"}, status=status)
        return web.json_response({"text": text, "segments": SEGMENTS, "language": "en"} if output is None else output)

    async def chat(request: web.Request) -> web.Response:
        heard.count += 1
        heard.path, heard.headers = request.path, dict(request.headers)
        heard.chats.append(await request.json())
        if status != 200:
            return web.json_response({"error": {"message": "the model failed"}}, status=status)
        usage = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
        message = {"role": "assistant", "content": text}
        return web.json_response({"model": "served-audio", "choices": [{"message": message}], "usage": usage})

    application = web.Application(client_max_size=2**28)
    application.add_routes(
        [
            *(
                web.post(path, transcribe)
                for path in ("/transcribe", "/asr", "/v1/audio/transcriptions", "/x/transcribe")
            ),
            web.post("/v1/chat/completions", chat),
        ]
    )
    async with running(application) as heard.address:
        yield heard
