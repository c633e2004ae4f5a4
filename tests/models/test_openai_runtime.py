"""The openai runtime: chat, embeddings and transcription, against servers that speak the protocol."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.failures import CallFailed
from penstock.masking import MASK
from penstock.models.checking import Checker
from penstock.models.replica.runtime import Schema, Segment, Spec
from penstock.models.replica.runtimes.openai import OpenaiRuntime
from tests.support.http_servers import responding, running, sending, serving, streaming
from tests.support.runtimes import CollectingWire, call_with, read

SAID = {
    "model": "served-model",
    "choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


@asynccontextmanager
async def runtime(address: str, **options: Any) -> AsyncIterator[OpenaiRuntime]:
    """Yield the runtime of a manifest with these options."""
    stated = {"base_url": f"{address}/v1", "model": "wanted-model"} | options
    assert not OpenaiRuntime.check(stated, Path("/"))
    made = OpenaiRuntime(Spec(name="m", version="1", folder=Path("/"), options=stated, schema=Schema(), timeout=5))
    try:
        yield made
    finally:
        await made.unload()


async def ask(address: str, value: Any, *segments: Segment, **options: Any) -> Any:
    async with runtime(address, **options) as made:
        Checker(made.describe().input).check(value)
        output = read(await made.predict(call_with(CollectingWire(), value, *segments)))
        Checker(made.describe().output).check(output)
        return output


class TestChat:
    async def test_a_text_gets_a_completion(self) -> None:
        """The output has the model, the usage and the finish reason."""
        async with serving(responding(SAID)) as seen:
            output = await ask(seen.address, {"system": "Be brief.", "user": "Hi", "max_tokens": 5})
            assert seen.paths == ["/v1/chat/completions"]
            assert seen.json == {
                "model": "wanted-model",
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
                "max_tokens": 5,
                "stream": False,
            }
        assert output.pop("duration_ms") >= 0
        assert output == {
            "content": "Hello",
            "model": "served-model",
            "usage": SAID["usage"],
            "finish_reason": "stop",
        }

    async def test_messages_pass_through_with_images_and_unknown_fields(self) -> None:
        """The caller's options override the defaults; the manifest's model name overrides the caller's."""
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
        messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
        async with serving(responding(SAID)) as seen:
            given = {"messages": messages, "temperature": 0.9, "model": "another", "tools": [{"type": "function"}]}
            await ask(seen.address, given, defaults={"temperature": 0.1, "seed": 7})
            assert seen.json["messages"] == messages
            assert (seen.json["temperature"], seen.json["seed"]) == (0.9, 7)
            assert seen.json["model"] == "wanted-model"
            assert seen.json["tools"] == [{"type": "function"}]

    async def test_tool_calls_are_an_output_too(self) -> None:
        """Such an output has no content."""
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
        async with serving(responding({"choices": [{"message": message, "finish_reason": "tool_calls"}]})) as seen:
            output = await ask(seen.address, {"user": "Hi"})
        assert (output["content"], output["tool_calls"]) == (None, message["tool_calls"])

    async def test_a_stream_comes_as_chunks_and_as_a_whole(self) -> None:
        """The server may cut the stream anywhere."""
        parts: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant"}}]}]
        parts += [{"choices": [{"delta": {"content": word}}]} for word in ("Grü", "ße ", "🐍")]
        parts += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {"total_tokens": 9}}]
        text = "".join(f"data: {json.dumps(part, ensure_ascii=False)}\n\n" for part in parts) + "data: [DONE]\n\n"
        for size in (1, 5, 1000):
            body = text.encode()
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            async with serving(streaming(pieces)) as seen, runtime(seen.address) as made:
                wire = CollectingWire()
                output = read(await made.predict(call_with(wire, {"user": "Hi"}, streams=True)))
                assert wire.values == [{"delta": "Grü"}, {"delta": "ße "}, {"delta": "🐍"}]
                assert (output["content"], output["finish_reason"]) == ("Grüße 🐍", "stop")
                assert output["usage"] == {"total_tokens": 9}
                assert seen.json["stream_options"] == {"include_usage": True}

    @pytest.mark.parametrize(
        "pieces",
        [
            [b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'],
            [b'data: {"error": {"message": "out of memory"}}\n\n'],
            [b"data: nonsense\n\n"],
            [b'data: {"choices": 5}\n\n'],
        ],
    )
    async def test_a_stream_that_breaks_is_the_providers_failure(self, pieces: list[bytes]) -> None:
        """The stream is cut off, reports an error, or does not follow the protocol."""
        async with serving(streaming(pieces)) as seen, runtime(seen.address) as made:
            with pytest.raises(CallFailed) as caught:
                await made.predict(call_with(CollectingWire(), {"user": "Hi"}, streams=True))
        assert caught.value.category == "provider_error"

    @pytest.mark.parametrize(
        "body", [b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {}}]}', b"no", b"\xff"]
    )
    async def test_malformed_responses(self, body: bytes) -> None:
        """Malformed responses are failures of the provider too."""
        async with serving(sending(body, "application/json")) as seen:
            with pytest.raises(CallFailed) as caught:
                await ask(seen.address, {"user": "Hi"})
        assert caught.value.category == "provider_error"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"messages": []}, "messages"),
            ({"messages": [5]}, "messages[0]"),
            ({"messages": [{"content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"user": ""}, "user"),
            ({"user": 5}, "user"),
            ({}, "user"),
        ],
    )
    async def test_mistakes_are_named(self, given: dict[str, Any], field: str) -> None:
        """They are found even if the manifest's own schema allows them."""
        async with runtime("http://127.0.0.1:1") as made:
            with pytest.raises(CallFailed) as caught:
                await made.predict(call_with(CollectingWire(), given))
        assert (caught.value.category, caught.value.field) == ("bad_input", field)


class TestKeys:
    async def test_a_key_comes_from_the_environment_and_is_in_no_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOME_KEY", "sk-canary-93")
        async with serving(responding({"error": {"message": "bad key sk-canary-93"}}, status=401)) as seen:
            with pytest.raises(CallFailed, match="api_key_env") as caught:
                await ask(seen.address, {"user": "Hi"}, api_key_env="SOME_KEY")
            assert seen.headers[0]["Authorization"] == "Bearer sk-canary-93"
        assert "canary" not in caught.value.message

    async def test_no_output_shows_a_key_that_the_server_echoes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key is masked in whole outputs, in the pieces of a stream, and in the output that repeats the stream."""
        monkeypatch.setenv("SOME_KEY", "sk-canary-93")
        said = {"choices": [{"message": {"content": "You sent Bearer sk-canary-93."}}]}
        async with serving(responding(said)) as seen:
            output = await ask(seen.address, {"user": "Hi"}, api_key_env="SOME_KEY")
        assert output["content"] == f"You sent {MASK}."
        parts = [{"choices": [{"delta": {"content": piece}}]} for piece in ("It is sk-", "cana", "ry-93, and sk-can")]
        pieces = [f"data: {json.dumps(part)}\n\n".encode() for part in parts]
        async with (
            serving(streaming([*pieces, b"data: [DONE]\n\n"])) as seen,
            runtime(seen.address, api_key_env="SOME_KEY") as made,
        ):
            wire = CollectingWire()
            output = read(await made.predict(call_with(wire, {"user": "Hi"}, streams=True)))
        assert "".join(value["delta"] for value in wire.values) == f"It is {MASK}, and sk-can"
        assert output["content"] == f"It is {MASK}, and sk-can"

    async def test_a_key_that_is_not_set_is_named(self) -> None:
        with pytest.raises(CallFailed, match="NO_SUCH_KEY is not set"):
            async with runtime("http://127.0.0.1:1", api_key_env="NO_SUCH_KEY"):
                pass


class TestEmbeddings:
    @pytest.mark.parametrize("given", ["one", ["one", "two"]])
    async def test_vectors_come_in_the_order_of_the_texts(self, given: Any) -> None:
        """The order of the response does not matter."""
        count = 2 if isinstance(given, list) else 1
        data = [{"index": index, "embedding": [index, 0.5]} for index in reversed(range(count))]
        async with serving(responding({"data": data, "model": "e", "usage": {"total_tokens": 2}})) as seen:
            output = await ask(seen.address, {"input": given}, task="embeddings")
            assert seen.paths == ["/v1/embeddings"]
            assert seen.json == {"input": given, "model": "wanted-model"}
        assert output["embeddings"] == [[index, 0.5] for index in range(count)]

    async def test_a_wrong_number_of_vectors_is_refused(self) -> None:
        async with serving(responding({"data": []})) as seen:
            with pytest.raises(CallFailed, match="returned 0 embeddings for 1 inputs"):
                await ask(seen.address, {"input": "x"}, task="embeddings")


class TestTranscription:
    async def test_audio_travels_as_a_form(self) -> None:
        """The form has the language and the prompt; the output has words and segments."""
        heard: dict[str, Any] = {}

        async def transcribe(request: web.Request) -> web.StreamResponse:
            form = await request.post()
            file = form["file"]
            assert isinstance(file, web.FileField)
            heard.update({key: value for key, value in form.items() if isinstance(value, str)})
            heard["file"] = (file.filename, file.content_type, file.file.read())
            segments = [{"id": 0, "start": 0.0, "end": 0.1, "text": "beep"}]
            return web.json_response(
                {"task": "transcribe", "text": "beep", "language": "en", "duration": 0.1, "segments": segments}
            )

        sound = beep()
        async with running(transcribe) as address:
            output = await ask(
                address,
                {"audio": "data:audio/wav;base64,AA==", "language": "en", "prompt": "a sound"},
                task="transcription",
            )
            assert output["text"] == "beep"
            async with runtime(address, task="transcription") as made:
                call = call_with(CollectingWire(), {"audio": None}, Segment(sound, "audio/wav", ("audio",), "beep.wav"))
                output = read(await made.predict(call))
        assert output["segments"][0]["text"] == "beep"
        assert heard["file"] == ("beep.wav", "audio/wav", sound)
        assert (heard["model"], heard["response_format"]) == ("wanted-model", "verbose_json")

    async def test_a_transcription_without_audio_is_bad_input(self) -> None:
        async with runtime("http://127.0.0.1:1", task="transcription") as made:
            with pytest.raises(CallFailed) as caught:
                await made.predict(call_with(CollectingWire(), {"audio": None}))
        assert (caught.value.category, caught.value.field) == ("bad_input", "audio")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_url": "nothing"}, "base_url"),
        ({"model": ""}, "model"),
        ({"task": "paint"}, "task"),
        ({"defaults": []}, "defaults"),
        ({"api_key": "a", "api_key_env": "B"}, "api_key"),
        ({"api_key": 5}, "api_key"),
        ({"url": "http://h"}, "url"),
    ],
)
def test_mistakes_in_a_manifest_are_named(options: dict[str, Any], field: str) -> None:
    stated = {"base_url": "http://h/v1", "model": "m"} | options
    assert field in [name for name, _ in OpenaiRuntime.check(stated, Path("/"))]


def beep() -> bytes:
    """Return a tenth of a second of sound, as a wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        frames = (int(9000 * math.sin(2 * math.pi * 440 * n / 8000)) for n in range(800))
        file.writeframes(b"".join(struct.pack("<h", frame) for frame in frames))
    return buffer.getvalue()
