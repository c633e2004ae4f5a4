"""Examples of models in the API's description."""

from __future__ import annotations

from typing import Any

INPUT: dict[str, Any] = {"text": "Good morning", "max_words": 40}
OUTPUT: dict[str, Any] = {"summary": "A greeting."}
ADDITION: dict[str, Any] = {
    "name": "shout",
    "runtime": "http",
    "description": "Upper case, by the server next door.",
    "http": {"url": "http://127.0.0.1:8888", "path": "/predict"},
}
SUMMARY: dict[str, Any] = {
    "name": "summary",
    "version": "2",
    "versions": ["1", "2"],
    "runtime": "python",
    "description": "Summarizes a text.",
    "state": "ready",
    "streams": False,
    "places": 16,
    "source": "folder",
    "problem": None,
}
PAGE: dict[str, Any] = {"models": [SUMMARY], "problems": {"speech.toml": "replicas: expected `int` >= 1"}}
MODEL: dict[str, Any] = SUMMARY | {
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "max_words": {"type": "integer", "minimum": 1, "default": 40}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "output_schema": {"type": "object"},
    "session": None,
    "batches": True,
    "examples": [INPUT],
    "options": {"class": "summary:Summary"},
    "details": [
        {
            "version": "2",
            "state": "ready",
            "problem": None,
            "replicas": [
                {
                    "name": "r3",
                    "pid": 4711,
                    "state": "ready",
                    "in_flight": 1,
                    "answers": 1024,
                    "uptime_seconds": 3600.0,
                    "load_seconds": 2.5,
                }
            ],
            "waiting": 0,
            "in_flight": 1,
            "restarts": 0,
            "counts": {
                "completed": 1024,
                "failed": {"bad_input": 2},
                "sessions": 0,
                "batches": 100,
                "mean_batch": 9.8,
                "mean_seconds": 0.03,
            },
        }
    ],
}
LOGS: dict[str, Any] = {
    "lines": [
        {
            "seq": 77,
            "time": "2026-01-05T09:30:00Z",
            "level": "info",
            "message": "read 12 words",
            "version": "2",
            "replica": "r3",
            "request_id": "6f1e",
        }
    ]
}
CLEARED: dict[str, Any] = {"cleared": 1}
