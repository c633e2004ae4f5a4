"""A host and its replicas: the distribution of calls, and replicas that die, hang or grow."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import (
    AlreadyExists,
    DatabaseUnavailable,
    InvalidInput,
    ModelCrashed,
    ModelFailed,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PoisonInput,
)
from penstock.tenants.principal import TenantId
from tests.support.models import Models, Recorder, model_host, read
from tests.support.processes import alive
from tests.support.waiting import until

ECHO = """
class Model:
    def predict(self, text: str) -> str:
        return text
"""

# Waits for a file to appear, so that a test decides when a call ends.
GATE = """
import os, time

class Model:
    def predict(self, gate: str, note: str = "") -> int:
        while not os.path.exists(gate):
            time.sleep(0.002)
        return os.getpid()
"""

DANGEROUS = """
import ctypes, os, signal, time

class Model:
    def predict(self, how: str, once: str = "") -> str:
        if once and os.path.exists(once):
            return "survived"
        if once:
            open(once, "w").close()
        if how == "exit":
            os._exit(9)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "abort":
            os.abort()
        if how == "raise":
            raise RuntimeError("this is what went wrong")
        if how == "hang":
            time.sleep(60)
        if how == "grow":
            self.kept = bytearray(400 * 2**20)
            time.sleep(60)
        return how
