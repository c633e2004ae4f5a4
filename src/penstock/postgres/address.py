"""The address of this process's database."""

from __future__ import annotations

from penstock.postgres.embedded import embedded_url
from penstock.settings import Settings


def database_url(settings: Settings) -> str:
    """Return DATABASE_URL, or the address of the embedded server of the data folder; starts nothing."""
    if settings.database_url is not None:
        return settings.database_url.reveal()
    return embedded_url(settings.penstock_data_dir)
