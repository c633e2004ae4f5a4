"""Times and durations in options. Mistakes raise typer.BadParameter."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import typer


def ahead(stated: str, option: str) -> datetime:
    """Parse a time, or a duration from now (``90d``); a time without an offset is local."""
    from penstock import durations

    try:
        return datetime.now(UTC) + durations.parse(stated)
    except ValueError:
        pass
    except OverflowError:
        raise typer.BadParameter("is too far ahead", param_hint=option) from None
    try:
        found = datetime.fromisoformat(stated)
    except ValueError:
        detail = "must be a time such as 2027-01-30T09:00, or a duration from now such as 90d"
        raise typer.BadParameter(detail, param_hint=option) from None
    return found.astimezone() if found.tzinfo is None else found


def length(stated: str, option: str) -> timedelta:
    """Parse a duration such as ``2h``."""
    from penstock import durations

    try:
        return durations.parse(stated)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def day(stated: str, option: str) -> date:
    """Parse a day."""
    try:
        return date.fromisoformat(stated)
    except ValueError:
        raise typer.BadParameter("must be a day such as 2027-01-30", param_hint=option) from None