"""


async def test_a_model_returns_results_and_its_schema_guards_it(models: Models) -> None:
    """The schema comes from the class, and a violation names the field before a replica is even started."""
    model = await models.serve("echo", ECHO)
    with pytest.raises(InvalidInput, match="text: "):
        models.begin(model, {"text": 5})
    assert not model.replicas
    assert await models.call(model, {"text": "hello"}) == "hello"


async def test_an_exception_is_its_callers_alone(models: Models) -> None:
    """The replica continues, and the log has the traceback."""
    model = await models.serve("risky", DANGEROUS)
    with pytest.raises(ModelFailed, match="RuntimeError: this is what went wrong"):
        await models.call(model, {"how": "raise"}, request_id="r-77")
    assert await models.call(model, {"how": "fine"}) == "fine"
    assert model.restarts == 0
    assert any("Traceback" in line.message for line in models.lines(model, request_id="r-77", level="warning"))


@pytest.mark.parametrize(("how", "said"), [("exit", "exit status 9"), ("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
async def test_a_caller_whose_replica_dies_gets_an_error_at_once(models: Models, how: str, said: str) -> None:
    """When the manifest forbids retries, the caller gets a clear error within a second, and the model continues."""
    model = await models.serve("risky", DANGEROUS, retry=False)
    await models.call(model, {"how": "fine"})
    async with asyncio.timeout(5):
        with pytest.raises(ModelCrashed, match=said):
            await models.call(model, {"how": how})
    assert await models.call(model, {"how": "fine"}) == "fine"


async def test_a_call_whose_replica_dies_runs_in_another_one(models: Models, tmp_path: Path) -> None:
    """If the manifest allows a retry, the caller does not notice."""
    model = await models.serve("risky", DANGEROUS)
    assert await models.call(model, {"how": "exit", "once": str(tmp_path / "died")}) == "survived"


async def test_calls_that_wait_are_not_affected_by_a_crash(models: Models, tmp_path: Path) -> None:
    """Only the running call is affected."""
    model = await models.serve("risky", DANGEROUS, retry=False)
    await models.call(model, {"how": "fine"})
    bad = models.begin(model, {"how": "exit"})
    others = [models.begin(model, {"how": f"fine {number}"}) for number in range(20)]
    with pytest.raises(ModelCrashed):
        await bad.done
    assert [read(await call.done) for call in others] == [f"fine {number}" for number in range(20)]


async def test_an_input_that_kills_replicas_is_refused_as_poison(models: Models) -> None:
    """After two deaths the input is not tried again; other inputs are."""
    model = await models.serve("risky", DANGEROUS)
    with pytest.raises(ModelCrashed):
        await models.call(model, {"how": "exit"})
    with pytest.raises(PoisonInput):
        models.begin(model, {"how": "exit"})
    assert await models.call(model, {"how": "fine"}) == "fine"


async def test_a_call_that_hangs_is_ended_and_its_replica_replaced(models: Models) -> None:
    """The caller gets an error at the limit; a call that cannot be stopped costs its replica a second later."""
    model = await models.serve("risky", DANGEROUS, timeout=0.3)
    await models.call(model, {"how": "fine"})
    before = model.replicas[0]
    async with asyncio.timeout(5):
        with pytest.raises(ModelTimeout, match=r"longer than 0\.3 s"):
            await models.call(model, {"how": "hang"})
    assert await models.call(model, {"how": "fine"}) == "fine"
    assert model.replicas[0] is not before


async def test_a_call_that_can_be_stopped_costs_no_replica(models: Models) -> None:
    """Python code is interrupted where it stands; the loaded model stays."""
    model = await models.serve(
        "looping",
        """
        import time

        class Model:
            def predict(self, seconds: float) -> str:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(0.001)
                return "done"
        """,
        timeout=0.2,
    )
    assert await models.call(model, {"seconds": 0.0}) == "done"
    replica = model.replicas[0]
    with pytest.raises(ModelTimeout):
        await models.call(model, {"seconds": 30.0})
    assert await models.call(model, {"seconds": 0.0}) == "done"
    assert model.replicas == [replica]


async def test_a_replica_that_passes_its_memory_limit_is_killed(models: Models) -> None:
    """The caller gets the reason. The call is not retried, because it would grow again."""
    model = await models.serve("risky", DANGEROUS, memory_limit="200MiB")
    with pytest.raises(ModelCrashed, match="its limit is 200 MiB"):
        await models.call(model, {"how": "grow"})
    assert await models.call(model, {"how": "fine"}) == "fine"


async def test_the_queue_is_bounded(models: Models, tmp_path: Path) -> None:
    """A full queue refuses a call at once, with an estimate of when there will be space."""
    gate = tmp_path / "gate"
    model = await models.serve("gated", GATE, queue=2)
    running = [models.begin(model, {"gate": str(gate)})]
    await until(lambda: model.in_flight == 1, "the first call runs")
    running += [models.begin(model, {"gate": str(gate)}) for _ in range(2)]
    with pytest.raises(Overloaded) as caught:
        models.begin(model, {"gate": str(gate)})
    assert caught.value.retry_after is not None
    gate.touch()
    assert len({read(await call.done) for call in running}) == 1


async def test_tenants_take_turns_in_a_full_queue(models: Models, tmp_path: Path) -> None:
    """Although one tenant fills the queue, the first call of another may wait, and is the next to run."""
    gate = tmp_path / "gate"
    model = await models.serve("gated", GATE, queue=2)
    running = [models.begin(model, {"gate": str(gate)})]
    await until(lambda: model.in_flight == 1, "the first call runs")
    running += [models.begin(model, {"gate": str(gate)}) for _ in range(2)]
    newcomer = models.begin(model, {"gate": str(gate)}, tenant=TenantId(2))
    with pytest.raises(Overloaded):
        models.begin(model, {"gate": str(gate)}, tenant=TenantId(2))
    ended: list[int] = []

    def note(number: int) -> Callable[[object], None]:
        return lambda _: ended.append(number)

    for number, call in enumerate([*running, newcomer]):
        call.done.add_done_callback(note(number))
    gate.touch()
    await asyncio.gather(*(call.done for call in (*running, newcomer)))
    assert ended == [0, 1, 3, 2]


async def test_a_caller_that_leaves_frees_its_place(models: Models, tmp_path: Path) -> None:
    """A place in the queue is freed at once; a running call is cancelled, and the next one starts."""
    gate = tmp_path / "gate"
    model = await models.serve("gated", GATE, queue=1)
    running = models.begin(model, {"gate": str(gate)})
    await until(lambda: model.in_flight == 1, "the first call runs")
    waiting = models.begin(model, {"gate": str(gate)})
    waiting.close()
    assert model.waiting == 0
    other = tmp_path / "other"
    other.touch()
    next_one = models.begin(model, {"gate": str(other)})
    running.close()
    assert isinstance(read(await next_one.done), int)
    assert model.restarts == 0


async def test_a_caller_that_is_cancelled_while_it_awaits_its_result_frees_its_place(
    models: Models, tmp_path: Path
) -> None:
    """Cancelling the task cancels the future that it awaits, before the caller can close its call."""
    model = await models.serve("gated", GATE, queue=1)

    async def use() -> None:
        call = models.begin(model, {"gate": str(tmp_path / "never")})
        try:
            await call.done
        finally:
            call.close()

    running = asyncio.create_task(use())
    await until(lambda: model.in_flight == 1, "the first call runs")
    waiting = asyncio.create_task(use())
    await until(lambda: model.waiting == 1, "the second call waits")
    for task in (waiting, running):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert model.waiting == 0
    other = tmp_path / "other"
    other.touch()
    async with asyncio.timeout(20):
        assert isinstance(await models.call(model, {"gate": str(other)}), int)
    assert model.restarts == 0


async def test_the_replica_with_the_fewest_calls_gets_the_next(models: Models, tmp_path: Path) -> None:
    """Four calls on two replicas with two places each: two and two."""
    gate = tmp_path / "gate"
    model = await models.serve("gated", GATE, replicas=2, concurrency=2, eager=True)
    await until(lambda: [replica.state for replica in model.replicas] == ["ready", "ready"], "both are loaded")
    calls = [models.begin(model, {"gate": str(gate), "note": str(number)}) for number in range(4)]
    assert sorted(replica.load for replica in model.replicas) == [2, 2]
    gate.touch()
    pids = [read(await call.done) for call in calls]
    assert sorted(map(pids.count, set(pids))) == [2, 2]


async def test_calls_that_wait_run_as_a_batch(models: Models) -> None:
    """Calls that wait while a batch runs become the next one. Each gets its own result, or its own error."""
    model = await models.serve(
        "doubling",
        """
        import time
        from penstock import BadInput

        class Model:
            def predict(self, number: int) -> dict:
                return self.predict_batch([number])[0]

            def predict_batch(self, numbers: list[int]) -> list[dict]:
                time.sleep(0.05)
                return [
                    BadInput("not 13", field="number") if n == 13 else {"twice": 2 * n, "of": len(numbers)}
                    for n in numbers
                ]
        """,
        batching={"max_size": 8},
    )
    await models.call(model, {"number": 1})
    calls = [models.begin(model, {"number": number}) for number in range(17)]
    results = await asyncio.gather(*(call.done for call in calls), return_exceptions=True)
    refused = results.pop(13)
    assert isinstance(refused, InvalidInput)
    assert refused.problems[0].field == "number"
    outputs: list[Any] = [read(result) for result in results if not isinstance(result, BaseException)]
    assert [output["twice"] for output in outputs] == [2 * n for n in range(17) if n != 13]
    assert [output["of"] for output in outputs][:9] == [1, *[8] * 8]  # a single call does not wait for others
    assert model.metrics.counts().batches == 2


async def test_a_batch_that_is_not_full_waits_a_moment(models: Models) -> None:
    """While the replica is busy, calls that arrive within ``max_wait_ms`` are sent together."""
    model = await models.serve(
        "counting",
        """
        class Model:
            def predict(self, number: int) -> int:
                return 1

            def predict_batch(self, numbers: list[int]) -> list[int]:
                return [len(numbers)] * len(numbers)
        """,
        batching={"max_size": 4, "max_wait_ms": 2000},
    )
    await models.call(model, {"number": 0})
    first = models.begin(model, {"number": 1})
    others = [models.begin(model, {"number": number}) for number in range(4)]
    assert read(await first.done) == 1
    assert [read(await call.done) for call in others] == [4, 4, 4, 4]


async def test_chunks_progress_and_lines_reach_the_listener(models: Models) -> None:
    """They arrive in order, and lines are marked with the call."""
    model = await models.serve(
        "talking",
        """
        from collections.abc import Iterator
        from penstock import Context

        class Model:
            def predict(self, n: int, context: Context) -> Iterator[int]:
                for number in range(n):
                    print("at", number)
                    context.progress(number / n)
                    yield number
        """,
    )
    assert model.schema is not None
    assert model.schema.streams
    recorder = Recorder()
    call = models.begin(model, {"n": 3}, streams=True, listener=recorder, request_id="mine")
    await call.done
    assert recorder.chunks == [0, 1, 2]
    assert recorder.progressed == [{"fraction": 0.0}, {"fraction": 1 / 3}, {"fraction": 2 / 3}]
    assert recorder.lines == ["at 0", "at 1", "at 2"]
    assert [line.message for line in models.lines(model, request_id="mine")] == recorder.lines
    assert await models.call(model, {"n": 3}) == [0, 1, 2]


async def test_an_idle_model_is_unloaded_and_loaded_again(models: Models) -> None:
    """The next call loads the model again."""
    model = await models.serve("echo", ECHO, unload_after=0.3)
    assert await models.call(model, {"text": "a"}) == "a"
    pid = model.replicas[0].pid
    await until(lambda: not model.replicas, "unloaded")
    assert pid is not None
    assert not alive(pid)
    assert await models.call(model, {"text": "b"}) == "b"


async def test_models_of_one_group_are_never_loaded_together(models: Models) -> None:
    """Queued work decides which model is loaded next, and every call gets its result."""
    one = await models.serve("one", ECHO, exclusive="gpu")
    two = await models.serve("two", ECHO, exclusive="gpu")
    together = 0

    async def watch() -> None:
        nonlocal together
        while True:
            together = max(together, len(one.replicas) * len(two.replicas))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    calls = [models.begin((one, two)[number % 2], {"text": str(number)}) for number in range(40)]
    assert [read(await call.done) for call in calls] == [str(number) for number in range(40)]
    watching.cancel()
    assert together == 0
    assert one.restarts == two.restarts == 0


async def test_a_reload_drops_no_call(models: Models) -> None:
    """Calls continue while the new replicas load; then new calls use those, and calls on the old ones are finished."""
    code = """
    import os, time

    class Model:
        def predict(self, text: str) -> str:
            time.sleep(0.005)
            return "{}"
    """
    await models.serve("changing", code.format("old"))
    seen: list[str] = []
    over = asyncio.Event()

    async def caller() -> None:
        while not over.is_set():
            seen.append(await models.call(models.host.find("changing"), {"text": "?"}))

    callers = [asyncio.create_task(caller()) for _ in range(4)]
    await until(lambda: len(seen) > 20, "calls continue")
    fresh = await models.host.add(models.python("changing", code.format("new")), replace=True)
    await until(lambda: seen[-4:] == ["new"] * 4, "the new version returns results")
    over.set()
    await asyncio.gather(*callers)
    assert set(seen) == {"old", "new"}
    assert seen.index("new") > 20
    assert models.host.find("changing") is fresh


async def test_a_stream_on_the_old_version_is_finished(models: Models, tmp_path: Path) -> None:
    """The new version runs calls meanwhile."""
    code = """
    import os, time
    from collections.abc import Iterator

    class Model:
        def predict(self, gate: str) -> Iterator[str]:
            yield "{}"
            while not os.path.exists(gate):
                time.sleep(0.002)
            yield "end"
    """
    old = await models.serve("story", code.format("old"))
    recorder = Recorder()
    call = models.begin(old, {"gate": str(tmp_path / "gate")}, streams=True, listener=recorder)
    await recorder.chunk_came.wait()
    new = await models.host.add(models.python("story", code.format("new")), replace=True)
    assert await models.call(new, {"gate": "/"}) == ["new", "end"]
    (tmp_path / "gate").touch()
    await call.done
    assert recorder.chunks == ["old", "end"]
    await until(lambda: not old.replicas, "the old version has ended")


async def test_a_new_form_that_cannot_be_loaded_changes_nothing(models: Models) -> None:
    """The old one stays in use, and the request gets the reason."""
    old = await models.serve("echo", ECHO)
    await models.call(old, {"text": "x"})
    broken = ECHO + "    def load(self):\n        raise OSError('no weights here')\n"
    with pytest.raises(ModelUnavailable, match="no weights here"):
        await models.host.add(models.python("echo", broken), replace=True)
    with pytest.raises(ModelUnavailable, match="SyntaxError"):
        await models.host.add(models.python("echo", "class Model"), replace=True)
    assert models.host.find("echo") is old
    assert await models.call(old, {"text": "still"}) == "still"


async def test_a_model_is_published_once_that_is_confirmed(models: Models) -> None:
    """If the confirmation fails, everything stays as it was."""
    old = await models.serve("echo", ECHO)

    async def refused() -> None:
        assert models.host.find("echo") is old
        raise DatabaseUnavailable

    with pytest.raises(DatabaseUnavailable):
        await models.host.add(models.python("echo", ECHO, version="2"), confirm=refused)
    with pytest.raises(DatabaseUnavailable):
        await models.host.add(models.python("echo", ECHO), replace=True, confirm=refused)
    assert models.host.deployments() == [old]
    assert await models.call(old, {"text": "still"}) == "still"


async def test_a_removal_waits_for_the_change_before_it(models: Models, tmp_path: Path) -> None:
    """Neither version is left, and a version that is added afterwards stays."""
    await models.call(await models.serve("echo", ECHO), {"text": "x"})
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = ECHO + f"    def load(self):\n        open({str(gate)!r}).read()\n"
    replacing = asyncio.create_task(models.host.add(models.python("echo", slow), replace=True))
    writer = await asyncio.to_thread(os.open, gate, os.O_WRONLY)  # it is loading
    removing = asyncio.create_task(models.host.remove("echo"))
    adding = asyncio.create_task(models.host.add(models.python("echo", ECHO)))
    os.close(writer)
    replaced = await replacing
    await removing
    added = await adding
    assert models.host.deployments() == [added]
    assert await models.call(added, {"text": "new"}) == "new"
    await until(lambda: not replaced.replicas, "the replaced one has ended")


async def test_a_start_that_fails_in_an_unforeseen_way_leaves_no_caller_waiting(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (OSError(24, "Too many open files"), RuntimeError("unforeseen")):
        model = await models.serve("echo", ECHO, version=type(error).__name__)

        async def fails(_group: int, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(models.host.guardian, "watch", fails)
            with pytest.raises(ModelUnavailable, match=r"Too many open files|could not be started"):
                await models.call(model, {"text": "x"})
        await until(lambda model=model: not model.replicas, "none is left")  # type: ignore[misc]


async def test_versions_live_side_by_side(models: Models) -> None:
    """Calls that name no version use the one added last; when it is removed, they use the other one again."""
    await models.serve("echo", ECHO.replace("return text", "return 'one'"))
    await models.serve("echo", ECHO.replace("return text", "return 'two'"), version="2")
    assert await models.call(models.host.find("echo"), {"text": ""}) == "two"
    assert await models.call(models.host.find("echo", "1"), {"text": ""}) == "one"
    with pytest.raises(AlreadyExists):
        await models.serve("echo", ECHO)
    await models.host.remove("echo", "2")
    assert await models.call(models.host.find("echo"), {"text": ""}) == "one"
    await models.host.remove("echo")
    with pytest.raises(NotFound):
        models.host.find("echo")


async def test_a_removed_model_finishes_what_it_runs(models: Models, tmp_path: Path) -> None:
    """Running and waiting calls of a removed model finish."""
    gate = tmp_path / "gate"
    model = await models.serve("gated", GATE)
    calls = [models.begin(model, {"gate": str(gate)}) for _ in range(3)]
    await until(lambda: model.in_flight == 1, "the first call runs")
    await models.host.remove("gated")
    gate.touch()
    assert len([await call.done for call in calls]) == 3
    await until(lambda: not model.replicas, "its replicas have ended")


async def test_a_model_takes_no_calls_from_the_moment_of_its_removal(models: Models) -> None:
    """A caller may have found it before. Another version does not serve the call: it may do something else."""
    await models.serve("echo", ECHO)
    second = await models.serve("echo", ECHO, version="2")
    await models.host.remove("echo", "2")
    with pytest.raises(NotFound, match="no version '2'"):
        models.begin(second, {"text": "x"})


async def test_a_call_of_a_model_that_is_being_replaced_goes_to_the_new_one(models: Models) -> None:
    old = await models.serve("echo", ECHO)
    await models.call(old, {"text": "x"})
    new = await models.host.add(models.python("echo", ECHO.replace("return text", "return 'new'")), replace=True)
    assert await models.call(old, {"text": "x"}) == "new"
    assert models.host.deployments() == [new]


async def test_a_model_that_cannot_load_reports_why(models: Models) -> None:
    """Every caller gets the reason at once, and loading is tried again later."""
    broken = ECHO + "    def load(self):\n        raise OSError('no weights here')\n"
    model = await models.serve("broken", broken)
    with pytest.raises(ModelUnavailable, match="no weights here"):
        await models.call(model, {"text": "x"})
    with pytest.raises(ModelUnavailable, match="no weights here"):
        await models.call(model, {"text": "x"})


@pytest.mark.parametrize("stated", ["sk-canary-93", "${CANARY}"])
async def test_secrets_of_a_manifest_are_in_no_message_or_log(
    models: Models, monkeypatch: pytest.MonkeyPatch, stated: str
) -> None:
    """Neither an exception's text nor the log shows a secret, whether the manifest contains it or refers to it."""
    monkeypatch.setenv("CANARY", "sk-canary-93")
    model = await models.serve(
        "leaking",
        """
        import os

        class Model:
            def predict(self) -> str:
                print("the key is", os.environ["SERVICE_API_KEY"])
                raise ValueError("cannot use " + os.environ["SERVICE_API_KEY"])
        """,
        environment={"SERVICE_API_KEY": stated},
    )
    with pytest.raises(ModelFailed) as caught:
        await models.call(model, {})
    assert "sk-canary-93" not in caught.value.message
    text = "\n".join(line.message for line in models.lines(model))
    assert "the key is ******" in text
    assert "sk-canary-93" not in text


