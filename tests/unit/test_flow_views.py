"""Runs as the command line draws them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock.cli.flow_views import tree_of


def lines(status: str, **fields: Any) -> str:
    """Return the line of the only step of a run, which was issued an hour ago unless ``fields`` says otherwise."""
    issued = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    step = {
        "no": 0, "key": "sleep#1", "status": status, "issued_at": issued, "started_at": None, "finished_at": None,
        "due_at": None, "attempt": None, "error": None, "items": None, "job_id": None,
    } | fields  # fmt: skip
    summary = {
        "id": "1", "model_profile": "f@1", "status": "running", "started_at": None, "finished_at": None, "error": None
    }  # fmt: skip
    drawn = tree_of({"run": summary, "difference": None, "steps": [step], "next_step": None}, {})
    return str(drawn.children[-1].label)


@pytest.mark.parametrize("status", ["dropped", "recorded", "completed"])
def test_a_step_without_a_time_of_its_end_has_no_duration(status: str) -> None:
    assert lines(status) == f"0 sleep#1  {status}"


def test_a_step_has_the_duration_until_its_end_or_until_now() -> None:
    assert lines("waiting").startswith("0 sleep#1  waiting  1 h 00 min")
    moments = {"issued_at": "2026-01-01T12:00:00+00:00", "finished_at": "2026-01-01T12:00:02+00:00"}
    assert lines("completed", **moments) == "0 sleep#1  completed  2.0 s"
