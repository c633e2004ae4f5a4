"""Providers that transcribe: the requests that they get, and the common form of their replies."""

from __future__ import annotations

import asyncio
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.failures import CallFailed
from penstock.providers.profile import Kind, ProviderSpec
from penstock.providers.reply import Reply
from penstock.providers.speech import Sound, SpeechRequest, transcript
from penstock.recordings.recording import Recording, examine
from tests.support.providers import KEY, open_servers, spec
from tests.support.recordings import TEXT, encoded, spoken
from tests.support.speech_servers import SEGMENTS, transcribing

EVERYTHING = SpeechRequest(language="en", diarization=True, min_speakers=1, max_speakers=3, prompt="Penstock")


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken(tmp_path_factory.mktemp("speech") / "speech.wav")


@pytest.fixture
async def recording(wav: Path) -> Recording:
    return await examine(wav)


async def ask(provider: ProviderSpec, recording: Recording, request: SpeechRequest) -> Reply:
    async with open_servers() as servers:
        server = servers.speech(provider)
        return await server.transcribe(await Sound(recording).taken_by(server), request, key="the-key")


def whisperx(address: str, **fields: Any) -> ProviderSpec:
    return spec(address, name="whisperx", kind=Kind.WHISPERX, **({"model": ""} | fields))


@pytest.mark.parametrize(
    ("interface", "path", "field", "options"),
    [
        (
            "transcribe",
            "/transcribe",
            "file",
            {
                "language": "en",
                "diarize": "true",
                "min_speakers": "1",
                "max_speakers": "3",
                "initial_prompt": "Penstock",
            },
        ),
        (
            "asr",
            "/asr",
            "audio_file",
            {
                "language": "en",
                "diarize": "true",
                "min_speakers": "1",
                "max_speakers": "3",
                "initial_prompt": "Penstock",
                "task": "transcribe",
                "output": "json",
                "encode": "true",
            },
        ),
        (
            "openai",
            "/v1/audio/transcriptions",
            "file",
            {
                "language": "en",
                "diarize": "true",
                "min_speakers": "1",
                "max_speakers": "3",
                "prompt": "Penstock",
                "model": "whisper-1",
                "response_format": "verbose_json",
            },
        ),
    ],
)
async def test_each_interface_gets_its_own_request(
    recording: Recording, interface: str, path: str, field: str, options: dict[str, str]
) -> None:
    async with transcribing() as heard:
        reply = await ask(whisperx(heard.address, interface=interface), recording, EVERYTHING)
    assert (heard.path, heard.fields) == (path, options)
    assert heard.files[field] == ("recording.wav", "audio/wav", recording.path.read_bytes())
    assert (heard.headers["Authorization"], heard.headers["Idempotency-Key"]) == (f"Bearer {KEY}", "the-key")
    assert (reply.text, reply.language) == (TEXT, "en")
    assert reply.used.audio_seconds == recording.duration_seconds
    assert reply.segments == [
        {"start": 0.0, "end": 1.25, "text": "The quick brown fox", "id": 0, "speaker": "SPEAKER_00"},
        {"start": 1.25, "end": 2.5, "text": "jumps over the lazy dog.", "id": 1, "words": [{"word": "jumps"}]},
    ]


async def test_options_that_are_not_stated_are_not_sent(recording: Recording) -> None:
    async with transcribing() as heard:
        await ask(whisperx(heard.address, model="large-v3", defaults={"batch_size": 8}), recording, SpeechRequest())
    assert heard.fields == {"model": "large-v3", "batch_size": "8"}


@pytest.mark.parametrize(
    ("suffix", "interface", "path"),
    [
        ("/x", "transcribe", "/x/transcribe"),
        ("/x/transcribe", "transcribe", "/x/transcribe"),
        ("/asr", "asr", "/asr"),
        ("/v1", "openai", "/v1/audio/transcriptions"),
        ("/v1/audio/transcriptions", "openai", "/v1/audio/transcriptions"),
    ],
)
async def test_an_address_may_name_the_endpoint_or_its_base(
    recording: Recording, suffix: str, interface: str, path: str
) -> None:
    async with transcribing() as heard:
        await ask(whisperx(heard.address + suffix, interface=interface), recording, SpeechRequest())
    assert heard.path == path


def audio_llm(address: str, **fields: Any) -> ProviderSpec:
    stated: dict[str, Any] = {
        "model": "Qwen/Qwen2-Audio-7B-Instruct",
        "prompt": "Transcribe.",
        "max_tokens": 99,
    } | fields
    return spec(f"{address}/v1", kind=Kind.AUDIO_CHAT, **({"name": "qwen2-audio"} | stated))


