"""Settings of the database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from penstock.masking import Secret
from penstock.settings.kinds import database_url, flag, folder, host_port, port, secret, short_text
from penstock.settings.variable import Known, setting


def _from_parts(known: Known) -> Secret | None:
    """built from the variables `POSTGRES_…`; without POSTGRES_HOST, an embedded server in PENSTOCK_DATA_DIR."""
    host = known.get("postgres_host")
    if host is None or "postgres_user" not in known or "postgres_db" not in known:
        return None
    if ":" not in host.rpartition("]")[2]:
        host = f"{host}:{known.get('postgres_port') or 5432}"
    password = known.get("postgres_password")
    shown = "" if password is None else f":{quote(password.reveal(), safe='')}"
    return Secret(
        f"postgresql://{quote(known['postgres_user'], safe='')}{shown}@{host}/{quote(known['postgres_db'], safe='')}"
    )


def _data_folder(_known: Known) -> Path:
    """the platform's user data folder"""
    import platformdirs  # noqa: PLC0415  (only where the variable is not set)

    return platformdirs.user_data_path("penstock")


@dataclass(frozen=True, kw_only=True, repr=False)
class DatabaseSettings:
    """The database."""

    postgres_host: str | None = setting(host_port, None, "PostgreSQL as host or host:port, if DATABASE_URL is not set")
    postgres_port: int = setting(port, 5432, "its port, where POSTGRES_HOST names none")
    postgres_user: str = setting(short_text(63), "postgres", "its user")
    postgres_password: Secret | None = setting(secret, None, "the user's password, if there is one")
    postgres_db: str = setting(short_text(63), "postgres", "the name of its database")
    database_url: Secret | None = setting(
        database_url, derived=_from_parts, meaning="PostgreSQL 15 or later, as a URL in place of `POSTGRES_…`"
    )
    migrate_on_start: bool = setting(flag, True, "bring the database schema up to date at start")
    penstock_data_dir: Path = setting(
        folder,
        derived=_data_folder,
        meaning="folder of the embedded PostgreSQL, larger files, the secret of the installation and the usage spool",
    )
