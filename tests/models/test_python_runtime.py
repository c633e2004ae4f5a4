"""The python runtime: loading, predicting, streaming, batches, refusals, and the interruption of running code."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

import penstock
from penstock import BadInput, Context, Image
from penstock.failures import CallFailed
from penstock.models.replica import runtimes
from penstock.models.replica.interrupting import resend_lost_exceptions
from penstock.models.replica.runtime import (
    AsyncRuntime,
    BlockingRuntime,
    Call,
    Cancelled,
    Output,
    Runtime,
    Schema,
    Segment,
    Spec,
)
from penstock.models.replica.runtimes.python import PythonRuntime
from tests.support.runtimes import CollectingWire, call_with, data_of, read

LIMIT = 60.0  # seconds that anything here may take


class Greeter:
    """Greets."""

    def __init__(self, greeting: str = "Hello") -> None:
        self.greeting = greeting
        self.events: list[str] = []

    def load(self) -> None:
        self.events.append(f"load on {penstock.context().device}")

    def unload(self) -> None:
        self.events.append("unload")

    def predict(self, name: Annotated[str, Field(min_length=1)], context: Context, image: Image | None = None) -> Any:
        if name == "nobody":
            raise BadInput("must be somebody", field="name")
        if name == "broken":
            raise KeyError(name)
        context.progress(0.5)
        penstock.context().log(f"greeting {name}")
        return {"text": f"{self.greeting}, {name}", "request": context.request_id, "image": image}


class Counter:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def predict(self, to: int) -> Iterator[int]:
        try:
            yield from range(to)
        finally:
            self.closed.set()


class Gentle:
    async def load(self) -> None:
        self.loaded = True

    async def predict(self, text: str, seconds: float = 0) -> str:
        await asyncio.sleep(seconds)
        if text == "bad":
            raise BadInput("must be good")
        return f"{penstock.context().request_id} {text}"


class GentleStream:
    def __init__(self) -> None:
        self.closed = False

    async def predict(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
        finally:
            self.closed = True


class Adder:
    def predict(self, left: int, right: int = 10) -> int:
        return left + right

    def predict_batch(self, calls: list[Any]) -> list[int | Exception]:
        if calls[0].left == 99:
            return []
        return [BadInput("too low", "left") if call.left < 0 else call.left + call.right for call in calls]


class Lengths:
    async def predict(self, text: str) -> int:
        return len(text)

    async def predict_batch(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


class Busy:
    """Runs Python code until it is interrupted."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.seen: list[str] = []

    def predict(self, how: str, context: Context) -> str:
        self.started.set()
        try:
            while how != "asks" or not context.cancelled:
                if how == "logs":
                    context.log("still here")
        except Exception:  # noqa: BLE001  (what must not swallow it)
            return "swallowed"
        except Cancelled:
            self.seen.append("cancelled")
            context.log("cleaning up")  # is not disturbed again
            self.seen.append("cleaned")
            raise
        return "finished"

    def predict_batch(self, calls: list[str]) -> list[str]:
        self.started.set()
        while True:
            pass


class Steps:
    """Streams, and computes for ever after the third chunk."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.closed = threading.Event()

    def predict(self) -> Iterator[int]:
        try:
            yield from (1, 2, 3)
            self.started.set()
            while True:
                pass
        finally:
            self.closed.set()


def spec_of(model: str, folder: Path = Path(), **options: Any) -> Spec:
    where = model if ":" in model else f"{__name__}:{model}"
    return Spec(name="model", version="1", folder=folder, options={"class": where, **options}, schema=Schema())


def create(model: type | str, **options: Any) -> Runtime:
    name = model if isinstance(model, str) else model.__name__
    sys.modules.setdefault(__name__, sys.modules[Greeter.__module__])
    return PythonRuntime.create(spec_of(name, **options))


def blocking(model: type, **options: Any) -> BlockingRuntime:
    runtime = create(model, **options)
    assert isinstance(runtime, BlockingRuntime)
    runtime.load()
    return runtime


async def gentle(model: type) -> AsyncRuntime:
    runtime = create(model)
    assert isinstance(runtime, AsyncRuntime)
    await runtime.load()
    return runtime


def instance(runtime: Runtime) -> Any:
    model: Any = runtime
    return model._model._instance


class Running:
    """A call that runs in a thread of its own."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.ended = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self._run = run
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            self.result = self._run()
        except BaseException as error:  # noqa: BLE001  (a thread's error is the test's to look at)
            self.error = error
        finally:
            self.ended.set()

    def wait(self) -> None:
        assert self.ended.wait(LIMIT)


# Results


def test_the_python_runtime_is_found_by_its_name() -> None:
    assert runtimes.find("python") is PythonRuntime


def test_a_class_is_loaded_with_its_configuration_and_called() -> None:
    runtime = blocking(Greeter, config={"greeting": "Good day"})
    wire = CollectingWire()
    call = call_with(wire, {"name": "Ada", "image": None}, Segment(b"cat", "image/png", ("image",)))
    output = runtime.predict(call)
    assert read(output) == {"text": "Good day, Ada", "request": "request-1", "image": None}
    assert output is not None
    assert data_of(output.segments) == [b"cat"]
    assert wire.progressed == [{"fraction": 0.5}]
    assert wire.lines == [("info", "greeting Ada")]
    model = instance(runtime)
    runtime.unload()
    assert model.events == ["load on cpu", "unload"]