async def test_a_chat_model_gets_the_recording(recording: Recording) -> None:
    async with transcribing() as heard:
        reply = await ask(audio_llm(heard.address), recording, SpeechRequest())
    (chat,) = heard.chats
    assert (chat["model"], chat["max_tokens"], chat["temperature"]) == ("Qwen/Qwen2-Audio-7B-Instruct", 99, 0)
    assert heard.audio == ("wav", recording.path.read_bytes())
    assert heard.instruction == "Transcribe."
    assert (reply.text, reply.model) == (TEXT, "served-audio")
    assert reply.segments == [{"start": 0.0, "end": round(recording.duration_seconds, 3), "text": TEXT}]
    used = reply.used
    assert (used.prompt_tokens, used.completion_tokens, used.audio_seconds) == (90, 12, recording.duration_seconds)


async def test_language_speakers_and_prompt_become_part_of_the_instruction(recording: Recording) -> None:
    async with transcribing() as heard:
        await ask(audio_llm(heard.address), recording, EVERYTHING)
    for part in ("Transcribe.", "is en.", "SPEAKER_00:", "1 to 3 speakers", "Penstock"):
        assert part in heard.instruction


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.flac", "flac", 16_000),
        ("a.ogg", "vorbis", 16_000),
        ("a.opus", "libopus", 48_000),
        ("a.m4a", "aac", 44_100),
    ],
)
async def test_a_chat_model_gets_wav_for_formats_it_does_not_take(
    tmp_path: Path, wav: Path, name: str, codec: str, rate: int
) -> None:
    recording = await examine(encoded(wav, tmp_path / name, codec, rate))
    async with transcribing() as heard:
        await ask(audio_llm(heard.address), recording, SpeechRequest())
    kind, sent = heard.audio
    with wave.open(BytesIO(sent)) as sound:
        assert (kind, sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == ("wav", 16_000, 1, 2)
        assert sound.getnframes() / 16_000 == pytest.approx(recording.duration_seconds, abs=0.1)


async def test_a_recording_is_converted_once_for_all(tmp_path: Path, wav: Path) -> None:
    sound = Sound(await examine(encoded(wav, tmp_path / "a.flac", "flac")))
    async with open_servers() as servers:
        first, second = (servers.speech(audio_llm("http://h", name=name)) for name in ("a", "b"))
        taken = await asyncio.gather(sound.taken_by(first), sound.taken_by(second))
        assert taken[0] is taken[1]
        assert await sound.taken_by(servers.speech(whisperx("http://h"))) is sound.recording


async def test_mp3_goes_as_it_is(tmp_path: Path, wav: Path) -> None:
    recording = await examine(encoded(wav, tmp_path / "a.mp3", "libmp3lame"))
    async with transcribing() as heard:
        await ask(audio_llm(heard.address), recording, SpeechRequest())
    assert heard.audio == ("mp3", recording.path.read_bytes())


# Responses


@pytest.mark.parametrize(
    ("output", "text", "segments"),
    [
        ({"text": " a b "}, "a b", 1),
        ({"segments": SEGMENTS}, "The quick brown fox jumps over the lazy dog.", 2),
        ({"result": {"segments": SEGMENTS[:1]}, "status": "done"}, "The quick brown fox", 1),
        ({"text": "", "segments": []}, "", 0),
        ({"text": ""}, "", 0),
        ({"segments": [{"text": "no times"}]}, "no times", 1),
        ({"segments": [{"text": "odd", "start": "NaN", "end": -1}]}, "odd", 1),
        ({"segments": [{"text": "odd", "start": "9" * 400, "end": [1]}]}, "odd", 1),
    ],
)
async def test_every_form_of_response_becomes_a_transcript(
    recording: Recording, output: Any, text: str, segments: int
) -> None:
    reply = transcript(msgspec.json.encode(output), recording, "m")
    assert reply.text == text
    assert len(reply.segments or []) == segments
    for one in reply.segments or []:
        assert one["start"] is None or one["start"] >= 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"text": 7}',
        b'{"segments": {}}',
        b'{"segments": [7]}',
        b'{"segments": [{"start": 0}]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_a_response_that_is_not_a_transcript_is_the_providers_error(recording: Recording, body: bytes) -> None:
    with pytest.raises(CallFailed) as caught:
        transcript(body, recording, "m")
    assert caught.value.category == "provider_error"
