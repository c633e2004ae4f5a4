"""Sessions: calls whose input comes in parts while their output is read."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput, ModelCrashed, ModelTimeout, Unsupported
from penstock.models.host.deployment import Deployment
from penstock.models.host.sessions import LiveSession, SessionOver
from penstock.models.replica import frames
from penstock.models.replica.runtime import Segment
from tests.support.models import Models, Recorder, read
from tests.support.waiting import until

# Sends each part back with its number and what the first input said.
ECHO = """
from collections.abc import Iterator
from penstock import File

class Model:
    def predict(self, greeting: str) -> str:
        return greeting

    def session(self, greeting: str, parts: Iterator[str]) -> Iterator[str]:
        yield greeting
        for number, part in enumerate(parts):
            yield f"{number} {part}"
        yield "end"
"""
ASYNC_ECHO = ECHO.replace("Iterator", "AsyncIterator").replace("def", "async def").replace(
    "for number, part in enumerate(parts):", "number = -1\n        async for part in parts:\n            number += 1"
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "blocking": {"code": ECHO},
    "threads": {"code": ECHO, "concurrency": 4},
    "async": {"code": ASYNC_ECHO, "concurrency": 4},
}


@pytest.fixture(params=list(KINDS))
async def echo(request: pytest.FixtureRequest, models: Models) -> Deployment:
    stated = dict(KINDS[request.param])
    return await models.serve("echo", stated.pop("code"), **stated)


class Chunks(Recorder):
    """A listener whose caller reads every chunk as it comes."""

    session: LiveSession

    def chunk(self, json: bytes, segments: Any) -> None:
        super().chunk(json, segments)
        self.session.consume(self.session.unread)

    async def read(self, count: int) -> list[Any]:
        """Wait for that many chunks."""
        while len(self.chunks) < count:
            assert not self.session.done.done(), self.session.done
            self.chunk_came.clear()
            await self.chunk_came.wait()
        return self.chunks


def begin(models: Models, model: Deployment, value: Any, **options: Any) -> tuple[LiveSession, Chunks]:
    chunks = Chunks()
    chunks.session = session = models.session(model, value, listener=chunks, **options)
    session.done.add_done_callback(lambda _: chunks.chunk_came.set())
    return session, chunks


def text(value: str) -> bytes:
    return msgspec.json.encode(value)


async def test_chunks_leave_while_parts_come(models: Models, echo: Deployment) -> None:
    session, chunks = begin(models, echo, {"greeting": "hello"})
    assert await chunks.read(1) == ["hello"]
    for number in range(5):
        await session.send(text(f"part {number}"))
        assert (await chunks.read(number + 2))[-1] == f"{number} part {number}"
    assert not session.done.done()
    session.finish()
    assert read(await session.done) is None
    assert chunks.chunks[-1] == "end"
    assert (session.part_count, session.part_bytes) == (5, 5 * frames.chunk_size(len('"part 0"')))
    session.close()


async def test_parts_sent_before_the_model_runs_arrive_in_order(models: Models, echo: Deployment) -> None:
    """Without a listener, the result is the list of all chunks."""
    session = models.session(echo, {"greeting": "hi"})
    for number in range(100):
        await session.send(text(str(number)))
    session.finish()
    assert read(await session.done) == ["hi", *(f"{number} {number}" for number in range(100)), "end"]
    session.close()


async def test_sessions_and_calls_of_one_replica_do_not_mix(models: Models, echo: Deployment) -> None:
    async def one(name: int) -> None:
        session, chunks = begin(models, echo, {"greeting": str(name)})
        for number in range(20):
            await session.send(text(f"{name}.{number}"))
            if number % 5 == 0:
                await chunks.read(number + 2)
        session.finish()
        await session.done
        assert chunks.chunks == [str(name), *(f"{number} {name}.{number}" for number in range(20)), "end"]
        session.close()

    async def call(name: int) -> None:
        assert await models.call(echo, {"greeting": str(name)}) == str(name)

    await asyncio.gather(*(one(name) if name % 3 else call(name) for name in range(30)))
    assert echo.in_flight == 0


@pytest.mark.parametrize("size", [100, 20_000, 3_000_000])
async def test_a_sender_waits_for_a_model_that_takes_nothing(models: Models, size: int) -> None:
    """At most a window of parts is on its way; one that is larger than the window is sent alone."""
    model = await models.serve("slow", SLOW)
    session, _ = begin(models, model, {})
    sent = 0

    async def send() -> None:
        nonlocal sent
        while not session.done.done():
            await session.send(text("x" * size))
            sent += 1

    sending = asyncio.create_task(send())
    most = max(session.part_window, session.part_window // 2 + frames.chunk_size(size + 2))
    await until(lambda: not frames.fits(session.part_window, session.untaken, frames.chunk_size(size + 2)), "full")
    for _ in range(20):  # turns of the loop in which it sends no more
        await asyncio.sleep(0)
    assert session.untaken <= most
    stalled = sent
    (models.folder / "gate").touch()
    await until(lambda: sent > 2 * stalled + 2, "it goes on")
    assert session.untaken <= most
    session.close()
    with pytest.raises(SessionOver):
        await sending


SLOW = """
import os, time
from collections.abc import Iterator

