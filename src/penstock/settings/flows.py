"""Settings of flows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from penstock.settings.kinds import duration, folder, integer
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class FlowSettings:
    """Flows."""

    penstock_flows_dir: Path | None = setting(
        folder, None, "folder of Python files with flows; workers run them, and watch it for changes"
    )
    penstock_flows_resident: int = setting(
        integer(1, 100_000),
        1000,
        "runs of flows that one worker holds in memory at a time; others wait in the database",
    )
    penstock_flows_linger: timedelta = setting(
        duration(timedelta(0), timedelta(seconds=30)),
        timedelta(milliseconds=500),
        "time for which a run that waits for its jobs stays in memory before it is parked",
    )
