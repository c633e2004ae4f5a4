"""The process that runs flow code, as the runner uses it."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from penstock.flows.kernel.records import Completed
from penstock.flows.process.errors import HistoryTooLarge, NotResident, NoTurn, ProgramLost, UnknownFlow
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.process.program import Limits
from penstock.flows.program import frames
from penstock.flows.program.folders import FlowFolders
from tests.flows.conftest import Start, Write
from tests.support.flow_stores import StoredRun, complete_all, result
from tests.support.waiting import until

GREETING = """
import asyncio
from penstock.flows import flow, run

@flow(name="greeting", version="1", examples=[{"name": "Ada"}])
async def greeting(name: str) -> str:
    "Greets."
    text = await run.call("greeter", {"name": name})
    later = await run.side_effect(asyncio.sleep, 0, "later")
    return f"{text}, {later}"
"""
QUICK = Limits(warn_after=timedelta(seconds=0.1), kill_after=timedelta(seconds=1))  # a stack is read in between


async def test_a_run_begins_and_gets_its_mail(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    assert run.keys() == ["greeter#1"]
    complete_all(run, lambda _step: "hello")
    while run.outcome is None:
        run.commit(await process.deliver(run.run_id, run.unread))
    assert isinstance(run.outcome, Completed)
    assert bytes(run.outcome.result) == b'"hello, later"'
    assert run.run_id not in process.resident


async def test_flows_are_described(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    (described,) = process.flows.values()
    assert (described.name, described.version, described.description) == ("greeting", "1", "Greets.")
    assert described.input["required"] == ["name"]
    assert described.output == {"type": "string"}
    assert described.examples == [{"name": "Ada"}]


async def test_an_evicted_run_begins_again_from_its_history(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    process.evict(run.run_id)
    complete_all(run, lambda _step: "hello")
    with pytest.raises(NotResident):
        await process.deliver(run.run_id, run.unread)
    run.commit(await process.begin(run.history(), run.unread))
    assert run.keys() == ["greeter#1", "sleep#1"]


async def test_a_run_that_begins_again_before_its_mail_comes_makes_an_empty_turn(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    process.evict(run.run_id)
    again = await process.begin(run.history())
    assert (again.empty, again.number) == (True, 1)
    complete_all(run, lambda _step: "hello")
    turn = await process.deliver(run.run_id, run.unread)
    assert (turn.empty, turn.number) == (False, 1)  # its place in the history


async def test_an_unknown_flow_is_refused(start: Start) -> None:
    process = await start()
    with pytest.raises(UnknownFlow, match="no file has flow missing version 1"):
        await process.begin(StoredRun("missing", {}).history())


async def test_many_runs_share_the_process(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    found = await asyncio.gather(*(result(process, "greeting", {"name": f"{number}"}) for number in range(200)))
    assert found == [f"{{'name': '{number}'}}, later" for number in range(200)]
    assert not process.resident


async def test_flow_code_sees_no_settings_and_sets_have_one_order(start: Start, write: Write) -> None:
    write(
        "environment.py",
        """
import os
from penstock.flows import flow, run

@flow(name="environment", version="1")
async def environment() -> list[str | None]:
    return [os.environ.get(name) for name in ("DATABASE_URL", "MY_TOKEN", "PYTHONHASHSEED")]
""",
    )
    assert await result(await start(), "environment") == [None, "for the flows", "0"]


async def test_a_slow_side_effect_holds_up_no_other_run(start: Start, write: Write) -> None:
    write(
        "slow.py",
        """
import asyncio
from penstock.flows import flow, run

@flow(name="slow", version="1")
async def slow(wait: bool) -> str:
    async def forever() -> None:
        await asyncio.Event().wait()
    if wait:
        await run.side_effect(forever)
    return "quick"
""",
    )
    process = await start(limits=QUICK)
    waits = StoredRun("slow", {"wait": True})
    waiting = asyncio.ensure_future(process.begin(waits.history()))
    assert await result(process, "slow", {"wait": False}) == "quick"
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not process.resident


async def test_a_side_effect_that_takes_too_long_fails(start: Start, write: Write) -> None:
    write(
        "late.py",
        """
import asyncio
from penstock.flows import flow, run

@flow(name="late", version="1")
async def late() -> str:
    await run.side_effect(asyncio.sleep, 3600, timeout=0.01)
    return "in time"
