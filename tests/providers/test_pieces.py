"""Recordings that are longer than a provider takes at once: the pieces, and the reply that joins them."""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.failures import CallFailed, Category
from penstock.outbound.gate import GateClosed
from penstock.providers import pieces
from penstock.providers.metered import MeteredGate
from penstock.providers.profile import Kind, ProviderSpec
from penstock.providers.reply import Reply
from penstock.providers.reports import report_of
from penstock.providers.speech import Sound, SpeechRequest
from penstock.recordings.recording import Recording, examine
from tests.support.http_servers import Seen, serving
from tests.support.providers import open_servers, spec
from tests.support.recordings import encoded, recorded

LONGEST = timedelta(seconds=6)
Responses = Callable[[int], web.Response]


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s, with a pause every five."""
    return recorded(tmp_path_factory.mktemp("long") / "long.wav", [(4.6, 9000), (0.4, 0)] * 4).path


@pytest.fixture
async def recording(wav: Path, tmp_path: Path) -> Recording:
    own = tmp_path / "recording"
    own.write_bytes(wav.read_bytes())
    return await examine(own)


def said(text: str, **fields: Any) -> web.Response:
    """Return a chat completion."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | fields
    return web.json_response({"model": "served-audio", "choices": [choice], "usage": usage})


@asynccontextmanager
async def hearing(responses: Responses) -> AsyncIterator[Seen]:
    """Yield a server that responds to its first request with ``responses(1)``, and so on."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return responses(len(seen.bodies))

    async with serving(respond) as seen:
        yield seen


async def transcribed(
    provider: ProviderSpec,
    recording: Recording,
    request: SpeechRequest | None = None,
    *,
    seconds: float = 20,
    on_progress: Callable[[float], None] = lambda _: None,
    gates: list[MeteredGate] | None = None,
) -> Reply:
    async with open_servers() as servers:
        gate = MeteredGate(servers.gate(provider), 0)
        if gates is not None:
            gates.append(gate)
        return await pieces.transcribed(
            servers.speech(provider),
            Sound(recording),
            request or SpeechRequest(),
            gate,
            key="job/../1",
            seconds=seconds,
            on_progress=on_progress,
        )


def audio_model(seen: Seen, **fields: Any) -> ProviderSpec:
    return spec(seen.address, name="qwen2-audio", kind=Kind.AUDIO_CHAT, **{"max_duration": LONGEST, **fields})


def seconds_of(body: bytes) -> float:
    """Return the length of the recording in a chat."""
    (part,) = [part for part in json.loads(body)["messages"][0]["content"] if part["type"] == "input_audio"]
    with wave.open(BytesIO(base64.b64decode(part["input_audio"]["data"]))) as file:
        seconds: float = file.getnframes() / file.getframerate()
        return seconds


@pytest.mark.parametrize("codec", ["wav", "mp3"])
async def test_a_chat_model_gets_a_long_recording_piece_by_piece(recording: Recording, codec: str) -> None:
    """Each piece is one segment, at its time; a format that is taken whole is converted to be cut."""
    if codec != "wav":
        recording = await examine(encoded(recording.path, recording.path.with_suffix(f".{codec}"), codec))
    progress: list[float] = []
    async with hearing(lambda number: said(f" Words {number}. ")) as seen:
        reply = await transcribed(audio_model(seen), recording, on_progress=progress.append)
    assert reply.text == "Words 1. Words 2. Words 3. Words 4."
    lengths = [seconds_of(body) for body in seen.bodies]
    assert max(lengths) <= 6
    assert sum(lengths) == pytest.approx(recording.duration_seconds, abs=0.1)
    assert reply.segments is not None
    assert [segment["text"] for segment in reply.segments] == ["Words 1.", "Words 2.", "Words 3.", "Words 4."]
    assert [segment["start"] for segment in reply.segments] == pytest.approx([0, 4.8, 9.8, 14.8], abs=0.25)
    assert reply.segments[0]["end"] == reply.segments[1]["start"] == round(progress[0], 3)
    assert progress[-1] == pytest.approx(recording.duration_seconds, abs=0.1)
    assert (reply.model, reply.used.prompt_tokens, reply.used.completion_tokens) == ("served-audio", 400, 40)
    assert reply.used.audio_seconds == pytest.approx(recording.duration_seconds, abs=0.1)
    keys = [headers["Idempotency-Key"] for headers in seen.headers]
    assert keys == [f"job/../1-{number}" for number in (1, 2, 3, 4)]
    assert sorted(path.name for path in recording.path.parent.iterdir() if "piece" in path.name) == []


async def test_times_of_segments_and_words_count_from_the_start_of_the_whole(recording: Recording) -> None:
    body = {
        "text": "a b",
        "language": "de",
        "segments": [
            {"id": 0, "start": 0.5, "end": 2.0, "text": "a b", "speaker": "SPEAKER_00"}
            | {"words": [{"word": "a", "start": 0.5, "end": 1.0}, {"word": "b"}, "odd"]},
            {"text": "c"},
        ],
    }
    async with hearing(lambda _: web.json_response(body)) as seen:
        provider = spec(seen.address, name="whisperx", kind=Kind.WHISPERX, model="", max_duration=timedelta(seconds=12))
        reply = await transcribed(provider, recording, SpeechRequest(diarization=True))
    assert reply.text == "a b\na b"
    assert reply.language == "de"
    assert reply.segments is not None
    first, _, second, third = reply.segments
    begins = second["start"] - 0.5
    assert begins == pytest.approx(9.8, abs=0.25)
    assert first["words"][0] == {"word": "a", "start": 0.5, "end": 1.0}
    assert second == {
        "start": round(begins + 0.5, 3),
        "end": round(begins + 2.0, 3),
        "text": "a b",
        "speaker": "SPEAKER_00",
        "words": [
            {"word": "a", "start": round(begins + 0.5, 3), "end": round(begins + 1.0, 3)},
            {"word": "b"},
            "odd",
        ],
    }
    assert third == {"start": None, "end": None, "text": "c"}


async def test_a_short_recording_is_sent_whole(recording: Recording) -> None:
    async with hearing(lambda _: said("All.")) as seen:
        reply = await transcribed(audio_model(seen, max_duration=timedelta(seconds=20.5)), recording)
    assert [seconds_of(body) for body in seen.bodies] == [20.0]
    assert seen.headers[0]["Idempotency-Key"] == "job/../1"
    assert reply.segments == [{"start": 0.0, "end": 20.0, "text": "All."}]


async def test_a_piece_that_fails_temporarily_is_tried_again(recording: Recording) -> None:
    """Otherwise the pieces before it would be lost too."""

    def responses(number: int) -> web.Response:
        if number in {2, 4}:
            return web.json_response({}, status=429 if number == 2 else 503, headers={"Retry-After": "0"})
        return said(f"{number}")

    async with hearing(responses) as seen:
        reply = await transcribed(audio_model(seen), recording)
    assert reply.text == "1 3 5 6"
    assert len(seen.bodies) == 6


@pytest.mark.parametrize(
    ("failing", "status", "headers", "requests", "category"),
    [
        (
            1,
            503,
            {"Retry-After": "0"},
            1,
            Category.PROVIDER_ERROR,
        ),  # no piece has succeeded yet, so no retry
        (2, 503, {"Retry-After": "0"}, 4, Category.PROVIDER_ERROR),
        (2, 422, {}, 2, Category.BAD_INPUT),
    ],
)
async def test_a_piece_that_keeps_failing_fails_the_recording(
    recording: Recording, failing: int, status: int, headers: dict[str, str], requests: int, category: Category
) -> None:
    async with hearing(
        lambda number: web.json_response({}, status=status, headers=headers) if number >= failing else said("Words.")
    ) as seen:
        with pytest.raises(CallFailed, match=rf"\(piece {failing} of 4, at \d+ s\)$") as caught:
            await transcribed(audio_model(seen), recording)
    assert len(seen.bodies) == requests
    assert caught.value.category is category
    assert not list(recording.path.parent.glob("piece-*"))


async def test_each_piece_passes_the_gate(recording: Recording) -> None:
    """The pieces respect the provider's limits. Usage is counted although the recording fails."""
    gates: list[MeteredGate] = []
    async with hearing(lambda number: said("Words.") if number < 3 else too_many()) as seen:
        with pytest.raises(GateClosed) as caught:
            await transcribed(audio_model(seen), recording, gates=gates)
    assert caught.value.limited
    assert len(seen.bodies) == 3
    (gate,) = gates
    assert gate.entered
    assert (gate.used.prompt_tokens, gate.used.completion_tokens) == (200, 20)
    assert gate.used.audio_seconds == pytest.approx(9.8, abs=0.5)