async def test_a_replica_sees_none_of_our_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of databases and tokens are not passed to models."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://canary")
    monkeypatch.setenv("FAVOURITE_COLOUR", "blue")
    async with model_host(tmp_path, private=["DATABASE_URL"]) as models:
        model = await models.serve(
            "curious",
            """
            import os

            class Model:
                def predict(self) -> dict[str, str]:
                    return dict(os.environ)
            """,
            environment={"MOOD": "${FAVOURITE_COLOUR}ish"},
        )
        seen = await models.call(model, {})
    assert "DATABASE_URL" not in seen
    assert seen["FAVOURITE_COLOUR"] == "blue"
    assert seen["MOOD"] == "blueish"
    assert seen["CUDA_VISIBLE_DEVICES"] == ""


async def test_a_replica_killed_from_outside_is_replaced(models: Models) -> None:
    """The test kills it as the system does when memory runs out."""
    model = await models.serve("echo", ECHO)
    await models.call(model, {"text": "x"})
    pid = model.replicas[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: model.restarts == 1, "the replica is replaced")
    assert await models.call(model, {"text": "again"}) == "again"


async def test_the_shares_of_a_device_are_not_exceeded_by_two_that_come_at_once(models: Models) -> None:
    added = await asyncio.gather(
        *(models.host.add(models.python(f"m{number}", ECHO, device="cpu", device_share=0.7)) for number in range(2)),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in added) == ["Deployment", "InvalidInput"]
    assert len(models.host.deployments()) == 1