class Model:
    def predict(self) -> None: ...

    def session(self, parts: Iterator[str]) -> Iterator[int]:
        while not os.path.exists("../gate"):
            time.sleep(0.002)
        for part in parts:
            yield len(part)
"""


async def test_a_session_of_a_caller_that_leaves_frees_its_place(models: Models, echo: Deployment) -> None:
    """The model waits for a part, or sends chunks that no one reads."""
    for _ in range(10):
        session, chunks = begin(models, echo, {"greeting": "hi"})
        await session.send(text("one"))
        await chunks.read(2)
        session.close()
        with pytest.raises(SessionOver):
            await session.send(text("two"))
    assert await models.call(echo, {"greeting": "next"}) == "next"
    await until(lambda: echo.in_flight == 0, "no place is taken")
    assert echo.restarts == 0
    assert models.host._windows.taken == models.host._part_windows.taken == 0


async def test_nothing_can_be_sent_after_the_last_part_or_the_end(models: Models, echo: Deployment) -> None:
    session = models.session(echo, {"greeting": "hi"})
    session.finish()
    session.finish()
    with pytest.raises(SessionOver, match="after the last one"):
        await session.send(text("late"))
    await session.done
    with pytest.raises(SessionOver, match="has ended"):
        await session.send(text("later"))
    session.close()


async def test_first_input_and_parts_are_validated(models: Models, echo: Deployment) -> None:
    session = models.session(echo, {"greeting": 3})
    with pytest.raises(InvalidInput, match="greeting: must be a valid string"):
        await session.done
    session = models.session(echo, {"greeting": "hi"})
    await session.send(text("good"))
    await session.send(b'{"text": 3}')
    with pytest.raises(InvalidInput, match="part: must be a valid string"):
        await session.done


async def test_the_time_limit_counts_from_the_last_part_or_chunk(models: Models) -> None:
    """A session lasts longer than the limit while parts come, and ends when none come."""
    model = await models.serve("echo", ECHO, timeout=0.4)
    session, chunks = begin(models, model, {"greeting": "hi"})
    began = asyncio.get_running_loop().time()
    number = 0
    while asyncio.get_running_loop().time() - began < 1.0:
        await session.send(text("x"))
        number += 1
        await chunks.read(number + 1)
        await asyncio.wait([session.done], timeout=0.05)
    assert not session.done.done()
    with pytest.raises(ModelTimeout, match=r"no part and no chunk for 0.4 s"):
        await session.done
    session.close()
    assert await models.call(model, {"greeting": "next"}) == "next"
    assert model.restarts == 0


async def test_a_replica_that_dies_ends_its_sessions_at_once(models: Models) -> None:
    """They are not retried, and a sender that waits is woken."""
    code = ASYNC_ECHO.replace("number += 1", "import os; os._exit(9)")
    model = await models.serve("dies", code, concurrency=8)
    sessions = [begin(models, model, {"greeting": "hi"}) for _ in range(5)]
    for _, chunks in sessions:
        await chunks.read(1)
    await sessions[0][0].send(text("die"))
    for session, _ in sessions:
        with pytest.raises(ModelCrashed, match="ran this session ended"):
            await session.done
        with pytest.raises(SessionOver):
            await session.send(text("more"))
        session.close()
    assert await models.call(model, {"greeting": "next"}) == "next"


async def test_media_of_parts_and_chunks(models: Models) -> None:
    model = await models.serve("mirror", MIRROR)
    session, chunks = begin(models, model, {})
    await session.send(b'{"file": null, "times": 2}', [Segment(b"abc", "image/png", ("file",))])
    await chunks.read(1)
    await session.send(b'{"times": 2}')
    with pytest.raises(InvalidInput, match=r"part\.file: is required"):
        await session.done
    session.close()
    assert model.schema is not None
    assert model.schema.session is not None
    assert list(model.schema.session.part["properties"]) == ["file", "times"]


MIRROR = """
from collections.abc import Iterator
from typing import NamedTuple
from pydantic import BaseModel
from penstock import File

class Part(BaseModel):
    file: File
    times: int = 1

class Model:
    def predict(self) -> None: ...

    def session(self, parts: Iterator[Part]) -> Iterator[File]:
        for part in parts:
            yield File(part.file.data[::-1] * part.times, "image/x-mirrored")
"""


async def test_a_model_without_sessions_refuses_them(models: Models) -> None:
    model = await models.serve("plain", "class Model:\n    def predict(self) -> int:\n        return 1\n")
    with pytest.raises(Unsupported, match="model plain takes no sessions"):
        models.session(model, {})
