"""``penstock usage``: usage as a table with bars."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Annotated, Any

import typer

from penstock.cli.gateway import with_client
from penstock.cli.output import AsJson, harmless, print_json, print_table, wants_json

_SHOWN = (
    "attempts", "calls", "failures", "unpriced", "prompt_tokens", "completion_tokens", "audio_seconds",
    "sessions", "bytes_in", "bytes_out",
)  # fmt: skip
_BAR = 30  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"

Several = Annotated[list[str] | None, typer.Option(help="Only usage of this one; may be repeated.")]


def usage(
    by: Annotated[
        str, typer.Option(help="Comma-separated: hour, day or month; model, user, key, provider, … (operators: tenant)")
    ] = "day",
    since: Annotated[str | None, typer.Option("--from", help="The start: a day, or a time with its offset.")] = None,
    to: Annotated[str | None, typer.Option(help="The end: a day or time that is not included.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="The zone of days and months: Europe/Berlin.")] = None,
    model: Several = None,
    provider: Several = None,
    user: Several = None,
    key: Several = None,
    owner_service: Several = None,
    task_type: Several = None,
    model_profile: Several = None,
    version: Several = None,
    app: Several = None,
    price: Several = None,
    limit: Annotated[int | None, typer.Option(help="The maximum number of groups.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show usage and cost, by time and by any dimension."""
    query = {
        "by": by, "since": since, "to": to, "time_zone": time_zone, "model": model, "provider": provider, "user": user,
        "key": key, "owner_service": owner_service, "task_type": task_type, "model_profile": model_profile,
        "version": version, "app": app, "price": price, "limit": limit,
    }  # fmt: skip
    wanted = {name: value for name, value in query.items() if value is not None}
    report = with_client(lambda client: client.usage(**wanted))
    if as_csv:
        from penstock.usage.spreadsheet import as_csv as table

        sys.stdout.write(table(report["by"], report["groups"]))
    elif wants_json(as_json):
        print_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    names, groups = report["by"], report["groups"]
    measure = _measure(groups)
    longest = max((_amount(group, measure) for group in groups), default=Decimal(0))
    shown = [name for name in _SHOWN if any(group[name] for group in groups)]
    currency = f" {harmless(report['currency'])}" if report["currency"] else ""
    rows = [
        [
            *(str(group[name]) or "–" for name in names),
            *(group[name] for name in shown),
            round(group["model_seconds"], 3),
            f"{group['cost']}{currency}",
            bar(_amount(group, measure), longest),
        ]
        for group in groups
    ]
    title = f"{report['from']} to {report['to']}, {report['time_zone']}; bars: {measure}"
    print_table([*names, *shown, "model_seconds", "cost", ""], rows, title=title)
    totals = report["totals"]
    typer.echo(f"In all: {totals['attempts']} attempts, {totals['calls']} calls, cost {totals['cost']}{currency}.")
    if report["truncated"]:
        typer.echo("There are more groups: raise --limit, or narrow the range.", err=True)
    if totals["unpriced"] and totals["cost"] != "0":
        typer.echo(f"{totals['unpriced']} calls had no price: they are not in the cost.", err=True)


def _measure(groups: list[dict[str, Any]]) -> str:
    """Return the measure that the bars show: cost where there is any, else calls, else attempts."""
    for name in ("cost", "calls"):
        if any(_amount(group, name) for group in groups):
            return name
    return "attempts"


def _amount(group: dict[str, Any], measure: str) -> Decimal:
    return Decimal(group[measure])


def bar(value: Decimal, longest: Decimal) -> str:
    """Return a bar whose length is the value's share of the longest one."""
    if longest <= 0:
        return ""
    eighths = round(value * _BAR * 8 / longest)
    if value > 0:
        eighths = max(eighths, 1)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
