"""Examples for the API's description of itself."""

from __future__ import annotations

from typing import Any

_ID = "01a1fbba-bf9b-70c9-b890-daafa0bbb9de"

SUBMISSION: dict[str, Any] = {
    "owner_service": "telephony",
    "owner_ref": "beeline/7f3a",
    "task_type": "call_analysis",
    "model_profile": "qwen2.5-14b",
    "input": {"system": "Answer as JSON.", "user": "Classify this call: …", "max_tokens": 256},
    "priority": 10,
    "idempotency_key": "beeline/7f3a/analysis",
    "tags": ["nightly"],
}
JOB: dict[str, Any] = {
    "id": _ID,
    **SUBMISSION,
    "status": "pending",
    "attempt": 0,
    "max_attempts": 3,
    "created_at": "2026-01-30T09:00:00.000000Z",
    "run_at": None,
    "timeout_seconds": None,
    "worker_id": None,
    "lease_expires_at": None,
    "cancel_requested_at": None,
    "started_at": None,
    "finished_at": None,
    "progress": None,
    "error": None,
    "result": None,
    "attempts": [],
}
DONE: dict[str, Any] = {
    **JOB,
    "status": "completed",
    "attempt": 1,
    "worker_id": "gpu-1",
    "started_at": "2026-01-30T09:00:00.004000Z",
    "finished_at": "2026-01-30T09:00:01.250000Z",
    "result": {
        "content": '{"topic": "billing"}',
        "model": "qwen2.5-14b",
        "usage": {"prompt_tokens": 41, "completion_tokens": 9, "total_tokens": 50},
        "duration_ms": 1231,
    },
}
BATCH: dict[str, Any] = {
    "defaults": {"owner_service": "monitoring-tg", "task_type": "tg_analysis", "model_profile": "qwen2.5-14b"},
    "jobs": [
        {"owner_ref": "channel/1", "input": {"user": "Summarise: …"}},
        {"owner_ref": "channel/2", "input": {"user": "Summarise: …"}, "priority": 5},
    ],
}
BULK: dict[str, Any] = {
    "owner_service": "telephony",
    "status": ["failed"],
    "error_category": "provider_error",
    "dry_run": True,
}
CLAIM: dict[str, Any] = {
    "worker_id": "gpu-1",
    "task_types": ["transcribe"],
    "model_profiles": ["whisperx"],
    "limit": 4,
    "lease_seconds": 120,
    "wait_seconds": 20,
}
COMPLETION: dict[str, Any] = {"worker_id": "gpu-1", "epoch": 4711, "result": {"text": "Good morning."}}
HEARTBEAT: dict[str, Any] = {"worker_id": "gpu-1", "epoch": 4711, "lease_seconds": 120, "progress": {"fraction": 0.4}}
FAILURE: dict[str, Any] = {
    "worker_id": "gpu-1",
    "epoch": 4711,
    "category": "rate_limited",
    "message": "the provider asks to wait",
    "retry_after_seconds": 30,
}
