"""The suite that every runtime passes: callers see the same behaviour whatever executes a model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import psutil
import pytest

from penstock.errors import InvalidInput, ModelCrashed, ModelTimeout, ProviderFailed
from penstock.models.host.calls import LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.replica.runtime import Segment
from tests.models.subjects import NAMES, Subject, subject
from tests.support.models import Models, Recorder, read
from tests.support.processes import alive
from tests.support.waiting import until

LARGE = bytes(range(256)) * (10 * 2**20 // 256)  # 10 MB

_AT_ONCE = 5.0  # seconds, on a busy machine; the calls themselves may take a minute


@dataclass(frozen=True, slots=True)
class Trial:
    """A subject on a host."""

    subject: Subject
    models: Models

    async def plain(self, **stated: Any) -> Deployment:
        """Load the plain model of the subject."""
        model = self.models.model("plain", self.subject.runtime, dict(self.subject.plain), **self._stated(stated))
        deployment = await self.models.host.add(model)
        await self.ask(deployment, op="echo", text="warm")
        return deployment

    async def streaming(self) -> Deployment:
        stated = self._stated({})
        if "schema" in stated:
            stated["schema"] = {"input": stated["schema"]["input"], "streams": True}
        model = self.models.model("streaming", self.subject.runtime, dict(self.subject.streaming), **stated)
        return await self.models.host.add(model)

    def begin(self, deployment: Deployment, *segments: Segment, request_id: str = "", **given: Any) -> LiveCall:
        return self.models.begin(deployment, self.subject.as_input(given), segments, request_id=request_id)

    async def ask(self, deployment: Deployment, **given: Any) -> str:
        """Make a call, and return the text in its result."""
        return self.subject.as_text(read(await self.begin(deployment, **given).done))

    def has(self, *operations: str) -> bool:
        return not any(operation in self.subject.without for operation in operations)

    def _stated(self, stated: dict[str, Any]) -> dict[str, Any]:
        return dict(self.subject.stated) | stated


@pytest.fixture(params=NAMES)
async def trial(request: pytest.FixtureRequest, models: Models) -> AsyncIterator[Trial]:
    async with subject(request.param, models) as found:
        yield Trial(found, models)


@asynccontextmanager
async def undisturbed(trial: Trial) -> AsyncIterator[None]:
    """Call another model all the time while the block runs, and check that each call gets its result."""
    other = await trial.models.serve("other", "class Model:\n    def predict(self, n: int) -> int:\n        return n\n")
    over = asyncio.Event()
    count = 0

    async def call() -> None:
        nonlocal count
        while not over.is_set():
            assert await trial.models.call(other, {"n": count}) == count
            count += 1

    calling = asyncio.create_task(call())
    yield
    over.set()
    await calling
    assert count > 0
    assert other.restarts == 0


async def test_a_model_returns_results(trial: Trial) -> None:
    """The result contains what the call was given."""
    model = await trial.plain()
    assert await trial.ask(model, op="echo", text="hello") == "hello"


async def test_a_model_streams(trial: Trial) -> None:
    """Chunks arrive in order, and then the end."""
    model = await trial.streaming()
    recorder = Recorder()
    given = trial.subject.as_input({"op": "stream", "n": 50})
    await trial.models.begin(model, given, streams=True, listener=recorder).done
    assert [trial.subject.as_chunk(chunk) for chunk in recorder.chunks] == list(range(50))


async def test_inputs_that_break_the_schema_do_not_reach_the_model(trial: Trial) -> None:
    """A violation names the field, and no replica sees it."""
    model = await trial.plain()
    before = model.replicas[0].returned
    with pytest.raises(InvalidInput) as caught:
        trial.models.begin(model, {"op": 5, "user": 5})
    assert {problem.field for problem in caught.value.problems} & {"op", "user"}
    assert model.replicas[0].returned == before


async def test_an_exception_reaches_its_caller(trial: Trial) -> None:
    """The error has the exception's own words, and the replica continues."""
    model = await trial.plain()
    with pytest.raises(trial.subject.failed, match="this is what went wrong"):
        await trial.ask(model, op="raise")
    assert await trial.ask(model, op="echo", text="on") == "on"
    assert model.restarts == 0


