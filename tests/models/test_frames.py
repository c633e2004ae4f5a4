"""The frame codec: however bytes are cut, the same frames come out; bytes that are not a frame are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.models.replica import frames
from penstock.models.replica.frames import Decoder, Frame, ProtocolError, SegmentHeader

some_frames = st.lists(
    st.builds(
        Frame,
        st.sampled_from(sorted(frames.KINDS)),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=50),
        st.binary(max_size=300),
    ),
    max_size=8,
)


def raw(frame: Frame) -> bytes:
    """Encode a frame, whose header may be any bytes."""
    return frames.PREFIX.pack(len(frame.header) + len(frame.body), frame.kind, frame.id, len(frame.header)) + (
        frame.header + frame.body
    )


@given(some_frames, st.lists(st.integers(1, 400), max_size=20))
def test_frames_survive_any_cut(sent: list[Frame], cuts: list[int]) -> None:
    """Every way to cut a stream of bytes gives the same frames."""
    stream = b"".join(map(raw, sent))
    decoder = Decoder()
    received: list[Frame] = []
    for size in [*cuts, len(stream) + 1]:
        received += decoder.feed(stream[:size])
        stream = stream[size:]
    assert received == sent
    assert decoder.idle


@given(st.binary(max_size=400))
def test_any_bytes_give_frames_or_a_protocol_error(data: bytes) -> None:
    """No other exception occurs, and no more memory is allocated than bytes arrived."""
    decoder = Decoder(largest=1000)
    with contextlib.suppress(ProtocolError):
        for start in range(0, len(data), 7):
            for frame in decoder.feed(data[start : start + 7]):
                assert len(frame.header) + len(frame.body) <= 1000


@pytest.mark.parametrize(
    "prefix",
    [
        frames.PREFIX.pack(10, 99, 1, 0),  # no such kind
        frames.PREFIX.pack(2**32 - 1, frames.CALL, 1, 0),  # larger than allowed
        frames.PREFIX.pack(5, frames.CALL, 1, 6),  # a header longer than the frame
    ],
)
def test_bytes_that_cannot_be_a_frame_are_refused_at_once(prefix: bytes) -> None:
    """They are refused before any memory is allocated for them."""
    with pytest.raises(ProtocolError):
        Decoder().feed(prefix)


@given(st.binary(max_size=100), st.lists(st.binary(max_size=100), max_size=4))
def test_segments_come_out_as_they_went_in(json: bytes, pieces: list[bytes]) -> None:
    """The JSON and the media may be any bytes."""
    headers = [SegmentHeader(len(piece), "image/png") for piece in pieces]
    stream = b"".join(frames.encode_parts(frames.CALL, 7, frames.CallHeader("r", False, headers), [json, *pieces]))
    (frame,) = Decoder().feed(stream)
    header = frames.decode_header(frames.header_decoder(frames.CallHeader), frame.header)
    got_json, got = frames.split(frame.body, header.segments)
    assert got_json == json
    assert [bytes(piece or b"") for piece in got] == pieces


@given(st.lists(st.integers(-5, 50), min_size=1, max_size=4))
def test_segments_that_do_not_fit_are_refused(sizes: list[int]) -> None:
    """The sizes that the peer states are checked against the bytes that arrived."""
    body = b"x" * 20
    headers = [SegmentHeader(size, "image/png") for size in sizes]
    if sum(sizes) > len(body) or min(sizes) < 0:
        with pytest.raises(ProtocolError):
            frames.split(body, headers)
    else:
        assert len(frames.split(body, headers)[1]) == len(sizes)
