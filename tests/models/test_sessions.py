"""Sessions: calls whose input comes in parts while their output is read."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput, ModelCrashed, ModelTimeout, ModelUnavailable, Unsupported
from penstock.models.host import deadlines
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
    assert (session.part_count, session.part_bytes) == (5, 5 * len('"part 0"'))
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
    """The model waits for a part."""
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
    await chunks.read(1)
    for number in range(8):  # twice as long as the limit
        await session.send(text("x"))
        await chunks.read(number + 2)
        await asyncio.wait([session.done], timeout=0.1)
    assert not session.done.done()
    with pytest.raises(ModelTimeout, match=r"no part and no chunk for 0.4 s"):
        await session.done
    session.close()
    assert await models.call(model, {"greeting": "next"}) == "next"
    assert model.restarts == 0


async def test_sessions_may_have_a_time_limit_of_their_own(models: Models) -> None:
    """A shorter one counts also where a call with a longer one began before."""
    slow = ECHO.replace("return greeting", "import threading; threading.Event().wait(1); return greeting")
    model = await models.serve("echo", slow, timeout=30, session_timeout=0.3, concurrency=2)
    call = models.begin(model, {"greeting": "call"})
    session, _chunks = begin(models, model, {"greeting": "hi"})
    with pytest.raises(ModelTimeout, match=r"no part and no chunk for 0.3 s"):
        await session.done
    assert not call.done.done()
    session.close()
    assert msgspec.json.decode((await call.done).json) == "call"


SLOW_TO_END = """
import asyncio
from collections.abc import AsyncIterator

