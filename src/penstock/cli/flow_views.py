"""Display flows, runs and their steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from penstock.cli.output import harmless, local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from rich.tree import Tree

Json = dict[str, Any]

_COLORS: Final = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "dropped": "dim",
    "recorded": "dim",
    "running": "cyan",
    "waiting": "blue",
}
_WITHOUT_DURATION: Final = frozenset({"recorded", "dropped", "completed"})  # of steps whose end has no time
_MAX_ERROR: Final = 200  # characters of an error in a tree


def show_flows(found: Json, *, as_json: bool) -> None:
    """Print the flows, then runs that no runner can execute."""
    if wants_json(as_json):
        print_json(found)
        return
    print_table(
        ("flow", "runner", "unfinished runs", "description"),
        (
            (
                f"{flow['name']}@{flow['version']}",
                "yes" if flow["alive"] else "none",
                flow["unfinished"],
                _first_line(flow["description"]),
            )
            for flow in found["flows"]
        ),
    )
    for one in found["stranded"]:
        typer.echo(
            f"penstock: {one['unfinished']} unfinished runs of {harmless(one['name'])}@{harmless(one['version'])}: "
            "no runner has that version",
            err=True,
        )


def show_runs(runs: Sequence[Json], *, as_json: bool) -> None:
    """Print a list of runs."""
    if wants_json(as_json):
        print_json(runs)
        return
    print_table(
        ("run", "flow", "status", "created", "took", "held"),
        (
            (
                run["id"],
                run["model_profile"],
                run["status"],
                local_time(_moment(run["created_at"])),
                _duration(run["started_at"], run["finished_at"]),
                run["hold"],
            )
            for run in runs
        ),
    )


def tree_of(run: Json, children: Mapping[str, Json]) -> Tree:
    """Return a run as a tree of its steps; ``children`` has the runs of child flows by their ids."""
    from rich.tree import Tree

    summary = run["run"]
    root = Tree(_line(summary["model_profile"], summary["status"], summary["started_at"], summary["finished_at"]))
    root.add(_plain(f"{summary['id']}"))
    if run["difference"] is not None:
        root.add(_held(run["difference"]))
    _add_steps(root, run, children)
    if summary["error"]:
        root.add(_error(summary["error"]))
    return root


def _add_steps(root: Tree, run: Json, children: Mapping[str, Json]) -> None:
    for step in run["steps"]:
        node = root.add(_step_line(step))
        if step["error"] is not None:
            node.add(_error(step["error"]))
        child = children.get(step["job_id"] or "")
        if child is not None:
            _add_steps(node, child, children)
    if run["next_step"] is not None:
        root.add(_plain("… more steps"))


def _step_line(step: Json) -> Any:
    began = step["started_at"] or step["issued_at"]
    if step["finished_at"] is None and step["status"] in _WITHOUT_DURATION:
        began = None
    line = _line(f"{step['no']} {step['key']}", step["status"], began, step["finished_at"])
    if (items := step["items"]) is not None:
        counts = ", ".join(f"{items[name]} {name}" for name in ("completed", "failed", "running") if items[name])
        line.append(f"  {items['items']} items" + (f": {counts}" if counts else ""), style="dim")
    if step["status"] == "waiting" and step["due_at"] is not None:
        line.append(f"  until {local_time(_moment(step['due_at']))}", style="dim")
    if step["attempt"] and step["attempt"] > 1:
        line.append(f"  attempt {step['attempt']}", style="yellow")
    return line


def _line(name: str, status: str, started: str | None, finished: str | None) -> Any:
    from rich.text import Text

    line = Text(harmless(name))
    line.append(f"  {status}", style=_COLORS.get(status, ""))
    if (took := _duration(started, finished)) is not None:
        line.append(f"  {took}", style="dim")
    return line


def _held(difference: Json) -> Any:
    from rich.text import Text

    text = Text(harmless(f"held, {difference['reason']}: {difference['message']}"), style="red")
    if difference["stored"] or difference["found"]:
        text.append(harmless(f"\nhistory: {difference['stored']}\ncode:    {difference['found']}", lines=True))
    return text


def _error(error: Json) -> Any:
    from rich.text import Text

    message = harmless(error["message"], lines=True)
    return Text(f"{error['category']}: {message[:_MAX_ERROR]}{'…' if len(message) > _MAX_ERROR else ''}", style="red")


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(harmless(text), style="dim")


def _duration(started: str | None, finished: str | None) -> str | None:
    """Return the time from one moment to another, or to now."""
    if started is None:
        return None
    end = datetime.now(UTC) if finished is None else _moment(finished)
    seconds = max(0.0, (end - _moment(started)).total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _first_line(text: str) -> str:
    return next(iter(_lines(text)), "")


def _lines(text: str) -> Iterable[str]:
    return (line.strip() for line in text.splitlines() if line.strip())
