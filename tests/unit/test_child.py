"""A supervised child: restarted when it dies, and sent SIGTERM before it is killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from penstock.processes.backoff import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, Backoff
from penstock.supervisor.child import Child
from tests.support.processes import alive, clean_environment
from tests.support.waiting import until

NOTE = "import os, sys; print(os.getpid(), file=open(sys.argv[1], 'a'), flush=True)\n"


def program(text: str, notes: Path) -> list[str]:
    return [sys.executable, "-c", NOTE + text, str(notes)]


def noted(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def test_pauses_double_up_to_a_limit_and_start_over_after_a_healthy_run() -> None:
    backoff = Backoff()
    pauses = [backoff.after_run_of(0.0) for _ in range(12)]
    assert pauses[:3] == [FIRST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2, FIRST_DELAY_SECONDS * 4]
    assert pauses[-1] == MAX_DELAY_SECONDS
    assert backoff.after_run_of(3600.0) == FIRST_DELAY_SECONDS


async def test_a_child_that_dies_is_restarted(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    child = Child("short", program("sys.exit(3)", notes), {})
    running = asyncio.create_task(child.run())
    await until(lambda: len(noted(notes)) >= 3, "started three times")
    await child.stop(grace_seconds=5)
    await running
    assert len(set(noted(notes))) == len(noted(notes))


async def test_stop_lets_the_child_finish(tmp_path: Path) -> None:
    notes, farewell = tmp_path / "notes", tmp_path / "farewell"
    text = f"""
import signal
signal.signal(signal.SIGTERM, lambda *_: (open({str(farewell)!r}, 'w').close(), sys.exit(0)))
signal.pause()
"""
    child = Child("polite", program(text, notes), {})
    running = asyncio.create_task(child.run())
    await until(lambda: bool(noted(notes)), "started")
    await until(lambda: _catches_term(noted(notes)[0]), "its handler is in place")
    await child.stop(grace_seconds=5)
    await running
    assert farewell.exists()
    assert len(noted(notes)) == 1


async def test_a_child_that_does_not_finish_is_killed_after_the_grace(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    child = Child(
        "deaf",
        program("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()", notes),
        {},
    )
    running = asyncio.create_task(child.run())
    await until(lambda: bool(noted(notes)) and _ignores_term(noted(notes)[0]), "it ignores SIGTERM")
    await child.stop(grace_seconds=0.1)
    await running
    assert not alive(noted(notes)[0])


async def test_a_child_waits_for_its_dependencies_and_each_start_for_its_preparation(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    text = (
        "import os, sys\nfrom penstock.processes.binding import bind_to_supervisor, wait_for_supervisor\n"
        f"bind_to_supervisor(); open({str(tmp_path / 'waits')!r}, 'w').close(); wait_for_supervisor()\n"
        + NOTE
        + "sys.exit(1)"
    )
    ready, called = asyncio.Event(), 0

    async def before_release() -> None:
        nonlocal called
        assert len(noted(notes)) == called, "the one before has ended, and this one has not begun"
        called += 1

    child = Child("waits", [sys.executable, "-c", text, str(notes)], {}, needs=ready, before_release=before_release)
    running = asyncio.create_task(child.run())
    await until((tmp_path / "waits").exists, "it waits")
    assert not noted(notes)
    assert not called
    ready.set()
    await until(lambda: len(noted(notes)) >= 2, "started again without waiting")
    await child.stop(grace_seconds=5)
    await running


async def test_a_child_that_waits_can_be_stopped(tmp_path: Path) -> None:
    text = (
        "import os, sys\nfrom penstock.processes.binding import bind_to_supervisor, wait_for_supervisor\n"
        "bind_to_supervisor(); wait_for_supervisor()\n" + NOTE
    )
    notes = tmp_path / "notes"
    child = Child("waits", [sys.executable, "-c", text, str(notes)], {}, needs=asyncio.Event())
    running = asyncio.create_task(child.run())
    await until(lambda: child.pid is not None, "it runs")
    await child.stop(grace_seconds=60)
    await running
    assert not noted(notes)


async def test_stopping_a_child_that_never_ran_is_fine() -> None:
    await Child("never", ["/bin/false"], {}).stop(grace_seconds=1)


async def test_a_child_ends_with_its_supervisor(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    text = (
        "from penstock.processes.binding import bind_to_supervisor\nbind_to_supervisor()\n"
        + NOTE
        + "import signal; signal.pause()"
    )
    supervisor = f"""
import asyncio, sys
from penstock.supervisor.child import Child
asyncio.run(Child("bound", [sys.executable, "-c", {("import os, sys" + chr(10) + text)!r}, {str(notes)!r}], {{}}).run())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", supervisor, env=clean_environment())
    await until(lambda: bool(noted(notes)), "the child is bound")
    (child,) = noted(notes)
    assert alive(child)
    process.kill()
    await process.wait()
    await until(lambda: not alive(child), "the child ended with its supervisor")


def _signals(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1], 16)
    raise AssertionError(field)


def _catches_term(pid: int) -> bool:
    return bool(_signals(pid, "SigCgt") & 1 << 14)


def _ignores_term(pid: int) -> bool:
    return bool(_signals(pid, "SigIgn") & 1 << 14)
