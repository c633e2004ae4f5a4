"""How models look on a terminal; programs get the same data as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from penstock.cli.output import print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.models.trial import Report

_COLUMNS = ("name", "version", "runtime", "state", "description")


def show_models(page: Mapping[str, Any], *, as_json: bool) -> None:
    """Print all models, one a row, and below them what is wrong with manifests."""
    if wants_json(as_json):
        print_json(page)
        return
    print_table(_COLUMNS, ([_first_line(model[name]) for name in _COLUMNS] for model in page["models"]))
    for file, problem in page["problems"].items():
        typer.secho(f"{file}: {problem}", fg="red")
    for model in page["models"]:
        if model["problem"]:
            typer.secho(f"{model['name']}: {model['problem']}", fg="red")


def show_model(model: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one model: what it is, and how each version does."""
    if wants_json(as_json):
        print_json(model)
        return
    told = ("name", "version", "versions", "runtime", "description", "state", "problem", "streams", "batches", "source")
    rows = [(name, _cell(model[name])) for name in told if model[name] not in (None, "", [], False)]
    takes = (model["input_schema"] or {}).get("properties", {})
    rows.append(("takes", ", ".join(takes) or "anything"))
    print_table(("field", "value"), rows)
    for version in model["details"]:
        counts = version["counts"]
        failed = ", ".join(f"{reason} {count}" for reason, count in counts["failed"].items()) or "none"
        mean = counts["mean_seconds"]
        typer.echo(
            f"\nVersion {version['version']}: {version['state']}; {version['in_flight']} in flight, "
            f"{version['waiting']} waiting; {counts['completed']} completed"
            f"{'' if mean is None else f' in {1000 * mean:.1f} ms each'}; failed: {failed}; "
            f"{version['restarts']} restarts"
        )
        if version["replicas"]:
            names = ("name", "pid", "state", "in_flight", "answers", "uptime_seconds", "load_seconds")
            print_table(names, ([replica[name] for name in names] for replica in version["replicas"]))


def show_line(line: Mapping[str, Any]) -> None:
    """Print one line of a log."""
    at = datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    colour = {"warning": "yellow", "error": "red", "debug": "bright_black"}.get(line["level"])
    mark = f" {line['request_id'][:12]}" if line["request_id"] else ""
    typer.secho(f"{at} {line['level']:7} {line['replica']}{mark}  {line['message']}", fg=colour)


def show_trial(report: Report, *, as_json: bool) -> None:
    """Print what a trial found."""
    if wants_json(as_json):
        print_json(dataclasses.asdict(report) | {"sound": report.sound})
        return
    typer.echo(f"{report.name} {report.version} ({report.runtime}): loaded in {report.load_seconds:.2f} s")
    if report.calls:
        print_table(
            ("input", "ms", "output", "verdict"),
            ((call.input, round(call.milliseconds, 2), call.output, call.problem or "fits") for call in report.calls),
        )
    if report.batched is not None:
        typer.echo(f"Together: {report.batched}")
    for problem in report.problems:
        typer.secho(problem, fg="red")
    typer.echo("It works." if report.sound else "It does not work yet.")


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _first_line(value: Any) -> str:
    text = str(value).partition("\n")[0]
    return text if len(text) <= 60 else text[:59] + "…"
