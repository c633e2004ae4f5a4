"""Lines and events are the same in whatever pieces they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.event_stream import Events, Lines, ServerEvent, TooLong


def pieces(whole: bytes, sizes: list[int]) -> list[bytes]:
    """Cut ``whole`` into pieces, whose sizes are taken from ``sizes`` in a cycle."""
    found, at, turn = [], 0, 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        found.append(whole[at : at + size])
        at, turn = at + size, turn + 1
    return found


@given(
    lines=st.lists(st.binary(min_size=1, max_size=8).filter(lambda line: not set(line) & set(b"\r\n")), max_size=8),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=8, max_size=8),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_lines_are_the_same_wherever_they_are_cut(lines: list[bytes], ends: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    reader, found = Lines(), []
    for piece in pieces(whole, sizes):
        found += reader.feed(piece)
    assert found + reader.end() == lines


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_have_a_name_an_id_and_data_of_several_lines(size: int, end: bytes) -> None:
    whole = b"\xef\xbb\xbfevent: chunk\nid: 7\ndata: a\ndata:b\n\n: a comment\nretry: 5\n\n"
    whole = (whole + b"data: c\n\nevent: empty\n\ndata:  d\n\n").replace(b"\n", end)
    reader, found = Events(), []
    for piece in pieces(whole, [size]):
        found += reader.feed(piece)
    assert found + reader.end() == [
        ServerEvent("chunk", b"a\nb", "7"),
        ServerEvent("message", b"c", "7"),
        ServerEvent("message", b" d", "7"),
    ]


def test_the_last_event_may_lack_its_end() -> None:
    reader = Events()
    assert reader.feed(b"data: [DONE]") == []
    assert reader.end() == [ServerEvent("message", b"[DONE]", "")]


def test_lines_and_events_that_are_too_long_are_refused() -> None:
    with pytest.raises(TooLong):
        Lines(10).feed(b"x" * 11)
    reader = Events(10)
    reader.feed(b"data:xxxx\ndata:xxxx\n")
    with pytest.raises(TooLong):
        reader.feed(b"data:xxxx\n")