class Model:
    async def predict(self) -> None: ...

    async def session(self, parts: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for part in parts:
                yield part
        finally:
            await asyncio.sleep(0.3)
"""


async def test_an_idle_session_that_ends_slowly_costs_the_others_nothing(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that did not stop by then would cost the replica."""
    monkeypatch.setattr(deadlines, "_STOP_SECONDS", 0.01)
    model = await models.serve("slow", SLOW_TO_END, session_timeout=0.4, concurrency=2)
    await model.load()
    busy, chunks = begin(models, model, {})
    idle, _ = begin(models, model, {})
    number = 0
    while model.in_flight == 2:
        await busy.send(text("x"))
        number += 1
        await chunks.read(number)
        await asyncio.wait([busy.done], timeout=0.05)
    with pytest.raises(ModelTimeout):
        await idle.done
    await busy.send(text("x"))
    await chunks.read(number + 1)
    assert model.restarts == 0
    busy.close()
    idle.close()


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


async def test_a_kill_ends_fifty_sessions_at_once(models: Models) -> None:
    """Each gets its error, no place stays taken, and the next session runs in the new replica."""
    model = await models.serve("echo", ASYNC_ECHO, concurrency=50)
    sessions = [begin(models, model, {"greeting": str(name)}) for name in range(50)]
    for session, chunks in sessions:
        await session.send(text("part"))
        await chunks.read(2)
    (replica,) = model.replicas
    assert (model.sessions, model.in_flight, replica.pid is not None) == (50, 50, True)
    os.kill(replica.pid or 0, signal.SIGKILL)
    for session, chunks in sessions:
        with pytest.raises(ModelCrashed, match="SIGKILL"):
            await session.done
        assert len(chunks.chunks) == 2
        session.close()
    assert (model.sessions, model.in_flight, models.host._windows.taken) == (0, 0, 0)
    session, chunks = begin(models, model, {"greeting": "again"})
    assert await chunks.read(1) == ["again"]
    session.close()
    assert model.metrics.counts().failed == {"crashed": 50}


async def test_a_thousand_sessions_at_once(models: Models) -> None:
    """All are open at the same time in one replica; each gets its own chunks."""
    model = await models.serve("echo", ASYNC_ECHO, concurrency=1000)
    await model.load()  # otherwise all wait, which only a few may
    sessions = [begin(models, model, {"greeting": str(name)}) for name in range(1000)]
    for round_ in range(3):
        for session, _ in sessions:
            await session.send(text(f"part {round_}"))
        for _, chunks in sessions:
            await chunks.read(round_ + 2)
    assert model.sessions == 1000
    for name, (session, chunks) in enumerate(sessions):
        session.finish()
        await session.done
        assert chunks.chunks == [str(name), "0 part 0", "1 part 1", "2 part 2", "end"]
        session.close()
    assert (model.sessions, model.in_flight, models.host._windows.taken) == (0, 0, 0)


async def test_stopping_the_host_ends_sessions_with_the_reason(models: Models, echo: Deployment) -> None:
    session, chunks = begin(models, echo, {"greeting": "hi"})
    await chunks.read(1)
    await models.host.stop()
    with pytest.raises(ModelUnavailable, match="model echo is being stopped"):
        await session.done
    session.close()


async def test_a_version_that_is_replaced_finishes_its_sessions(models: Models) -> None:
    """New sessions go to the new version meanwhile."""
    old = await models.serve("echo", ECHO)
    session, chunks = begin(models, old, {"greeting": "old"})
    await chunks.read(1)
    new = await models.host.add(models.python("echo", ECHO.replace("{part}", "new {part}")), replace=True)
    other, others = begin(models, old, {"greeting": "hi"})  # goes to the new one
    for one, of in ((session, chunks), (other, others)):
        await one.send(text("part"))
        await of.read(2)
        one.finish()
        await one.done
        one.close()
    assert (chunks.chunks[1], others.chunks[1]) == ("0 part", "0 new part")
    await until(old._ended.is_set, "the old version ends when its session has")
    assert not new.retired


async def test_unloading_waits_for_a_session(models: Models, echo: Deployment) -> None:
    session, chunks = begin(models, echo, {"greeting": "hi"})
    await chunks.read(1)
    unloading = asyncio.create_task(echo.unload())
    await session.send(text("part"))
    await chunks.read(2)
    assert not unloading.done()
    session.finish()
    await session.done
    await unloading
    assert not echo.replicas
    session.close()


async def test_no_call_is_sent_ahead_to_a_replica_with_a_session(models: Models) -> None:
    """It would wait for the end of the session, although another replica could take it earlier."""
    model = await models.serve("echo", ECHO)
    for _ in range(200):  # quick calls, which are sent ahead otherwise
        await models.call(model, {"greeting": "quick"})
    session, chunks = begin(models, model, {"greeting": "first"})
    await chunks.read(1)
    call = models.begin(model, {"greeting": "call"})
    assert (model.waiting, model.in_flight) == (1, 1)
    session.close()
    assert read(await call.done) == "call"


async def test_sessions_wait_for_a_place_and_calls_pass_none(models: Models) -> None:
    """With one place, the second session and a call wait for the first session; parts may be sent meanwhile."""
    model = await models.serve("echo", ECHO)
    first, chunks = begin(models, model, {"greeting": "first"})
    second, others = begin(models, model, {"greeting": "second"})
    await second.send(text("early"))
    call = models.begin(model, {"greeting": "call"})
    await first.send(text("part"))
    await chunks.read(2)
    assert (model.waiting, model.in_flight, others.chunks) == (2, 1, [])
    first.close()
    await others.read(2)
    second.finish()
    assert read(await call.done) == "call"
    assert others.chunks == ["second", "0 early", "end"]
    second.close()


async def test_a_session_that_waits_can_be_given_up(models: Models) -> None:
    model = await models.serve("echo", ECHO)
    first, chunks = begin(models, model, {"greeting": "first"})
    await chunks.read(1)
    second = models.session(model, {"greeting": "second"})
    await second.send(text("early"))
    second.close()
    assert (model.waiting, model.in_flight) == (0, 1)
    first.close()


async def test_sessions_run_alone_beside_batches(models: Models) -> None:
    code = ECHO + "\n    def predict_batch(self, greetings: list[str]) -> list[str]:\n        return greetings\n"
    model = await models.serve("echo", code, batching={"max_size": 8, "max_wait_ms": 20})
    session, chunks = begin(models, model, {"greeting": "first"})
    await chunks.read(1)
    calls = [models.begin(model, {"greeting": str(name)}) for name in range(5)]
    other, others = begin(models, model, {"greeting": "second"})
    calls += [models.begin(model, {"greeting": str(name)}) for name in range(5, 8)]
    session.close()
    assert [read(await call.done) for call in calls[:5]] == ["0", "1", "2", "3", "4"]
    await others.read(1)
    other.finish()
    assert [read(await call.done) for call in calls[5:]] == ["5", "6", "7"]
    other.close()
    assert model.metrics.counts().batches == 2


async def test_lines_of_a_session_carry_its_request_id(models: Models, echo: Deployment) -> None:
    code = ECHO if echo.model.concurrency == 1 else ASYNC_ECHO
    model = await models.serve("prints", code.replace("yield f", "print('took', part); yield f"), concurrency=2)
    session, chunks = begin(models, model, {"greeting": "hi"}, request_id="r-1")
    await session.send(text("part"))
    await chunks.read(2)
    session.finish()
    await session.done
    (line,) = [line for line in models.lines(model) if line.message == "took part"]
    assert line.request_id == "r-1"
    session.close()


async def test_sessions_are_counted(models: Models) -> None:
    model = await models.serve("counted", ECHO)
    for _ in range(3):
        session = models.session(model, {"greeting": "hi"})
        await session.send(text("1234"))
        session.finish()
        await session.done
    counts = model.metrics.counts()
    assert (counts.sessions, counts.completed, counts.mean_seconds) == (3, 0, None)
    assert (model.metrics._calls.parts, model.metrics._calls.part_bytes) == (3, 18)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_sessions_that_return_one_output(models: Models, kind: str) -> None:
    stated = dict(KINDS[kind])
    code = WHOLE if kind != "async" else ASYNC_WHOLE
    stated.pop("code")
    model = await models.serve("whole", code, **stated)
    session = models.session(model, {})
    for word in ("a", "b"):
        await session.send(text(word))
    session.finish()
    assert read(await session.done) == "a b"


WHOLE = """
from collections.abc import Iterator

class Model:
    def predict(self) -> None: ...

    def session(self, parts: Iterator[str]) -> str:
        return " ".join(parts)
"""
ASYNC_WHOLE = WHOLE.replace("Iterator", "AsyncIterator").replace("def", "async def").replace(
    "(parts)", "([part async for part in parts])"
)  # fmt: skip


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
