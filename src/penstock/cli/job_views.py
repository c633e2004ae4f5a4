"""Jobs and counters as tables for a terminal; programs get the same data as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from penstock.cli.output import print_json, print_table, wants_json

Job = dict[str, Any]

_LIST_COLUMNS = ("id", "status", "queue", "owner", "attempt", "created", "error")


def show_job(job: Job, *, as_json: bool) -> None:
    """Print one job in full."""
    if wants_json(as_json):
        print_json(job)
        return
    print_table(
        ("field", "value"), ((name, _cell(value)) for name, value in job.items() if value not in (None, [], ""))
    )


def show_jobs(jobs: Sequence[Job], *, as_json: bool) -> None:
    """Print jobs, one per row."""
    if wants_json(as_json):
        print_json(jobs)
        return
    print_table(_LIST_COLUMNS, (_row(job) for job in jobs))


def show_stats(stats: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the counters of every queue, and their totals."""
    if wants_json(as_json):
        print_json(stats)
        return
    states = ("pending", "running", "waiting", "completed", "failed", "cancelled")
    rows = [
        (
            f"{queue['task_type']} / {queue['model_profile']}",
            *(queue[state] for state in states),
            _seconds(queue),
            _errors(queue),
        )
        for queue in stats["queues"]
    ]
    totals = stats["totals"]
    rows.append(("all", *(totals[state] for state in states), _seconds(stats), _errors(totals)))
    print_table(("queue", *states, "oldest pending", "errors"), rows)
    if stats["providers"]:
        print_table(
            ("provider", "model", "calls", "failed", "prompt tokens", "completion tokens", "sound", "time"),
            [_used(one) for one in stats["providers"]],
            title="\nUsage of providers",
        )


class Bars:
    """One progress bar per job, on standard error; nothing without ``show``."""

    def __init__(self, *, show: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.fields[short]}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not show)
        self._tasks: dict[str, Any] = {}
        self._progress.start()

    def update(self, job: Job) -> None:
        """Show the present state of the job."""
        job_id, status = str(job["id"]), job["status"]
        if job_id not in self._tasks:
            self._tasks[job_id] = self._progress.add_task("", total=1.0, short=job_id, status=status)
        done = 1.0 if job["finished_at"] else fraction(job)
        self._progress.update(self._tasks[job_id], completed=done, status=status)

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()


def fraction(job: Job) -> float:
    """Return the fraction of the job that is done, by its worker's ``progress``; 0 if that has no fraction."""
    progress = job.get("progress")
    value = progress.get("fraction") if isinstance(progress, dict) else progress
    return min(max(float(value), 0.0), 1.0) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _row(job: Job) -> Sequence[object]:
    error = job.get("error")
    return (
        job["id"],
        job["status"],
        f"{job['task_type']} / {job['model_profile']}",
        job["owner_service"],
        f"{job['attempt']}/{job['max_attempts']}",
        _moment(job["created_at"]),
        f"{error['category']}: {error['message']}"[:60] if error else None,
    )


def _used(one: Mapping[str, Any]) -> Sequence[object]:
    return (
        one["provider"],
        one["model"],
        one["calls"],
        one["failures"],
        one["prompt_tokens"],
        one["completion_tokens"],
        f"{one['audio_seconds']:.1f} s",
        f"{one['milliseconds'] / 1000:.1f} s",
    )


def _cell(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%m-%d %H:%M:%S")


def _seconds(counts: Mapping[str, Any]) -> str:
    age = counts.get("oldest_pending_seconds")
    return "" if age is None else f"{age:.1f} s"


def _errors(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{category} {count}" for category, count in sorted(counts["errors"].items()))
