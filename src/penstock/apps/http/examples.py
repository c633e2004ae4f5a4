"""Examples in the description of the API."""

from __future__ import annotations

from typing import Any, Final

_TASK: Final = "0194b7a0-0000-7000-8000-000000000000"
_BLOB: Final = "0194b7a0-0000-7000-8000-000000000009"
_URL: Final = "/api/v1/blobs/signed/AAAAAQGZ…"

CALL: Final[dict[str, Any]] = {"user_id": "ada", "input": {"text": "rain on a tin roof", "duration": 5}}
REPLY: Final[dict[str, Any]] = {
    "task_id": _TASK,
    "app": "audiocraft",
    "user_id": "ada",
    "status": "pending",
    "created_at": "2026-01-30T09:00:00.000000Z",
    "warnings": [],
}
_USAGE: Final[dict[str, Any]] = {
    "attempts": 3,
    "calls": 3,
    "failures": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "audio_seconds": 0.0,
    "model_seconds": 31.5,
    "cost": "0.0315",
}
RESULT: Final[dict[str, Any]] = {
    "task_id": _TASK,
    "app": "audiocraft",
    "user_id": "ada",
    "status": "completed",
    "created_at": "2026-01-30T09:00:00.000000Z",
    "started_at": "2026-01-30T09:00:00.050000Z",
    "finished_at": "2026-01-30T09:00:12.000000Z",
    "progress": None,
    "stages": [
        {
            "no": 0,
            "name": "audiogen",
            "kind": "call",
            "status": "completed",
            "started_at": "2026-01-30T09:00:00.100000Z",
            "finished_at": "2026-01-30T09:00:11.900000Z",
            "progress": 1.0,
            "items": None,
            "error": None,
        }
    ],
    "next_stage": None,
    "result": {"audio": _URL, "duration": 5.0},
    "media": [{"id": _BLOB, "url": _URL, "expires_at": "2026-01-30T10:00:13Z"}],
    "error": None,
    "units": 5.0,
    "usage": _USAGE,
}
SUMMARY: Final[dict[str, Any]] = {
    "name": "audiocraft",
    "version": "0.1.4",
    "title": "AudioCraft",
    "description": "Makes sounds and music from descriptions.",
    "alive": True,
    "problems": [],
}
APP: Final[dict[str, Any]] = SUMMARY | {
    "flow": "audiocraft@1",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "output_schema": {"type": "object"},
    "examples": [{"text": "rain on a tin roof"}],
    "max_input_bytes": 65536,
    "ttl_seconds": 3600.0,
    "timeout_seconds": None,
    "result_retention_seconds": None,
    "price_unit": "second",
    "services": [{"name": "audio-gen", "model": "audiogen", "port": 8081, "port_variable": "AUDIO_GEN_PORT"}],
    "variables": {"MAX_DURATION": "30"},
}
HEALTH: Final[dict[str, Any]] = {
    "status": "ok",
    "app": "audiocraft",
    "version": "0.1.4",
    "flow": "audiocraft@1",
    "problems": [],
}
_COUNTS: Final[dict[str, Any]] = {
    "requests": 3,
    "open": 0,
    "completed": 3,
    "failed": 0,
    "cancelled": 0,
    "wait_seconds": 0.04,
    "run_seconds": 10.6,
    "p50_seconds": 11.2,
    "p95_seconds": 12.1,
    "units": 15.0,
    "usage": _USAGE,
}
STATISTICS: Final[dict[str, Any]] = _COUNTS | {
    "app": "audiocraft",
    "user_id": "ada",
    "from": "2026-01-01",
    "to": "2026-01-31",
    "time_zone": "Europe/Berlin",
    "price_unit": "second",
    "days": [{"day": "2026-01-30"} | _COUNTS],
    "results": None,
}