""",
    )
    assert await result(await start(), "late") == "step sleep#1: it took too long"


# The end of the process


async def test_a_killed_process_is_one_clear_error_and_starts_again(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    (program,) = set(process.resident.values())
    assert program.pid is not None
    os.kill(program.pid, signal.SIGKILL)
    await program.ended.wait()
    complete_all(run, lambda _step: "hello")
    with pytest.raises((NotResident, ProgramLost)):
        await process.deliver(run.run_id, run.unread)
    run.commit(await process.begin(run.history(), run.unread))
    assert run.keys() == ["greeter#1", "sleep#1"]


async def test_the_run_on_the_cpu_when_the_process_ends_is_named(start: Start, write: Write) -> None:
    write(
        "dies.py",
        """
import os
from penstock.flows import flow, run

@flow(name="dies", version="1")
async def dies() -> None:
    os._exit(3)
""",
    )
    write("greeting.py", GREETING)
    process = await start()
    dying = asyncio.ensure_future(process.begin(StoredRun("dies", {}).history()))
    beside = asyncio.ensure_future(process.begin(StoredRun("greeting", {"name": "Ada"}).history()))
    with pytest.raises(ProgramLost, match="the process of the flows ended: exit status 3") as lost:
        await dying
    assert lost.value.on_cpu
    with pytest.raises(ProgramLost) as lost:
        await beside
    assert not lost.value.on_cpu
    assert await result(process, "greeting", {"name": "Ada"}) == "{'name': 'Ada'}, later"


@pytest.mark.parametrize("how", ["while True: pass", "await run.side_effect(blocking)"])
async def test_a_flow_that_blocks_is_killed_and_its_stack_named(
    start: Start, write: Write, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        "blocks.py",
        f"""
import time
from penstock.flows import flow, run

def blocking() -> None:
    time.sleep(3600)

@flow(name="blocks", version="1")
async def blocks() -> None:
    {how}
""",
    )
    process = await start(limits=QUICK)
    with pytest.raises(ProgramLost, match="the flow blocked its process for 1 s") as lost:
        await process.begin(StoredRun("blocks", {}, run_id=UUID(int=5)).history())
    assert lost.value.on_cpu
    assert "blocks.py" in lost.value.stack
    *_, blocks = [record.msg for record in caplog.records if "flow_blocks" in str(record.msg)]
    assert str(UUID(int=5)) in str(blocks)
    assert "blocks.py" in str(blocks)


async def test_the_process_ends_with_the_service(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    await process.begin(run.history())
    (program,) = set(process.resident.values())
    await process.stop()
    assert program.ended.is_set()
    assert program.how_it_ended == "exit status 0"
    await process.stop()


async def test_a_process_that_was_never_started_can_be_stopped(tmp_path: Any) -> None:
    await FlowProcess(FlowFolders.of(tmp_path), ours={}, private=frozenset()).stop()


async def test_a_history_beyond_the_size_of_a_frame_is_refused(
    start: Start, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("greeting.py", GREETING)
    process = await start()
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 10_000)
    with pytest.raises(HistoryTooLarge, match="at most 10000 are allowed"):
        await process.begin(StoredRun("greeting", {"name": "x" * 10_000}).history())
    assert await result(process, "greeting", {"name": "Ada"}) == "{'name': 'Ada'}, later"


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2{}", b'\0\0\0\3"x"'])
async def test_bytes_that_are_not_a_frame_end_the_process(start: Start, write: Write, data: bytes) -> None:
    """Flow code could write to the socket; that must not stop the service."""
    write(
        "writes.py",
        f"""
import os, socket, stat
from penstock.flows import flow, run

@flow(name="writes", version="1")
async def writes() -> None:
    for descriptor in range(3, 100):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, {data!r})
        except OSError:
            pass