@pytest.mark.parametrize("how", ["exit", "segfault", "abort"])
async def test_a_crash_reaches_its_caller_at_once(trial: Trial, how: str) -> None:
    """No other call is disturbed, and the model serves calls again."""
    model = await trial.plain(retry=False)
    async with undisturbed(trial):
        if trial.has(how):
            call = trial.begin(model, op=how)
        else:
            call = trial.begin(model, op="sleep", seconds=30)
            pid = model.replicas[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(_AT_ONCE):
            with pytest.raises(ModelCrashed):
                await call.done
        assert await trial.ask(model, op="echo", text="again") == "again"


async def test_a_server_that_cuts_the_connection_costs_no_replica(trial: Trial) -> None:
    """This concerns runtimes that call a server."""
    if trial.subject.failed is not ProviderFailed:
        assert trial.has("exit")  # its crashes are tested above
        return
    model = await trial.plain()
    with pytest.raises(ProviderFailed):
        await trial.ask(model, op="cut")
    assert await trial.ask(model, op="echo", text="on") == "on"
    assert model.restarts == 0


async def test_a_call_that_hangs_is_ended(trial: Trial) -> None:
    """The call ends at its time limit, which suffices to start a program on a busy machine; the model continues."""
    model = await trial.plain(timeout=1.5)
    async with asyncio.timeout(_AT_ONCE):
        with pytest.raises(ModelTimeout):
            await trial.ask(model, op="sleep", seconds=30)
    assert await trial.ask(model, op="echo", text="on") == "on"


async def test_memory_is_limited(trial: Trial) -> None:
    """The limit includes processes that the replica has started. It does not apply to models in a server."""
    if not trial.has("grow"):
        assert trial.subject.without["grow"]
        return
    model = await trial.plain(memory_limit="200MiB")
    with pytest.raises(ModelCrashed, match="its limit is 200 MiB"):
        await trial.ask(model, op="grow")
    assert await trial.ask(model, op="echo", text="on") == "on"


async def test_ten_megabytes_in_and_out(trial: Trial) -> None:
    """The bytes arrive unchanged."""
    if not trial.has("blob"):
        assert trial.subject.without["blob"]
        return
    model = await trial.plain()
    body = msgspec.json.encode({"op": "blob", "blob": None})
    call = trial.models.host.call(model, body, [Segment(LARGE, "image/x-large", ("blob",))])
    (segment,) = (await call.done).segments
    assert segment.media_type == "image/x-mirrored"
    assert bytes(segment.in_memory()) == LARGE[::-1]


async def test_two_hundred_calls_at_once(trial: Trial) -> None:
    """Each gets its own result."""
    model = await trial.plain(queue=300)
    texts = [f"call {number}" for number in range(200)]
    assert await asyncio.gather(*(trial.ask(model, op="echo", text=text) for text in texts)) == texts


async def test_a_client_that_leaves_ends_its_call(trial: Trial) -> None:
    """The call is cancelled where the runtime can do so; its place becomes free in any case."""
    model = await trial.plain(concurrency=1)
    seconds = 30.0 if trial.subject.cancels else 0.3
    call = trial.begin(model, op="sleep", seconds=seconds)
    await until(lambda: model.in_flight == 1, "it runs")
    call.close()
    async with asyncio.timeout(5):
        assert await trial.ask(model, op="echo", text="next") == "next"
    assert model.restarts == 0


async def test_a_killed_replica_is_replaced_and_its_call_runs_again(trial: Trial) -> None:
    """The new replica runs the call if the manifest allows a retry."""
    model = await trial.plain()
    pid = model.replicas[0].pid
    assert pid is not None
    call = trial.begin(model, op="sleep", seconds=0.2)
    os.kill(pid, signal.SIGKILL)
    await call.done
    assert model.restarts == 1
    assert not alive(pid)


async def test_printed_text_is_in_the_log(trial: Trial) -> None:
    """Each line is marked with the call."""
    if not trial.has("print"):
        assert trial.subject.without["print"]
        return
    model = await trial.plain()
    await trial.begin(model, op="print", text="a word", request_id="mine").done
    await until(lambda: "a word" in [line.message for line in trial.models.lines(model)], "it is logged")
    (line,) = [line for line in trial.models.lines(model) if line.message == "a word"]
    if trial.subject.runtime == "python":  # other runtimes know the call of a line only while it runs
        assert line.request_id == "mine"


async def test_no_process_is_left_after_the_removal_of_a_model(trial: Trial) -> None:
    """After its removal neither a process of the model nor one that it has started is left."""
    model = await trial.plain()
    pid = model.replicas[0].pid
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    await trial.models.host.remove("plain")
    await until(lambda: not any(alive(one) for one in family if one is not None), "all have ended")