async def test_the_shares_of_a_device_are_not_exceeded(models: Models) -> None:
    """Two replicas of 0.3 and one of 0.5 do not fit on one GPU; the members of a group count once."""
    await models.host.add(models.python("small", ECHO, device="cuda:0", device_share=0.3, replicas=2), wait=False)
    with pytest.raises(InvalidInput, match=r"cuda:0 has 0\.40 left"):
        await models.host.add(models.python("big", ECHO, device="cuda:0", device_share=0.5), wait=False)
    for name in ("a", "b"):
        one = models.python(name, ECHO, device="cuda:0", device_share=0.4, exclusive="big ones")
        await models.host.add(one, wait=False)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_callers_that_leave_at_once_cost_no_place(models: Models, kind: str) -> None:
    """A cancel has its own socket and may overtake its call; nevertheless each call must end."""
    model = await models.serve(
        "slow",
        f"""
        import asyncio, time

        class Model:
            {kind} predict(self, seconds: float) -> str:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    {"await asyncio.sleep(0.001)" if kind == "async def" else "time.sleep(0.001)"}
                return "done"
        """,
    )
    assert await models.call(model, {"seconds": 0.0}) == "done"
    for number in range(100):
        call = models.begin(model, {"seconds": 60.0})
        for _ in range(number % 5):
            await asyncio.sleep(0)
        call.close()
        await until(lambda: not model.in_flight, "its place is free", seconds=30)
    assert await models.call(model, {"seconds": 0.0}) == "done"
    assert model.restarts == 0


