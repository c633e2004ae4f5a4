"""Runs as the command line draws them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock.cli.flow_views import tree_of

AN_HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def lines(status: str, **fields: Any) -> str:
    """Return the line of the only step of a run."""
    step = {
        "no": 0, "key": "sleep#1", "status": status, "issued_at": AN_HOUR_AGO, "started_at": None, "finished_at": None,
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
    ended = (datetime.fromisoformat(AN_HOUR_AGO) + timedelta(seconds=2)).isoformat()
    assert lines("completed", finished_at=ended) == "0 sleep#1  completed  2.0 s"