def test_describing_makes_no_instance() -> None:
    runtime = create(Greeter)
    schema = runtime.describe()
    assert schema.input["required"] == ["name"]
    assert schema.description == "Greets."
    assert instance(runtime) is None


def test_refusals_and_errors_end_their_call_as_what_they_are() -> None:
    runtime = blocking(Greeter)
    wire = CollectingWire()
    with pytest.raises(CallFailed, match="must be somebody") as refused:
        runtime.predict(call_with(wire, {"name": "nobody"}))
    assert (refused.value.category, refused.value.field) == ("bad_input", "name")
    with pytest.raises(CallFailed, match="at least 1 character") as violated:
        runtime.predict(call_with(wire, {"name": ""}))
    assert (violated.value.category, violated.value.field) == ("bad_input", "name")
    with pytest.raises(KeyError):
        runtime.predict(call_with(wire, {"name": "broken"}))


def test_a_generator_streams_and_is_closed() -> None:
    runtime = blocking(Counter)
    wire = CollectingWire()
    assert runtime.describe().streams
    assert runtime.predict(call_with(wire, {"to": 3}, streams=True)) is None
    assert wire.values == [0, 1, 2]
    assert instance(runtime).closed.is_set()


async def test_coroutines_run_beside_each_other_each_with_its_context() -> None:
    runtime = await gentle(Gentle)
    assert instance(runtime).loaded
    wire = CollectingWire()
    calls = [Call(n, b'{"text": "%d"}' % n, (), request_id=f"r{n}", streams=False, wire=wire) for n in range(5)]
    outputs = await asyncio.gather(*(runtime.predict(call) for call in calls))
    assert [read(output) for output in outputs] == [f"r{n} {n}" for n in range(5)]
    with pytest.raises(CallFailed, match="must be good"):
        await runtime.predict(call_with(wire, {"text": "bad"}))


async def test_an_async_generator_streams_and_is_closed_when_it_is_cancelled() -> None:
    runtime = await gentle(GentleStream)
    wire = CollectingWire()
    assert await runtime.predict(call_with(wire, {"to": 3}, streams=True)) is None
    assert wire.values == [0, 1, 2]
    instance(runtime).closed = False
    call = call_with(wire, {"to": 3}, streams=True, window=1)  # full after one chunk
    task = asyncio.create_task(runtime.predict(call))
    done, _ = await asyncio.wait([task], timeout=0)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wire.values == [0, 1, 2, 0]
    assert instance(runtime).closed


# Batches


def results(given: Any) -> list[Any]:
    return [read(one) if isinstance(one, Output) else one for one in given]


def test_a_batch_fails_only_the_calls_that_are_wrong() -> None:
    runtime = blocking(Adder)
    assert runtime.describe().batches
    wire = CollectingWire()
    inputs: list[Mapping[str, Any]] = [{"left": 1}, {"left": "x"}, {"left": -1}, {"left": 2, "right": 3}]
    first, second, third, fourth = results(runtime.predict_batch([call_with(wire, value) for value in inputs]))
    assert (first, fourth) == (11, 5)
    assert (second.category, second.field) == ("bad_input", "left")
    assert (third.category, third.field, third.message) == ("bad_input", "left", "too low")


def test_a_batch_of_nothing_but_violations_does_not_reach_the_model() -> None:
    runtime = blocking(Adder)
    (only,) = runtime.predict_batch([call_with(CollectingWire(), {})])
    assert isinstance(only, CallFailed)


def test_a_batch_of_another_length_is_the_models_fault() -> None:
    runtime = blocking(Adder)
    calls = [call_with(CollectingWire(), {"left": left}) for left in (99, 1)]
    with pytest.raises(CallFailed, match="must return 2 results, one for each call: 0") as caught:
        runtime.predict_batch(calls)
    assert caught.value.category == "internal"


async def test_a_batch_of_one_parameter_is_a_list_of_its_values() -> None:
    runtime = await gentle(Lengths)
    calls = [call_with(CollectingWire(), {"text": text}) for text in ("a", "bcd")]
    assert results(await runtime.predict_batch(calls)) == [1, 3]


class Halves:
    """Returns NaN for 0."""

    def predict(self, number: float) -> float:
        return number or math.nan

    def predict_batch(self, numbers: list[float]) -> list[float]:
        return [self.predict(number) for number in numbers]


class Counting:
    def predict(self) -> Iterator[float]:
        yield 1.0
        yield math.inf


def test_nan_fails_only_its_own_call_of_a_batch() -> None:
    given = [call_with(CollectingWire(), {"number": number}) for number in (1.5, 0, 2.5)]
    first, second, third = results(blocking(Halves).predict_batch(given))
    assert (first, third) == (1.5, 2.5)
    assert (second.category, "is NaN or infinite" in second.message) == ("internal", True)


