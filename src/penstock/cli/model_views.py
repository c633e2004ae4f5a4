"""Models as they are printed on a terminal; programs get the same data as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from penstock.cli.output import print_json, print_json_line, print_table, wants_json

if TYPE_CHECKING:
    from penstock.client import ModelEvent
    from penstock.models.trial import Report

_COLUMNS = ("name", "version", "runtime", "state", "description")


def show_models(page: Mapping[str, Any], *, as_json: bool) -> None:
    """Print all models, one per row, and below them the mistakes in manifests."""
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
    """Print one model, with the state and counters of each version."""
    if wants_json(as_json):
        print_json(model)
        return
    shown = (
        "name",
        "version",
        "versions",
        "runtime",
        "description",
        "state",
        "problem",
        "streams",
        "batches",
        "source",
    )
    rows = [(name, _cell(model[name])) for name in shown if model[name] not in (None, "", [], False)]
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


def show_output(value: Any, output: Path | None) -> None:
    """Print a model's output, or write it to a file; media are not printed on a terminal."""
    from penstock.client import MediaFile

    if isinstance(value, MediaFile):
        size = f"{len(value.data)} bytes of {value.media_type}"
        if output is not None:
            _write(output, value.data)
            typer.echo(f"{output}: {size}", err=True)
        elif sys.stdout.isatty():
            raise typer.BadParameter(f"the output is {size}: name a file for it", param_hint="--output")
        else:
            sys.stdout.buffer.write(value.data)
    elif output is not None:
        _write(output, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")
    elif isinstance(value, str) and sys.stdout.isatty():
        typer.echo(value)
    else:
        print_json(value)


class Chunks:
    """Prints a call's output as it arrives: with ``plain``, text without added line breaks; otherwise JSON lines."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._text = ""  # characters shown so far
        self._in_line = False  # the current line of the terminal is incomplete

    def show(self, event: ModelEvent) -> None:
        """Show the part of the output that an event holds."""
        if event.type == "chunk":
            self._show(event.data)
        elif event.type == "done" and "output" in event.data and not self._was_shown(event.data["output"]):
            self._show(event.data["output"])

    def close(self) -> None:
        """End the line that the last text has left open."""
        if self._in_line:
            self._write("\n")

    def _show(self, value: Any) -> None:
        if not self._plain:
            print_json_line(value)
            return
        delta = value.get("delta") if isinstance(value, dict) else value
        if isinstance(delta, str):
            self._text += delta
            self._write(delta)
        else:
            self._write(("\n" if self._in_line else "") + json.dumps(value, ensure_ascii=False) + "\n")

    def _was_shown(self, output: Any) -> bool:
        """Return whether the output was already shown chunk by chunk: a chat's output repeats its text."""
        texts = output.values() if isinstance(output, dict) else [output]
        return self._plain and bool(self._text) and self._text in texts

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")


def show_trial(report: Report, *, as_json: bool) -> None:
    """Print the result of a trial."""
    from penstock.models.trial import shortened

    if wants_json(as_json):
        print_json(dataclasses.asdict(report) | {"sound": report.sound})
        return
    typer.echo(f"{report.name} {report.version} ({report.runtime}): loaded in {report.load_seconds:.2f} s")
    if report.calls:
        print_table(
            ("input", "ms", "output", "verdict"),
            (
                (shortened(call.input), round(call.milliseconds, 2), shortened(call.output), call.problem or "fits")
                for call in report.calls
            ),
        )
    if report.batched is not None:
        typer.echo(f"Together: {report.batched}")
    for problem in report.problems:
        typer.secho(problem, fg="red")
    typer.echo("It works." if report.sound else "It does not work yet.")


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--output") from None


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _first_line(value: Any) -> str:
    text = str(value).partition("\n")[0]
    return text if len(text) <= 60 else text[:59] + "…"
