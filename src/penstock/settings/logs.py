"""Settings of logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from penstock.settings.kinds import choice
from penstock.settings.variable import setting

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

_LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")
_FORMATS: Final[tuple[Format, ...]] = ("auto", "json", "console")


@dataclass(frozen=True, kw_only=True, repr=False)
class LogSettings:
    """Logs."""

    penstock_log_level: Level = setting(choice(*_LEVELS), "info", "lowest level that is logged")
    penstock_log_format: Format = setting(choice(*_FORMATS), "auto", "auto: console on a terminal, json otherwise")
