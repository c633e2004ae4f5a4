"""``penstock compare``: compare providers over many jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from penstock.cli.gateway import with_client
from penstock.cli.output import AsJson, harmless, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.client import Client

_ERROR_LENGTH = 80  # characters of a provider's most common error in a row


def compare(
    job_ids: Annotated[
        list[UUID] | None, typer.Argument(metavar="[JOB]…", help="Job ids; without any, filters select jobs.")
    ] = None,
    task_type: Annotated[str | None, typer.Option("--task-type", help="Only jobs of this type.")] = None,
    model_profile: Annotated[str | None, typer.Option("--model-profile", help="Only jobs for this profile.")] = None,
    owner_service: Annotated[str | None, typer.Option("--owner-service", help="Only this caller's jobs.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only jobs with this tag; repeated: with all of them.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=5000, help="Only this many of the newest jobs.")
    ] = 500,
    as_json: AsJson = False,
) -> None:
    """Compare providers: how often they fail, how long they take, and how far their texts agree.

    Compares them over the named jobs, or over the newest finished ones. For a single job, the texts are shown too.
    """
    where = {"task_type": task_type, "model_profile": model_profile, "owner_service": owner_service, "tags": tag}
    stated: dict[str, Any] = {name: value for name, value in where.items() if value}
    if job_ids and stated:
        raise typer.BadParameter("name either job ids or filters")

    async def act(client: Client) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        from penstock.jobs.filters import JobFilter

        if not job_ids:
            return await client.compare(where=JobFilter(**stated), limit=limit), []
        summary = await client.compare(job_ids)
        return summary, await _texts(client, job_ids[0]) if len(job_ids) == 1 else []

    summary, attempts = with_client(act)
    if wants_json(as_json):
        print_json(summary | {"attempts": attempts} if attempts else summary)
        return
    _show(summary)
    for attempt in attempts:
        heard = attempt.get("text") if attempt.get("status") == "completed" else attempt.get("error")
        head = f"{attempt.get('provider')} ({attempt.get('model')}), {attempt.get('status')}:"
        typer.echo(f"\n{harmless(head)}\n{harmless(str(heard or ''), lines=True)}")


async def _texts(client: Client, job_id: UUID) -> list[dict[str, Any]]:
    """Print the results of every provider in a job's result."""
    result: Any = (await client.get(job_id)).result
    attempts = result.get("attempts") if isinstance(result, dict) else None
    return [one for one in attempts if isinstance(one, dict)] if isinstance(attempts, list) else []


def _show(summary: Mapping[str, Any]) -> None:
    if not summary["jobs"]:
        typer.echo("None of the selected jobs that have finished called a provider.")
        return
    typer.echo(f"{summary['jobs']} job{'' if summary['jobs'] == 1 else 's'}")
    print_table(
        (
            "provider",
            "models",
            "calls",
            "failed",
            "p50 ms",
            "p95 ms",
            "time per s of sound",
            "tokens",
            "most common error",
        ),
        [_provider(one) for one in summary["providers"]],
    )
    if summary["agreement"]:
        typer.echo("")
        print_table(
            ("reference", "compared with", "jobs", "word errors", "median", "worst"),
            [
                (one["reference"], one["hypothesis"], one["jobs"], *(_percent(one[name]) for name in _RATES))
                for one in summary["agreement"]
            ],
        )


_RATES = ("wer", "wer_median", "wer_worst")


def _provider(one: Mapping[str, Any]) -> Sequence[object]:
    latency = one["latency_ms"] or {}
    errors = list(one["errors"])
    factor = one["realtime_factor"]
    return (
        one["provider"],
        ", ".join(one["models"]),
        one["calls"],
        f"{one['failed']} ({_percent(one['failure_rate'])})" if one["failed"] else "0",
        latency.get("p50"),
        latency.get("p95"),
        None if factor is None else f"{factor:.3f} s",
        one["prompt_tokens"] + one["completion_tokens"] or None,
        errors[0][:_ERROR_LENGTH] if errors else None,
    )


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f} %"
