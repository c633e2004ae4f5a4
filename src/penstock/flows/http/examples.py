"""Examples in the description of the API."""

from __future__ import annotations

from typing import Any, Final

from penstock.jobs.http import examples as job_examples
from penstock.jobs.job import JobSummary

RUN: Final[dict[str, Any]] = job_examples.JOB | {"task_type": "flow", "model_profile": "greeting@1"}
FLOWS: Final[dict[str, Any]] = {
    "flows": [
        {
            "name": "greeting",
            "version": "1",
            "description": "Greets.",
            "input_schema": {"type": "object"},
            "output_schema": {"type": "string"},
            "examples": [{"name": "Ada"}],
            "alive": True,
            "unfinished": 1,
        }
    ],
    "stranded": [],
}

TREE: Final[dict[str, Any]] = {
    "run": {name: value for name, value in RUN.items() if name in JobSummary.__struct_fields__},
    "input": {"name": "Ada"},
    "result": None,
    "difference": None,
    "turns": 1,
    "steps": [
        {
            "no": 0,
            "key": "greeter#1",
            "kind": "call",
            "name": "greeter",
            "status": "running",
            "job_id": "0194b7a0-0000-7000-8000-000000000001",
            "issued_at": "2026-01-30T09:00:01.000000Z",
            "started_at": "2026-01-30T09:00:01.500000Z",
            "attempt": 1,
        }
    ],
    "next_step": None,
    "last_event_id": "1-2147483647-0",
}


HISTORY: Final[dict[str, Any]] = {
    "ended": False,
    "history": {
        "run_id": RUN["id"],
        "flow": "greeting",
        "version": "1",
        "loop": 1,
        "input": {"name": "Ada"},
        "started_at": 1769763600.5,
        "turns": [{"number": 0, "at": 1769763600.5, "first_no": 0}],
        "steps": [
            {"no": 0, "key": "greeter#1", "kind": "call", "name": "greeter", "input_hash": "AAAAAAAAAAAAAAAAAAAAAA=="}
        ],
        "mail": [],
    },
}

TROUBLE: Final[dict[str, Any]] = {
    "held": [{"flow": "order@2", "runs": 3, "reason": "changed"}],
    "stranded": [{"flow": "order@1", "runs": 1, "reason": ""}],
}