async def test_a_replica_that_does_not_respond_is_replaced(tmp_path: Path) -> None:
    """It is replaced even if it has no calls, so that the next call finds one that works; one that responds is kept."""
    async with model_host(tmp_path, ping_interval=0.1, ping_timeout=0.5) as models:
        model = await models.serve("echo", ECHO)
        healthy = await models.serve("healthy", ECHO)
        assert await models.call(model, {"text": "x"}) == "x"
        assert await models.call(healthy, {"text": "x"}) == "x"
        pid = model.replicas[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: not alive(pid), "it is killed", seconds=30)
        assert await models.call(model, {"text": "again"}) == "again"
        assert (model.restarts, healthy.restarts) == (1, 0)


async def test_callers_of_a_broken_model_do_not_keep_it_importing(models: Models) -> None:
    """They get the reason at once; loading is tried again after a growing delay."""
    model = await models.host.add(models.python("broken", "class Model"), wait=False)
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="SyntaxError"):
            await model.describe()
    starts = [line for line in models.lines(model) if "cannot start" in line.message]
    assert len(starts) < 3


async def test_a_variable_that_is_missing_is_named(models: Models) -> None:
    """The variable's name is not a secret; its value would be."""
    options = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    with pytest.raises(ModelUnavailable, match="the variable NO_SUCH_KEY is not set"):
        await models.host.add(models.model("chat", "openai", options))


