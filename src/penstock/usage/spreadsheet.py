"""A report as CSV, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

MEASURES: Final = (
    "attempts", "calls", "failures", "unreported", "unpriced", "prompt_tokens", "completion_tokens", "audio_seconds",
    "model_seconds", "bytes_in", "bytes_out", "sessions", "cost",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_csv(by: Sequence[str], groups: Iterable[Mapping[str, Any]]) -> str:
    """Return groups as CSV. A name that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*by, *MEASURES])
    for group in groups:
        writer.writerow([_harmless(str(group[name])) for name in by] + [group[name] for name in MEASURES])
    return out.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