""",
    )
    process = await start()
    with pytest.raises(ProgramLost):
        await process.begin(StoredRun("writes", {}).history())


# Changes of files


async def test_changed_files_start_a_new_process_and_resident_runs_stay_in_theirs(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start(watched=True)
    old = StoredRun("greeting", {"name": "Ada"})
    old.commit(await process.begin(old.history()))
    before = process.resident[old.run_id]
    changed = asyncio.Event()
    process.on_change(changed.set)
    write("greeting.py", GREETING.replace('"greeter"', '"new greeter"'))
    await asyncio.wait_for(changed.wait(), 30)
    new = StoredRun("greeting", {"name": "Ada"})
    new.commit(await process.begin(new.history()))
    assert new.keys() == ["new greeter#1"]
    complete_all(old, lambda _step: "hello")
    while old.outcome is None:
        old.commit(await process.deliver(old.run_id, old.unread))
    assert isinstance(old.outcome, Completed)
    await asyncio.wait_for(before.ended.wait(), 30)
    assert process.resident.keys() == {new.run_id}


async def test_a_file_that_breaks_affects_no_other_and_comes_back(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    write("other.py", GREETING.replace('"greeting"', '"other"'))
    process = await start()
    write("other.py", "def broken(:")
    process.reload()
    await until(lambda: bool(process.problems), "the file has a problem")
    assert process.problems == {"other.py": "line 1: invalid syntax"}
    assert await result(process, "greeting", {"name": "Ada"}) == "{'name': 'Ada'}, later"
    assert await result(process, "other", {"name": "Ada"}) == "{'name': 'Ada'}, later", "it keeps its code"
    assert process.flows.keys() == {("greeting", "1"), ("other", "1")}
    write("other.py", GREETING.replace('"greeting"', '"other"').replace("later", "fixed"))
    process.reload()
    await until(lambda: not process.problems, "the file is loaded")
    assert await result(process, "other", {"name": "Ada"}) == "{'name': 'Ada'}, fixed"


async def test_a_file_that_is_removed_has_no_flows(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    (process.folders.roots[0] / "greeting.py").unlink()
    process.reload()
    await until(lambda: not process.flows, "the flow has gone")
    with pytest.raises(UnknownFlow):
        await process.begin(StoredRun("greeting", {"name": "Ada"}).history())


async def test_an_unfinished_request_of_one_run_leaves_others_alone(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    with pytest.raises(NotResident):
        await process.deliver(uuid4(), [])
    assert await result(process, "greeting", {"name": "Ada"}) == "{'name': 'Ada'}, later"


async def test_a_run_that_blocks_while_it_is_evicted_is_not_taken_for_another(start: Start, write: Write) -> None:
    write(
        "clings.py",
        """
from penstock.flows import flow, run

@flow(name="clings", version="1")
async def clings() -> None:
    try:
        await run.wait_signal("never")
    finally:
        while True:
            pass
""",
    )
    write("greeting.py", GREETING)
    process = await start(limits=QUICK)
    clinging = StoredRun("clings", {})
    clinging.commit(await process.begin(clinging.history()))
    process.evict(clinging.run_id)
    with pytest.raises(ProgramLost) as lost:
        await process.begin(StoredRun("greeting", {"name": "Ada"}).history())
    assert not lost.value.on_cpu
    assert await result(process, "greeting", {"name": "Ada"}) == "{'name': 'Ada'}, later"


async def test_a_side_effect_that_ends_the_thread_fails_alone(start: Start, write: Write) -> None:
    write(
        "exits.py",
        """
import asyncio
from penstock.flows import flow, run

async def leaves(how: str) -> None:
    await asyncio.sleep(0)
    if how == "exit":
        raise SystemExit(3)
    raise asyncio.CancelledError

@flow(name="exits", version="1")
async def exits() -> list[str]:
    found = await run.gather(
        run.side_effect(leaves, "exit"), run.side_effect(leaves, "cancel"), return_exceptions=True
    )
    return [one.type for one in found]
""",
    )
    process = await start()
    assert await result(process, "exits") == ["SystemExit", "CancelledError"]
    assert await result(process, "exits") == ["SystemExit", "CancelledError"]


async def test_histories_are_checked_against_the_present_code_and_other_versions(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    write("next.py", GREETING.replace('version="1"', 'version="2"').replace('"greeter"', '"new greeter"'))
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    while run.outcome is None:
        run.commit(await process.begin(run.history(), run.unread))
        complete_all(run, lambda _step: "hello")
    history = run.history()
    assert (await process.check(history, ended=True)).held is None
    held = (await process.check(msgspec.structs.replace(history, version="2"), ended=True)).held
    assert held is not None
    assert (held.stored, held.found) == (
        "call of model greeter (key greeter#1)",
        "call of model new greeter (key new greeter#1)",
    )
    with pytest.raises(UnknownFlow):
        await process.check(msgspec.structs.replace(history, version="3"))
    assert not process.resident


async def test_a_value_that_is_nested_too_deeply_concerns_its_run_only(start: Start, write: Write) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    deep = msgspec.structs.replace(run.history(), run_id=uuid4(), input=msgspec.Raw(b"[" * 5000 + b"]" * 5000))
    with pytest.raises(NoTurn, match="the request cannot be read: maximum recursion depth"):
        await process.begin(deep)
    complete_all(run, lambda _step: "hello")
    run.commit(await process.deliver(run.run_id, run.unread))
    assert run.keys() == ["greeter#1", "sleep#1"]
