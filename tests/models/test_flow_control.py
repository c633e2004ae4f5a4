"""The output between a model and its caller is bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from penstock.errors import ModelFailed, ModelUnavailable, NotFound, Overloaded
from penstock.models.host import queue
from penstock.models.host.calls import LiveCall
from penstock.models.host.windows import Windows
from penstock.models.replica import frames
from penstock.models.replica.runtime import Segment
from tests.support.models import Models, Recorder
from tests.support.waiting import until

# Waits for a file to appear, so that a test decides when a call ends.
GATE = """
import os, time

class Model:
    def predict(self, gate: str, note: str = "") -> int:
        while not os.path.exists(gate):
            time.sleep(0.002)
        return os.getpid()
"""

FLOOD = """
from collections.abc import Iterator

class Model:
    def predict(self, count: int, size: int) -> Iterator[str]:
        for number in range(count):
            yield f"{number:06}" + "x" * size
"""


class Unread(Recorder):
    """A listener whose caller reads nothing by itself; keeps the numbers of the chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.call: LiveCall | None = None
        self.most = 0  # bytes that were unread at a time
        self.full = asyncio.Event()

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        assert self.call is not None
        self.chunks.append(int(json[1:7]))
        self.most = max(self.most, self.call.unread)
        if self.call.unread > self.call.window // 2:
            self.full.set()


@pytest.mark.parametrize("size", [100, 60_000, 3_000_000])
async def test_a_model_waits_while_its_caller_does_not_read(models: Models, size: int) -> None:
    """At most a window of the 40 MB is on its way at a time; a chunk larger than the window is sent alone."""
    model = await models.serve("flood", FLOOD)
    count = min(40_000_000 // size, 20_000)
    listener = Unread()
    listener.call = call = models.begin(model, {"count": count, "size": size}, streams=True, listener=listener)
    call.done.add_done_callback(lambda _: listener.full.set())
    while not call.done.done():
        await listener.full.wait()
        listener.full.clear()
        call.consume(call.unread)
    await call.done
    assert listener.chunks == list(range(count))
    assert listener.most <= max(call.window, call.window // 2 + frames.chunk_size(size + 8))
    call.close()


async def test_a_caller_that_stops_reading_and_leaves_frees_the_replica(models: Models) -> None:
    """The model waits for a full window. When the caller leaves, the window is freed and the next call runs."""
    model = await models.serve("flood", FLOOD)
    listener = Unread()
    listener.call = call = models.begin(model, {"count": 1000, "size": 60_000}, streams=True, listener=listener)
    await listener.full.wait()
    call.close()
    assert await models.call(model, {"count": 2, "size": 0}) == ["000000", "000001"]
    assert len(listener.chunks) < 20


async def test_an_output_that_is_collected_is_bounded(models: Models) -> None:
    """A list that would fill the memory fails its call, and the replica continues."""
    model = await models.serve("flood", FLOOD)
    with pytest.raises(ModelFailed, match="more than 67108864 bytes; stream it instead"):
        await models.call(model, {"count": 100, "size": 1_000_000})
    assert await models.call(model, {"count": 1, "size": 0}) == ["000000"]


async def test_inputs_that_wait_are_bounded_in_bytes(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await models.serve("gate", GATE)
    gate = tmp_path / "gate"
    given = {"gate": str(gate), "note": "x" * 1000}
    size = len(msgspec.json.encode(given))
    monkeypatch.setattr(queue, "MAX_WAITING_BYTES", 3 * size)
    calls = [models.begin(model, given) for _ in range(3)]
    with pytest.raises(Overloaded):
        models.begin(model, given)
    calls[2].close()
    calls[2] = models.begin(model, given)
    gate.touch()
    await asyncio.gather(*(call.done for call in calls))


async def test_a_call_of_a_model_that_was_removed_takes_no_window(models: Models) -> None:
    """The windows of refused calls are given back: the next stream has a whole one."""
    removed = await models.serve("removed", FLOOD)
    await models.host.remove("removed")
    await until(lambda: removed.retired, "it takes no more calls")
    for _ in range(10_000):
        with pytest.raises((NotFound, ModelUnavailable)):
            models.begin(removed, {"count": 1, "size": 1}, streams=True, listener=Recorder())
    model = await models.serve("flood", FLOOD)
    call = models.begin(model, {"count": 1, "size": 1}, streams=True, listener=Recorder())
    assert call.window == 2**20
    await call.done
    call.close()


async def test_windows_shrink_as_more_streams_are_open() -> None:
    windows = Windows(max_bytes=2**22)
    taken = [windows.take() for _ in range(2 + 4 + 32)]
    assert taken == [2**20] * 2 + [2**18] * 4 + [2**15] * 32
    with pytest.raises(Overloaded):
        windows.take()
    for window in taken:
        windows.give_back(window)
    assert windows.take() == 2**20
