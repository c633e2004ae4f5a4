"""The types of events that endpoints can want, and the patterns that name them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from penstock.suggestions import did_you_mean

TEST: Final = "callback.test"  # sent to one endpoint only, whatever types it wants
TYPES: Final = (
    "job.created", "job.started", "job.progress", "job.output", "job.log", "job.retrying", "job.retried",
    "job.cancel_requested", "job.completed", "job.failed", "job.cancelled",
)  # fmt: skip
JOB_ENDED: Final = ("job.completed", "job.failed", "job.cancelled")
EVERY: Final = "*"
_PUBLISHED: Final = re.compile(r"(?!(?:job|callback)\b)[A-Za-z0-9_-]{1,100}(?:\.\*|(?:\.[A-Za-z0-9_-]{1,100}){1,10})")


def problem(pattern: str) -> str | None:
    """Return why a pattern is invalid, or None."""
    if pattern == EVERY or pattern in TYPES:
        return None
    if pattern.endswith(".*") and any(kind.startswith(pattern[:-1]) for kind in TYPES):
        return None
    meant = did_you_mean(pattern, [*TYPES, "job.*"])
    if not meant and _PUBLISHED.fullmatch(pattern):
        return None
    return f"must be a type of event such as job.completed, job.* or *, or one that flows publish{meant}"


def wants(patterns: Collection[str], kind: str) -> bool:
    """Return whether any of the patterns names a type of event."""
    return kind in patterns or f"{kind.partition('.')[0]}.*" in patterns or EVERY in patterns


def as_like(patterns: Sequence[str]) -> list[str]:
    """Convert the patterns to those of the operator LIKE, which match a superset of the same types."""
    return sorted({one.replace("_", r"\_").replace("*", "%") for one in patterns})
