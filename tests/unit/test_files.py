"""The limit on open files, which bounds the connections that a process can accept."""

from __future__ import annotations

import resource
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.processes import files
from penstock.web.limits import Limits
from tests.support.processes import PENSTOCK, clean_environment


@pytest.fixture
def hard() -> Iterator[int]:
    """Yield the hard limit; restore the soft one after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    assert Limits().connections == 768
    enough = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    assert files.raise_limit() == enough
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (enough, hard)
    assert Limits().connections == min(10_000, enough - 256)


def test_a_limit_that_is_high_enough_stays(hard: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= 65_536:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert files.raise_limit() == hard
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (70_000, hard))
    assert files.raise_limit() == 70_000
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("role", ["gateway", "worker", "sidecar"])
async def test_processes_raise_it_when_they_start(role: str, tmp_path: Path) -> None:
    """This holds for a shell that allows few files too; then the log states the limit."""
    lower = f"ulimit -Sn 500; ulimit -Hn 900; exec {' '.join(PENSTOCK)} {role}"
    process = await create_subprocess_exec(
        "/bin/sh", "-c", lower, stdout=PIPE, stderr=PIPE, cwd=tmp_path, env=clean_environment()
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if b"open_files_limit" in line:
                assert b'"limit":900' in line.replace(b" ", b"")
                break
        else:
            pytest.fail(f"{sys.executable}: the log does not state the limit")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