async def test_full_batches_are_sent_before_their_replica_is_free(models: Models, tmp_path: Path) -> None:
    """The next batch is there when the one before ends; one that is not full waits for more calls."""
    model = await models.serve("batches", BATCHES_AT_A_GATE, batching={"max_size": 2})
    gates = [tmp_path / str(number) for number in range(4)]
    gates[3].touch()
    assert await models.call(model, {"gate": str(gates[3])}) == 1
    first = models.begin(model, {"gate": str(gates[0])})
    second = [models.begin(model, {"gate": str(gates[1])}) for _ in range(2)]
    third = models.begin(model, {"gate": str(gates[2])})
    replica = model.replicas[0]
    assert [len(group) for group in replica.in_flight.ahead] == [2]
    assert model.waiting == 1
    gates[0].touch()
    assert read(await first.done) == 1
    second[0].close()
    gates[1].touch()
    assert read(await second[1].done) in {1, 2}
    gates[2].touch()
    assert read(await third.done) == 1


BATCHES_AT_A_GATE = """
import os, time

class Model:
    def predict(self, gate: str) -> int:
        return self.predict_batch([gate])[0]

    def predict_batch(self, gates: list[str]) -> list[int]:
        while not all(os.path.exists(gate) for gate in gates):
            time.sleep(0.002)
        return [len(gates)] * len(gates)
"""


async def test_a_quick_result_does_not_wait_for_a_long_call_behind_it(models: Models, tmp_path: Path) -> None:
    """Results of quick calls travel together, but not when the next call takes long."""
    model = await models.serve("gate", GATE)
    opened, gate = tmp_path / "opened", tmp_path / "gate"
    opened.touch()
    for _ in range(100):  # so that calls are sent ahead
        await models.call(model, {"gate": str(opened)})
    quick = models.begin(model, {"gate": str(opened)})
    long = models.begin(model, {"gate": str(gate)})
    assert model.replicas[0].in_flight.ahead
    await quick.done
    gate.touch()
    await long.done
