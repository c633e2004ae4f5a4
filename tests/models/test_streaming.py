"""A call's events for a client that reads slowly, or not at all."""

from __future__ import annotations

from typing import Any

from penstock.errors import PenstockError
from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.http.streaming import EventFeed


def feed_of_a_call() -> tuple[EventFeed, LiveCall]:
    feed = EventFeed(logs=True, problem=describe, keep=keep)
    feed.call = call = LiveCall(b"{}", streams=True, collects=False, listener=feed)
    return feed, call


async def keep(result: CallResult) -> CallResult:
    return result


def describe(error: PenstockError) -> Any:
    return {"detail": error.message}


async def test_unread_progress_and_lines_are_bounded() -> None:
    """The newest progress is kept, and a note says how many lines were left out."""
    feed, call = feed_of_a_call()
    for number in range(10_000):
        feed.progress(b'{"number": %d}' % number)
        feed.log("info", f"line {number} " + "x" * 100)
    text = await feed.begun(1)
    assert len(text) < 2**19
    assert b'{"number": 9999}' in text
    assert b"lines were left out: they came faster than they were read" in text
    feed.progress(b'{"number": 10000}')
    assert b"10000" in await anext(feed)
    call.close()


async def test_chunks_are_returned_to_the_window_when_they_have_been_sent() -> None:
    granted = []
    feed, call = feed_of_a_call()
    call.window = 1000
    call.grant = lambda _, size: granted.append(size)
    call.add_chunk(b"1", (), 65)
    assert b"data: 1\n" in await feed.begun(1)
    call.add_chunk(b"2", (), 65)
    assert granted == []
    assert b"data: 2\n" in await anext(feed)
    assert granted == [65]
    assert call.unread == 65
    call.window = 0
    call.close()


async def test_a_stream_that_is_closed_before_it_is_read_gives_up_its_call() -> None:
    """The client left while the response began."""
    feed, call = feed_of_a_call()
    await feed.aclose()
    assert call.done.cancelled()
