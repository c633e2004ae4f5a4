"""Settings of apps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.settings.kinds import folder, integer
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class AppSettings:
    """Apps."""

    penstock_apps_dir: Path | None = setting(
        folder, None, "folder of apps: NAME/app.toml, with the app's flow and models; watched for changes"
    )
    penstock_app_request_days: int = setting(
        integer(1, 10_000), 400, "days for which records of requests of apps are kept; sums are kept for longer"
    )
