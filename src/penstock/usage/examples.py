"""Examples for the description of the API."""

from __future__ import annotations

from typing import Any, Final

_SUMS: Final[dict[str, Any]] = {
    "attempts": 1200,
    "calls": 1204,
    "failures": 4,
    "unreported": 0,
    "unpriced": 0,
    "prompt_tokens": 481_600,
    "completion_tokens": 96_320,
    "audio_seconds": 0.0,
    "model_seconds": 1806.5,
    "bytes_in": 2_408_000,
    "bytes_out": 481_600,
    "sessions": 0,
    "cost": "2.1672",
}
REPORT: Final[dict[str, Any]] = {
    "from": "2026-11-01T00:00:00+01:00",
    "to": "2026-12-01T00:00:00+01:00",
    "time_zone": "Europe/Berlin",
    "currency": "EUR",
    "by": ["day", "model"],
    "groups": [{"day": "2026-11-29", "model": "gpt-4o", **_SUMS}],
    "totals": _SUMS,
    "truncated": False,
}
