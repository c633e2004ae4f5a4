"""The watcher of a job that no worker claims gets one message about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from penstock.cli import job_calls
from penstock.client import Client, Job
from tests.support.scripted_gateways import JOB, JOB_ID


class Gateway:
    """A gateway with one job, which finishes at the third poll."""

    def __init__(self) -> None:
        self.polls = 0

    async def get(self, _job_id: UUID) -> Job:
        waiting: dict[str, Any] = JOB | {"status": "pending", "attempt": 0, "finished_at": None, "run_at": None}
        return msgspec.convert(waiting, Job, strict=False)

    async def wait(self, _job_id: UUID, *, timeout: timedelta) -> Job:
        self.polls += 1
        if self.polls < 3:
            raise TimeoutError
        return msgspec.convert(JOB | {"finished_at": "2026-01-01T00:00:00Z"}, Job, strict=False)


async def test_a_job_that_no_worker_claims_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_calls, "_WAITS_LONG_SECONDS", 0.0)
    (job,) = await job_calls.watch(cast("Client", Gateway()), [UUID(str(JOB_ID))], show=False)
    assert job["finished_at"]
    messages = capsys.readouterr().err.splitlines()
    assert messages == [f"penstock: job {JOB_ID} still waits. Is there a worker that takes echo jobs for small?"]
