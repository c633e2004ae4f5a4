"""Transcription jobs: from a recording in any place to the transcripts of several providers."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from penstock.blobs.service import BlobService
from penstock.failures import CallFailed, Category
from penstock.postgres.pool import Database
from penstock.providers.fetching import Fetcher
from penstock.providers.profile import Kind, Mode, ProviderSpec
from penstock.providers.reply import ProviderAttempt
from penstock.recordings.recording import examine
from penstock.work.context import JobContext
from penstock.workers.transcription import TranscriptionExecutor, TranscriptionResult, fitted, sweep
from tests.support.attempts import claimed_job, job_context
from tests.support.http_servers import hanging, raw_server, running, serving
from tests.support.providers import open_servers, profile, spec
from tests.support.recordings import TEXT, base64_of, encoded, spoken
from tests.support.speech_servers import SEGMENTS, transcribing
from tests.support.waiting import until

MOST = 2**22


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken(tmp_path_factory.mktemp("speech") / "speech.wav")


@asynccontextmanager
async def executor(
    *specs: ProviderSpec, mode: Mode = Mode.ALL, **defaults: Any
) -> AsyncIterator[TranscriptionExecutor]:
    fetcher = Fetcher(["127.0.0.0/8"], max_bytes=MOST)
    nowhere = Database("postgresql://nowhere.invalid/none", application_name="penstock-test")
    blobs = BlobService(nowhere, max_bytes=MOST, keep=timedelta(days=1))
    async with open_servers() as servers:
        try:
            yield TranscriptionExecutor(profile(*specs, mode=mode, **defaults), servers, fetcher=fetcher, blobs=blobs)
        finally:
            await fetcher.close()


async def transcribed(
    *specs: ProviderSpec, context: JobContext | None = None, profile_mode: Mode = Mode.ALL, **stated: Any
) -> TranscriptionResult:
    async with executor(*specs, mode=profile_mode) as run:
        return await run(claimed_job(task_type="transcription", **stated), context or job_context())


async def failure(*specs: ProviderSpec, **stated: Any) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await transcribed(*specs, **stated)
    return caught.value


def whisperx(address: str, name: str = "whisperx", **fields: Any) -> ProviderSpec:
    return spec(address, name=name, kind=Kind.WHISPERX, **({"model": "large-v3"} | fields))


def audio_llm(address: str, name: str = "voxtral-small") -> ProviderSpec:
    return spec(f"{address}/v1", name=name, kind=Kind.AUDIO_CHAT, model="voxtral", prompt="Transcribe.")


async def test_all_providers_are_called_and_compared(wav: Path) -> None:
    context = job_context()
    async with transcribing() as first, transcribing(text="The quick brown dog jumps over the lazy dog") as second:
        result = await transcribed(
            whisperx(first.address), audio_llm(second.address), context=context, audio=base64_of(wav), language="en"
        )
    assert (result.text, result.provider, result.language, len(result.segments)) == (TEXT, "whisperx", "en", 2)
    left, right = result.attempts
    assert (left.provider, left.model, left.status, left.text) == ("whisperx", "large-v3", "completed", TEXT)
    assert left.segments == result.segments
    assert (right.provider, right.model, right.status) == ("voxtral-small", "served-audio", "completed")
    assert right.usage.completion_tokens == 12
    (agreement,) = result.agreement
    assert (agreement.reference, agreement.hypothesis, agreement.words) == ("whisperx", "voxtral-small", 9)
    assert agreement.wer == pytest.approx(1 / 9, abs=0.0001)
    assert {(one.provider, one.status) for one in context.usage} == {
        ("whisperx", "completed"),
        ("voxtral-small", "completed"),
    }
    assert all(one.audio_seconds == pytest.approx(result.audio_seconds, abs=0.001) for one in context.usage)
    assert result.audio_seconds > 1
    assert context.outbox.parcel().lines == []


async def test_with_the_mode_first_the_next_provider_replaces_one_that_fails(wav: Path) -> None:
    async with transcribing(status=500) as broken, transcribing() as other:
        context = job_context()
        specs = (whisperx(broken.address), audio_llm(other.address))
        result = await transcribed(*specs, context=context, profile_mode=Mode.FIRST, audio=base64_of(wav))
    (line,) = context.outbox.parcel().lines
    assert (line.level, line.message.split(" after ")[0]) == ("warning", "whisperx failed")
    assert (result.provider, result.text) == ("voxtral-small", TEXT)
    assert [(one.provider, one.status) for one in result.attempts] == [
        ("whisperx", "failed"),
        ("voxtral-small", "completed"),
    ]
    assert result.agreement == []


async def test_a_job_may_choose_mode_and_providers(wav: Path) -> None:
    async with transcribing() as first, transcribing() as second:
        specs = (whisperx(first.address), audio_llm(second.address))
        result = await transcribed(*specs, audio=base64_of(wav), mode="first", providers=["voxtral-small", "whisperx"])
        assert [one.provider for one in result.attempts] == ["voxtral-small"]
        assert first.count == 0


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 8_000),
        ("a.mp3", "libmp3lame", 16_000),
        ("a.flac", "flac", 16_000),
        ("a.ogg", "vorbis", 44_100),
        ("a.opus", "libopus", 48_000),
        ("a.m4a", "aac", 44_100),
    ],
)
async def test_every_format_arrives_from_a_url_as_it_is(
    tmp_path: Path, wav: Path, name: str, codec: str, rate: int
) -> None:
    path = encoded(wav, tmp_path / name, codec, rate)

    async def file(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(path)

    async with running(file) as url, transcribing() as heard:
        result = await transcribed(whisperx(heard.address), audio_url=f"{url}/{name}")
    (sent,) = heard.files.values()
    assert (sent[0], sent[2]) == (f"recording{path.suffix}", path.read_bytes())
    assert result.audio_seconds == pytest.approx((await _seconds(wav)), abs=0.2)


async def _seconds(wav: Path) -> float:
    return (await examine(wav)).duration_seconds


async def test_base64_may_be_a_data_url_and_folded(wav: Path) -> None:
    text = base64_of(wav)
    folded = "\n".join(text[place : place + 76] for place in range(0, len(text), 76))
    async with transcribing() as heard:
        for audio in (f"data:audio/wav;base64,{text}", folded):
            assert (await transcribed(whisperx(heard.address), audio=audio)).text == TEXT


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({}, "input: needs exactly one"),
        ({"audio": "AAAA", "audio_url": "http://x"}, "input: needs exactly one"),
        ({"audio": "not base64!"}, "input.audio: "),
        ({"audio": "data:audio/wav,AAAA"}, "input.audio: "),
        ({"audio": ""}, "input.audio: the file is empty"),
        ({"audio": "AAAA"}, "input.audio: the file is not audio"),
        ({"audio": 7}, "input.audio: "),
        ({"audio_url": "file:///etc/passwd"}, "input.audio_url: "),
        ({"audio_url": "http://10.1.2.3/a.wav"}, "input.audio_url: "),
        ({"audio_blob": "seven"}, "input.audio_blob: "),
        ({"audio": "AAAA", "mode": "some"}, "input.mode: "),
        ({"audio": "AAAA", "providers": ["nobody"]}, "input.providers: must name each once, of: whisperx"),
        ({"audio": "AAAA", "providers": []}, "input.providers: "),
        ({"audio": "AAAA", "min_speakers": 0}, "input.min_speakers: "),
        ({"audio": "AAAA", "language": ""}, "input.language: "),
    ],
)
async def test_bad_input_names_the_field_and_calls_no_provider(stated: dict[str, Any], field: str) -> None:
    async with transcribing() as heard:
        error = await failure(whisperx(heard.address), **stated)
    assert error.category is Category.BAD_INPUT
    assert str(error).startswith(field)
    assert heard.count == 0


async def test_more_speakers_at_least_than_at_most(wav: Path) -> None:
    async with transcribing() as heard:
        error = await failure(whisperx(heard.address), audio=base64_of(wav), min_speakers=3, max_speakers=2)
    assert str(error).startswith("input.min_speakers: ")
    assert heard.count == 0


async def test_when_none_succeeds_the_error_names_each(wav: Path) -> None:
    async with transcribing(status=500) as left, transcribing(status=503) as right:
        error = await failure(whisperx(left.address), audio_llm(right.address), audio=base64_of(wav))
    assert error.category is Category.PROVIDER_ERROR
    assert "whisperx: the provider failed (500" in error.message
    assert "voxtral-small: the provider failed (503" in error.message


async def test_slow_lying_and_cut_providers(wav: Path) -> None:
    """Each ends in its own category; together they are the providers' error."""
    lying = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"text": "x"}'
    async with serving(hanging) as slow, raw_server(lying) as liar, raw_server(b"HTTP/1.1 200 OK\r\nConte") as cut:
        for address, category in (
            (slow.address, Category.TIMEOUT),
            (liar, Category.PROVIDER_ERROR),
            (cut, Category.PROVIDER_ERROR),
        ):
            provider = whisperx(address, timeout=timedelta(seconds=0.5))
            assert (await failure(provider, audio=base64_of(wav))).category is category