def test_an_infinite_chunk_ends_its_stream() -> None:
    wire = CollectingWire()
    with pytest.raises(CallFailed, match="what it yielded is NaN or infinite"):
        blocking(Counting).predict(call_with(wire, {}))
    assert wire.values == [1.0]


# Cancelling


@pytest.fixture
def noticing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the exception hook of a replica: an exception may hit a callback of the garbage collector."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    resend_lost_exceptions()


@pytest.mark.usefixtures("noticing")
@pytest.mark.parametrize("how", ["computes", "logs"])
def test_plain_code_is_interrupted_once(how: str) -> None:
    runtime = blocking(Busy)
    call = call_with(CollectingWire(), {"how": how})
    running = Running(lambda: runtime.predict(call))
    assert instance(runtime).started.wait(LIMIT)
    call.cancel()
    running.wait()
    assert isinstance(running.error, Cancelled)
    assert instance(runtime).seen == ["cancelled", "cleaned"]


def test_a_model_may_check_whether_its_caller_has_gone() -> None:
    runtime = blocking(Busy)
    call = call_with(CollectingWire(), {"how": "asks"})
    call.cancelled = True  # before it begins
    running = Running(lambda: runtime.predict(call))
    running.wait()
    assert isinstance(running.error, Cancelled)
    assert not instance(runtime).started.is_set()


@pytest.mark.usefixtures("noticing")
def test_a_generator_is_interrupted_between_its_chunks() -> None:
    runtime = blocking(Steps)
    wire = CollectingWire()
    call = call_with(wire, {}, streams=True)
    running = Running(lambda: runtime.predict(call))
    assert instance(runtime).started.wait(LIMIT)
    call.cancel()
    running.wait()
    assert isinstance(running.error, Cancelled)
    assert instance(runtime).closed.is_set()
    assert wire.values == [1, 2, 3]


def test_a_reader_that_goes_while_it_is_slow_ends_the_stream() -> None:
    runtime = blocking(Counter)
    call = call_with(CollectingWire(), {"to": 5}, streams=True, window=1)
    running = Running(lambda: runtime.predict(call))
    call.cancel()
    running.wait()
    assert isinstance(running.error, Cancelled)


@pytest.mark.usefixtures("noticing")
def test_a_batch_is_interrupted_when_its_last_caller_has_gone() -> None:
    runtime = blocking(Busy)
    first, second = (call_with(CollectingWire(), {"how": "x"}) for _ in range(2))
    running = Running(lambda: runtime.predict_batch([first, second]))
    assert instance(runtime).started.wait(LIMIT)
    first.cancel()
    assert not running.ended.is_set()
    second.cancel()
    running.wait()
    assert isinstance(running.error, Cancelled)


# The manifest's options


def test_options_are_checked_without_touching_the_model(tmp_path: Path) -> None:
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(sys.executable)
    good: list[dict[str, Any]] = [
        {"class": "model:Model"},
        {"class": "a.b:C.D", "config": {"x": 1}, "interpreter": "venv"},
        {"class": "a:B", "interpreter": sys.executable},
    ]
    assert [list(PythonRuntime.check(options, tmp_path)) for options in good] == [[], [], []]
    assert PythonRuntime.interpreter({"interpreter": "venv"}, tmp_path) == venv / "python"
    assert PythonRuntime.interpreter({}, tmp_path) is None
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "class"),
        ({"class": "model.py"}, "class"),
        ({"class": "../model:Model"}, "class"),
        ({"class": "a:B", "interpreter": "away"}, "interpreter"),
        ({"class": "a:B", "interpreter": 3}, "interpreter"),
        ({"class": "a:B", "config": 3}, "config"),
        ({"class": "a:B", "klass": 3}, "klass"),
    ]
    for options, named in wrong:
        assert [name for name, _ in PythonRuntime.check(options, tmp_path)] == [named]


def test_a_module_is_found_in_the_manifests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "found_in_folder.py").write_text(
        "class Model:\n    def predict(self, n: int) -> int:\n        return n\n"
    )
    runtime = PythonRuntime.create(spec_of("found_in_folder:Model", tmp_path))
    assert runtime.describe().input["required"] == ["n"]


@pytest.mark.parametrize(
    ("source", "where", "words"),
    [
        ("", "Model", "has no class Model"),
        ("Model = 3", "Model", "is a int, not a class"),
        ("1 / 0", "Model", "cannot be imported: ZeroDivisionError"),
        ("class Model: ...", "Model", "it has no method predict"),
        ("import away_and_gone", "Model", "No module named 'away_and_gone'"),
    ],
)
def test_a_class_that_cannot_be_described_is_reported(
    source: str, where: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "broken_model", raising=False)
    (tmp_path / "broken_model.py").write_text(source)
    with pytest.raises(CallFailed) as caught:
        PythonRuntime.create(spec_of(f"broken_model:{where}", tmp_path))
    sys.modules.pop("broken_model", None)
    assert caught.value.category == "unavailable"
    assert words in caught.value.message


def test_a_configuration_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CallFailed, match=r"the table config does not fit .*'colour'") as caught:
        create(Greeter, config={"colour": 1})
    assert caught.value.category == "unavailable"
