"""The frames of sessions: bounded in bytes whatever the order, and refused where they do not belong."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.models.host.sessions import MAX_PART_BYTES, LiveSession, SessionOver
from penstock.models.host.windows import Windows
from penstock.models.replica import frames
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.frames import Decoder, Frame, ProtocolError
from penstock.models.replica.incoming import Groups
from penstock.models.replica.runtime import Cancelled, Segment
from penstock.models.replica.sessions import Session
from penstock.models.replica.wire import ReplicaWire
from tests.support.models import Models

WINDOW = 1000


class Replica:
    """The replica's end, without a process: ``sent`` are its frames to the host."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self._decoder = Decoder()
        self.groups = Groups(ReplicaWire(self._send, CallFiles("")))

    def _send(self, parts: object) -> None:
        assert isinstance(parts, list)
        self.sent += self._decoder.feed(b"".join(parts))

    def session(self, number: int = 1, window: int = WINDOW) -> Session:
        ((call,),) = self.groups.feed(
            frames.encode(frames.CALL, number, frames.CallHeader("r", True, part_window=window), b"{}")
        )
        assert isinstance(call, Session)
        return call


def part(size: int, number: int = 1) -> bytes:
    return frames.encode(frames.PART, number, None, b"x" * size)


@given(
    st.lists(st.one_of(st.integers(0, 3 * WINDOW), st.sampled_from(["take", "take", "take"])), max_size=60),
    st.integers(0, 5),
)
def test_every_part_arrives_once_in_order_and_within_the_window(steps: list[int | str], queued: int) -> None:
    """A host that sends as fast as it may and a model that takes at any moment: neither waits for ever, and at most a
    window, or one part that is larger, is on its way."""

    async def run() -> None:
        replica = Replica()
        host = LiveSession(b"{}", windows=Windows(), part_windows=Windows())
        host.part_window = WINDOW
        host.id = 1
        sizes = [step for step in steps if isinstance(step, int)]
        sending = asyncio.ensure_future(send(host, sizes))
        for _ in range(queued):
            await asyncio.sleep(0)
        session = replica.session()

        def forward(pieces: object) -> None:
            assert isinstance(pieces, list)
            replica.groups.feed(b"".join(pieces))

        forward(host.begin(forward))
        taken: deque[int] = deque()
        takes = [step for step in steps if step == "take"] + ["take"] * len(sizes)
        for _ in takes:
            await asyncio.sleep(0)
            assert host.untaken <= max(WINDOW, WINDOW // 2 + max(sizes, default=0) + 64)
            if session._arrived:
                received = session.receive()
                assert received is not None
                taken.append(len(received.json))
            for frame in replica.sent:
                host.take(frames.credit_in(frame))
            replica.sent.clear()
            await asyncio.sleep(0)
        await sending
        while session._arrived:
            received = session.receive()
            assert received is not None
            taken.append(len(received.json))
        assert list(taken) == sizes
        host.finish()
        assert session.receive() is None
        host.close()

    asyncio.run(run())


async def send(host: LiveSession, sizes: list[int]) -> None:
    for size in sizes:
        await host.send(b"x" * size)


def test_orders_of_a_host_that_make_no_sense_are_refused() -> None:
    replica = Replica()
    session = replica.session()
    replica.groups.feed(part(WINDOW // 2))
    with pytest.raises(ProtocolError, match="exceeds the window"):
        replica.groups.feed(part(WINDOW // 2))
    replica.groups.feed(frames.encode(frames.END, 1))
    with pytest.raises(ProtocolError, match="after the last one"):
        replica.groups.feed(part(1))
    for kind in (frames.RESULT, frames.TAKEN, frames.PING, frames.SETUP, frames.READY):
        with pytest.raises(ProtocolError, match=f"kind {kind} on the data channel"):
            replica.groups.feed(frames.encode(kind, 1))
    replica.groups.forget(session)
    for late in (part(1), frames.encode(frames.END, 1), frames.encode(frames.CANCEL, 1), part(1, number=99)):
        assert replica.groups.feed(late) == []  # the session has ended meanwhile: no error


def test_a_cancel_wakes_a_thread_that_waits_for_a_part() -> None:
    replica = Replica()
    for wake in (Session.cancel, Session.abandon):
        session = replica.session()
        with ThreadPoolExecutor(1) as thread:
            receiving = thread.submit(session.receive)
            while session._wake_receiver is None:
                assert not receiving.done()
            wake(session)
            assert isinstance(receiving.exception(timeout=10), Cancelled)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_header_of_a_part_is_a_part_or_a_protocol_error(header: bytes, body: bytes) -> None:
    replica = Replica()
    replica.session()
    prefix = frames.PREFIX.pack(len(header) + len(body), frames.PART, 1, len(header))
    with contextlib.suppress(ProtocolError):
        replica.groups.feed(prefix + header + body)


@pytest.mark.parametrize("size", [0, 101, 2**32 - 1])
async def test_credit_that_was_not_owed_is_refused(size: int) -> None:
    host = LiveSession(b"{}", windows=Windows(), part_windows=Windows())
    await host.send(b"x" * (100 - 64))
    with pytest.raises(ProtocolError, match=f"{size} bytes of parts were taken, of 100"):
        host.take(size)
    host.take(100)
    host.close()


async def test_every_sender_that_waits_is_woken() -> None:
    """Also where one of them gives up, and at the end of the session."""
    host = LiveSession(b"{}", windows=Windows(), part_windows=Windows())
    host.part_window = WINDOW
    await host.send(b"x" * (WINDOW - 64))
    senders = [asyncio.create_task(host.send(b"x" * 100)) for _ in range(3)]
    await asyncio.sleep(0)
    senders[0].cancel()
    await asyncio.wait([senders[0]])
    host.take(WINDOW)
    await asyncio.gather(*senders[1:])
    assert (senders[0].cancelled(), host.part_count, host.untaken) == (True, 3, 2 * 164)
    host.untaken = WINDOW
    last = [asyncio.create_task(host.send(b"x" * 100)) for _ in range(2)]
    await asyncio.sleep(0)
    host.close()
    for one in last:
        with pytest.raises(SessionOver):
            await one


async def test_a_part_is_limited_and_holds_no_file() -> None:
    host = LiveSession(b"{}", windows=Windows(), part_windows=Windows())
    with pytest.raises(Exception, match=f"may have {MAX_PART_BYTES} bytes"):
        await host.send(b"null", [Segment(memoryview(bytes(MAX_PART_BYTES)))])
    with pytest.raises(TypeError, match="must be in memory"):
        await host.send(b"null", [Segment(FileBytes("/etc/hostname", 3))])
    assert (host.untaken, host.part_count) == (0, 0)
    host.close()


# Writes a frame of credit for parts into the data socket of its own replica.
HOSTILE = """
import os, socket, stat
from collections.abc import Iterator

def data_socket():
    return min(n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISSOCK(os.fstat(n).st_mode))

class Model:
    def predict(self, data: str) -> str:
        os.write(data_socket(), bytes.fromhex(data))
        return "sent"

    def session(self, data: str, parts: Iterator[str]) -> Iterator[str]:
        yield "begun"
        next(parts)
        os.write(data_socket(), bytes.fromhex(data))
        yield from parts
"""


def taken(number: int, body: bytes) -> str:
    return frames.encode(frames.TAKEN, number, None, body).hex()


@pytest.mark.parametrize(
    "body", [b"", b"abc", struct.pack("<I", 0), struct.pack("<I", 10**6), struct.pack("<I", 2**32 - 1), bytes(8)]
)
async def test_credit_of_a_hostile_replica_ends_it_and_its_session(models: Models, body: bytes) -> None:
    """Whatever it claims, for its session or for calls that do not exist; the next session runs in a new process."""
    model = await models.serve("hostile", HOSTILE)
    for number in (None, 10**9):
        session = models.session(model, {"data": ""})
        await session.send(b'"x"')
        session.close()
        session = models.session(model, {"data": taken(number or session.id + 1, body)})
        await session.send(b'"x"')
        with pytest.raises(Exception, match="ran this session ended: broke the protocol"):
            await session.done
        session.close()
    assert await models.call(model, {"data": ""}) == "sent"


async def test_credit_for_a_call_that_is_not_a_session_is_refused(models: Models) -> None:
    model = await models.serve("hostile", HOSTILE, retry=False)
    call = models.begin(model, {"data": ""})
    await call.done
    with pytest.raises(Exception, match="broke the protocol: parts of a call that is not a session"):
        await models.call(model, {"data": taken(call.id + 1, struct.pack("<I", 1))})
