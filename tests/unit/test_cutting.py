"""Recordings are cut at quiet places, never into pieces that are too long, and without loss."""

from __future__ import annotations

import wave
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.recordings import cutting
from tests.support.recordings import RATE, recorded


async def test_cuts_fall_into_pauses(tmp_path: Path) -> None:
    """Words last a second; the pause after every second one is 0.4 s, the others are shorter."""
    speech = [(1.0, 9000), (0.1, 0), (1.0, 9000), (0.4, 30)] * 8  # 20 s
    recording = recorded(tmp_path / "speech.wav", speech)
    cuts = await cutting.cuts(recording, 6)
    assert (cuts[0], cuts[-1]) == (0, 20)
    assert len(cuts) == 5
    for cut in cuts[1:-1]:
        assert 2.1 < cut % 2.5 < 2.5


async def test_pieces_are_equal_where_no_place_is_quieter(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "silence.wav", [(20.0, 0)])
    assert [round(end - begin, 1) for begin, end in pairwise(await cutting.cuts(recording, 6))] == [5, 5, 5, 5]


@pytest.mark.parametrize("seconds", [0.001, 5.999, 6.0])
async def test_a_short_recording_stays_whole(tmp_path: Path, seconds: float) -> None:
    recording = recorded(tmp_path / "short.wav", [(seconds, 500)])
    assert await cutting.cuts(recording, 6) == [0, recording.duration_seconds]


@given(
    loudness=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 9000)), max_size=6).filter(
        lambda tones: sum(round(seconds * RATE) for seconds, _ in tones) > 0
    ),
    longest=st.floats(0.5, 4),
)
@settings(max_examples=40)
async def test_pieces_are_never_too_long_and_make_the_whole(
    tmp_path_factory: pytest.TempPathFactory, loudness: list[tuple[float, int]], longest: float
) -> None:
    folder = tmp_path_factory.mktemp("cutting")
    recording = recorded(folder / "whole.wav", loudness)
    cuts = await cutting.cuts(recording, longest)
    joined = b""
    for begin, end in pairwise(cuts):
        assert 0 < end - begin <= longest
        piece = await cutting.piece(recording, begin, end, folder / "piece.wav")
        assert piece.duration_seconds == pytest.approx(end - begin)
        with wave.open(str(piece.path), "rb") as file:
            joined += file.readframes(file.getnframes())
    with wave.open(str(recording.path), "rb") as file:
        assert joined == file.readframes(file.getnframes())
