"""Settings of usage: prices, and the spool of live calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.settings.kinds import MEBIBYTE, folder, integer, size
from penstock.settings.variable import Known, setting


def _spool(known: Known) -> Path:
    """the folder usage in PENSTOCK_DATA_DIR"""
    return Path(known.get("penstock_data_dir", ".")) / "usage"


@dataclass(frozen=True, kw_only=True, repr=False)
class UsageSettings:
    """Usage and prices."""

    penstock_prices: Path | None = setting(
        folder, None, "file of prices; unset: prices.toml in the working directory, if any"
    )
    penstock_usage_detail_days: int = setting(
        integer(1, 3650), 30, "the usage of each second is kept this long; its sums by hour, day and month always"
    )
    penstock_usage_user_days: int = setting(
        integer(90, 36500), 800, "sums of usage by keys and users are kept this long; those without them always"
    )
    penstock_usage_spool: Path = setting(
        folder, derived=_spool, meaning="folder of live usage that is not in the database yet"
    )
    penstock_usage_spool_bytes: int = setting(
        size, 16 * MEBIBYTE, "largest spool of one gateway; when it is full, live calls are refused"
    )
