"""Examples for the OpenAPI description."""

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
HEARTBEAT: dict[str, Any] = {
    "worker_id": "gpu-1",
    "epoch": 4711,
    "lease_seconds": 120,
    "progress": {"fraction": 0.4},
    "chunks": [{"text": "Good "}, {"text": "morning."}],
    "chunks_from": 0,
    "logs": [{"time": "2026-01-30T09:00:01.250000Z", "level": "info", "message": "loaded the recording"}],
    "logs_from": 0,
}
FAILURE: dict[str, Any] = {
    "worker_id": "gpu-1",
    "epoch": 4711,
    "category": "rate_limited",
    "message": "the provider requests a wait",
    "retry_after_seconds": 30,
}

# Answers

_OTHER_ID = "01a1fbba-bfa2-7d41-9d0c-55b1e9a7c3f0"
_SUMMARY = {name: value for name, value in DONE.items() if name not in {"input", "result", "attempts"}}
PAGE: dict[str, Any] = {"jobs": [_SUMMARY], "next_cursor": _ID}
CREATED: dict[str, Any] = {
    "jobs": [
        {"id": _ID, "status": "pending", "created": True, "created_at": JOB["created_at"]},
        {"id": _OTHER_ID, "status": "completed", "created": False, "created_at": "2026-01-29T21:00:00.000000Z"},
    ]
}
CLAIMED: dict[str, Any] = {
    "jobs": [
        {
            "id": _ID,
            "epoch": 4711,
            "tenant": "default",
            "owner_service": "telephony",
            "owner_ref": "beeline/7f3a",
            "task_type": "transcribe",
            "model_profile": "whisperx",
            "priority": 0,
            "attempt": 1,
            "max_attempts": 3,
            "timeout_seconds": None,
            "lease_expires_at": "2026-01-30T09:02:00.004000Z",
            "created_at": JOB["created_at"],
            "tags": [],
            "input": {"url": "https://records.example/7f3a.wav"},
        }
    ]
}
COMPLETED: dict[str, Any] = {"id": _ID, "status": "completed", "run_at": None}
BACKING_OFF: dict[str, Any] = {"id": _ID, "status": "pending", "run_at": "2026-01-30T09:00:30.000000Z"}
BEATEN: dict[str, Any] = {"id": _ID, "lease_expires_at": "2026-01-30T09:02:10.000000Z", "cancel_requested": False}
COMPLETIONS: dict[str, Any] = {"jobs": [{"id": _ID} | COMPLETION, {"id": _OTHER_ID, "epoch": 4712, "result": None}]}
HEARTBEATS: dict[str, Any] = {"jobs": [{"id": _ID} | HEARTBEAT, {"id": _OTHER_ID, "epoch": 4712}]}
ALL_COMPLETED: dict[str, Any] = {
    "results": [{"id": _ID, "status": "completed"}, {"id": _OTHER_ID, "code": "stale_epoch"}]
}
ALL_BEATEN: dict[str, Any] = {"results": [BEATEN, {"id": _OTHER_ID, "code": "stale_epoch"}]}
CHANGED: dict[str, Any] = {"count": 12, "dry_run": True}
_COUNTS = {
    "pending": 3,
    "running": 1,
    "completed": 1200,
    "failed": 2,
    "cancelled": 0,
    "errors": {"timeout": 4, "bad_input": 2},
}
STATS: dict[str, Any] = {
    "totals": _COUNTS,
    "oldest_pending_seconds": 0.8,
    "queues": [
        {
            "task_type": "call_analysis",
            "model_profile": "qwen2.5-14b",
            "oldest_pending_seconds": 0.8,
            "owners": [{"owner_service": "telephony"} | _COUNTS],
        }
        | _COUNTS
    ],
}
EVENT = (
    "id: 9120-1-2894967296\nevent: job.started\n"
    'data: {"specversion":"1.0","id":"9120-1-2894967296","source":"/api/v1/jobs","type":"job.started",'
    f'"subject":"{_ID}","time":"2026-01-30T09:00:00.004000Z","datacontenttype":"application/json",'
    '"data":{"owner_service":"telephony","task_type":"call_analysis","model_profile":"qwen2.5-14b","attempt":1}}\n\n'
)
WHY: dict[str, Any] = {
    "id": _ID,
    "status": "pending",
    "position": 13,
    "reasons": [
        {
            "code": "limit_reached",
            "detail": "4 jobs of the queue transcribe/whisperx run, and the limit is 4",
            "jobs": [_OTHER_ID],
        }
    ],
    "estimate": {
        "seconds": 37.5,
        "basis": "the last 50 completed jobs of the queue took 11.5 s each, and 4 run now",
    },
}