async def test_a_cancelled_job_leaves_no_file_and_closes_the_request(
    wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with serving(hanging) as slow, executor(whisperx(slow.address)) as run:
        running = asyncio.ensure_future(run(claimed_job(audio=base64_of(wav)), job_context()))
        await until(lambda: bool(slow.bodies), "the request has arrived")
        assert list(tmp_path.iterdir())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.wait_for(slow.left.wait(), 20)
    assert list(tmp_path.iterdir()) == []


async def test_segments_of_the_response_are_the_results(wav: Path) -> None:
    async with transcribing({"segments": SEGMENTS}) as heard:
        result = await transcribed(whisperx(heard.address), audio=base64_of(wav), diarization=True, prompt="Fox")
    assert [(one["start"], one["text"]) for one in result.segments] == [
        (0.0, "The quick brown fox"),
        (1.25, "jumps over the lazy dog."),
    ]
    assert (heard.fields["diarize"], heard.fields["initial_prompt"]) == ("true", "Fox")


def test_a_result_that_is_too_large_loses_its_details_first() -> None:
    words = [{"word": "w" * 20, "start": 0.0} for _ in range(100)]
    segments: list[dict[str, Any]] = [{"start": 0.0, "end": 1.0, "text": "w", "words": words} for _ in range(10)]
    attempt = ProviderAttempt(provider="a", model="m", status="completed", text="w", segments=segments)
    whole = TranscriptionResult(
        segments=segments,
        text="w",
        language=None,
        provider="a",
        model="m",
        audio_seconds=1.0,
        duration_ms=1,
        attempts=[attempt],
    )
    size = len(msgspec.json.encode(whole))
    assert fitted(whole, size) == whole
    without_words = fitted(whole, size - 1)
    assert (without_words.segments, without_words.attempts[0].segments) == (
        segments,
        [{"start": 0.0, "end": 1.0, "text": "w"}] * 10,
    )
    least = fitted(whole, 1)
    assert (least.text, least.attempts[0].segments, "words" in least.segments[0]) == ("w", None, False)


def test_recordings_of_killed_workers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for owner in (gone.pid, os.getpid(), os.getppid()):
        (tmp_path / f"penstock-recording-{owner}-abc").mkdir()
    (tmp_path / "penstock-recording-notes").mkdir()
    sweep()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"penstock-recording-{os.getppid()}-abc",
        "penstock-recording-notes",
    }