def too_many() -> web.Response:
    return web.json_response({}, status=429, headers={"Retry-After": "60"})


async def test_all_pieces_together_have_the_providers_time(recording: Recording) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        if len(seen.bodies) == 3:
            await asyncio.Event().wait()
        return said("Words.")

    async with serving(respond) as seen:
        with pytest.raises(CallFailed, match=r"it took longer than 0\.5 s for all pieces") as caught:
            await transcribed(audio_model(seen), recording, seconds=0.5)
    assert caught.value.category is Category.TIMEOUT
    assert len(seen.bodies) == 3
    assert not list(recording.path.parent.glob("piece-*"))


async def test_a_provider_that_hangs_opens_its_breaker_in_pieces_too(recording: Recording) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(hang) as seen, open_servers() as servers:
        provider = audio_model(seen)
        gate = servers.gate(provider)
        for _ in range(5):
            with pytest.raises(CallFailed, match=r"longer than 0\.02 s"):
                await pieces.transcribed(
                    servers.speech(provider),
                    Sound(recording),
                    SpeechRequest(),
                    MeteredGate(gate, 0),
                    key="k",
                    seconds=0.02,
                    on_progress=lambda _: None,
                )
        assert report_of(gate).breaker == "open"


async def test_a_wait_that_is_too_long_is_refused_at_once(recording: Recording) -> None:
    def responses(number: int) -> web.Response:
        down = web.json_response({"error": "down"}, status=503, headers={"Retry-After": "3600"})
        return said("Words.") if number < 2 else down

    async with hearing(responses) as seen:
        with pytest.raises((CallFailed, GateClosed)) as caught:
            await transcribed(audio_model(seen), recording)
    assert "503: down" in str(caught.value)
    assert len(seen.bodies) == 2


async def test_a_truncated_transcript_fails_the_recording(recording: Recording) -> None:
    gates: list[MeteredGate] = []
    async with hearing(lambda _: said("Words that never", finish_reason="length")) as seen:
        with pytest.raises(CallFailed, match=r"cut off after max_tokens \(4096\)") as caught:
            await transcribed(audio_model(seen, max_duration=None), recording, gates=gates)
    assert caught.value.category is Category.BAD_INPUT
    assert (gates[0].used.completion_tokens, gates[0].used.audio_seconds) == (10, 20), "a failed reply is charged, too"
