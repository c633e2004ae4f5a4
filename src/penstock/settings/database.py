"""Settings of the database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.masking import Secret
from penstock.settings.kinds import database_url, flag, folder
from penstock.settings.variable import Known, setting


def _data_folder(_known: Known) -> Path:
    """the platform's user data folder"""
    import platformdirs  # noqa: PLC0415  (only where the variable is not set)

    return platformdirs.user_data_path("penstock")


@dataclass(frozen=True, kw_only=True, repr=False)
class DatabaseSettings:
    """The database."""

    database_url: Secret | None = setting(
        database_url, None, "PostgreSQL 15 or later; unset: an embedded one in PENSTOCK_DATA_DIR"
    )
    migrate_on_start: bool = setting(flag, True, "bring the database schema up to date at start")
    penstock_data_dir: Path = setting(
        folder,
        derived=_data_folder,
        meaning="folder of the embedded PostgreSQL, larger files, the secret of the installation and the usage spool",
    )
