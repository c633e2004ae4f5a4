"""``penstock job`` and ``penstock stats``: the gateway's jobs from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from penstock.cli import job_views
from penstock.cli import submission_options as options
from penstock.cli.gateway import command, read_input, with_client
from penstock.cli.job_views import Job
from penstock.cli.output import AsJson, harmless, print_json, wants_json

if TYPE_CHECKING:
    from penstock.cli.job_calls import Verb
    from penstock.client import Client

app = typer.Typer(help="Submit and follow jobs, through the gateway at PENSTOCK_URL.", no_args_is_help=True)

JobId = Annotated[UUID, typer.Argument(metavar="ID", help="The job's id.")]
JobIds = Annotated[list[UUID] | None, typer.Argument(metavar="[ID]…", help="Job ids; without any, filters select.")]
OwnerService = Annotated[str | None, typer.Option("--owner-service", help="Only this caller's jobs.")]
OwnerRef = Annotated[str | None, typer.Option("--owner-ref", help="Only jobs with this reference.")]
ConcurrencyKey = Annotated[str | None, typer.Option("--concurrency-key", help="Only jobs with this key.")]
TaskType = Annotated[str | None, typer.Option("--task-type", help="Only jobs of this type.")]
ModelProfile = Annotated[str | None, typer.Option("--model-profile", help="Only jobs for this profile.")]
Statuses = Annotated[list[str] | None, typer.Option("--status", help="Only jobs in this status; may be repeated.")]
Category = Annotated[str | None, typer.Option("--error-category", help="Only jobs with this error.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only jobs with this tag; may be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; print how many jobs match.")]


@command(app)
def submit(
    task_type: Annotated[str, typer.Argument(help="The type of the job, such as llm_chat.")],
    model_profile: Annotated[str, typer.Argument(help="The model or profile that runs it, such as qwen2.5-14b.")],
    job_input: options.Input = "{}",
    files: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="FIELD=PATH", help="Upload a file and put its id into that field of the input."),
    ] = None,
    owner_service: options.Owner = "cli",
    owner_ref: options.Reference = "",
    priority: options.Priority = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=1, max=100, help="The number of attempts before the job fails.")
    ] = None,
    run_at: options.RunAt = None,
    ttl_seconds: Annotated[
        float | None, typer.Option("--ttl", min=0, help="Seconds until the job fails if no worker has taken it.")
    ] = None,
    timeout_seconds: Annotated[
        float | None, typer.Option("--timeout", help="Time limit of one attempt, in seconds.")
    ] = None,
    idempotency_key: options.IdempotencyKey = None,
    concurrency_key: Annotated[
        str | None, typer.Option(help="A rule of the queue limits how many jobs with the same key run at a time.")
    ] = None,
    tag: options.NewTags = None,
    callback: options.CallbackUrl = None,
    callback_event: options.CallbackEvents = None,
    watch_it: Annotated[bool, typer.Option("--watch", "-w", help="Wait until the job has finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit one job.

    penstock job submit transcription whisperx --file audio_blob=meeting.wav --watch

    penstock job submit predict edges-c --file image=cat.pgm --watch
    """
    uploads = _uploads(files or [])
    fields = {
        "task_type": task_type,
        "model_profile": model_profile,
        "input": read_input(job_input),
        "owner_service": owner_service,
        "owner_ref": owner_ref,
        "priority": priority or 0,
        "max_attempts": max_attempts,
        "run_at": run_at.astimezone() if run_at else None,
        "ttl_seconds": ttl_seconds,
        "timeout_seconds": timeout_seconds,
        "idempotency_key": idempotency_key,
        "concurrency_key": concurrency_key,
        "tags": tag or [],
        "callback": options.callback_of(callback, callback_event),
    }

    async def act(client: Client) -> Job:
        from penstock.cli import job_calls

        if uploads:
            fields["input"] = await job_calls.with_uploads(client, task_type, fields["input"], uploads)
        job = await job_calls.submit(client, fields)
        for warning in job["warnings"]:
            typer.echo(f"penstock: {harmless(warning)}", err=True)
        if not watch_it:
            return job
        return (await job_calls.watch(client, [UUID(job["id"])], show=not wants_json(as_json)))[0]

    job = with_client(act)
    job_views.show_job(job, as_json=as_json)
    if watch_it:
        _exit_by([job])


@command(app)
def get(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job with all details."""
    from penstock.cli import job_calls

    job_views.show_job(with_client(lambda client: job_calls.get(client, job_id)), as_json=as_json)


@command(app)
def why(job_id: JobId, as_json: AsJson = False) -> None:
    """Show why a job does not run: its position in its queue, an estimate, and what it waits for."""
    found = with_client(lambda client: client.why(job_id))
    if wants_json(as_json):
        print_json(found)
        return
    place = f", number {found['position']} of its queue" if found["position"] else ""
    typer.echo(f"{found['status']}{place}")
    for reason in found["reasons"]:
        typer.echo(f"{reason['code']}: {harmless(reason['detail'])}")
        for running in reason["jobs"]:
            typer.echo(f"  {running}")
    if found["estimate"]:
        typer.echo(f"may begin in about {found['estimate']['seconds']:g} s: {found['estimate']['basis']}")


@command(app, "list")
def list_jobs(
    owner_service: OwnerService = None,
    owner_ref: OwnerRef = None,
    task_type: TaskType = None,
    model_profile: ModelProfile = None,
    status: Statuses = None,
    error_category: Category = None,
    concurrency_key: ConcurrencyKey = None,
    tag: Tags = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from penstock.cli import job_calls

    where = _filter(owner_service, owner_ref, task_type, model_profile, status, error_category, concurrency_key, tag)
    jobs = with_client(lambda client: job_calls.find(client, where, limit))
    job_views.show_jobs(jobs, as_json=as_json)


@command(app)
def watch(
    job_ids: Annotated[list[UUID], typer.Argument(metavar="ID…", help="Job ids.")], as_json: AsJson = False
) -> None:
    """Follow jobs until all have finished; fail when one of them did not complete."""
    from penstock.cli import job_calls

    jobs = with_client(lambda client: job_calls.watch(client, job_ids, show=not wants_json(as_json)))
    job_views.show_jobs(jobs, as_json=as_json)
    _exit_by(jobs)


@command(app)
def retry(
    job_ids: JobIds = None,
    owner_service: OwnerService = None,
    owner_ref: OwnerRef = None,
    task_type: TaskType = None,
    model_profile: ModelProfile = None,
    status: Statuses = None,
    error_category: Category = None,
    concurrency_key: ConcurrencyKey = None,
    tag: Tags = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run jobs again from the start: these, or all that match the filters."""
    where = _filter(owner_service, owner_ref, task_type, model_profile, status, error_category, concurrency_key, tag)
    _change("retry", job_ids or [], where, dry_run=dry_run, as_json=as_json)


@command(app)
def cancel(
    job_ids: JobIds = None,
    owner_service: OwnerService = None,
    owner_ref: OwnerRef = None,
    task_type: TaskType = None,
    model_profile: ModelProfile = None,
    status: Statuses = None,
    error_category: Category = None,
    concurrency_key: ConcurrencyKey = None,
    tag: Tags = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs: these, or all that match the filters."""
    where = _filter(owner_service, owner_ref, task_type, model_profile, status, error_category, concurrency_key, tag)
    _change("cancel", job_ids or [], where, dry_run=dry_run, as_json=as_json)


def stats(as_json: AsJson = False) -> None:
    """Show how many jobs there are in each queue and status."""
    from penstock.cli import job_calls

    job_views.show_stats(with_client(job_calls.stats), as_json=as_json)


def _change(verb: Verb, job_ids: list[UUID], where: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    from penstock.cli import job_calls

    if bool(job_ids) == bool(where):
        raise typer.BadParameter("name either job ids or at least one filter")
    if job_ids and dry_run:
        raise typer.BadParameter("--dry-run requires filters")
    if job_ids:
        job_views.show_jobs(with_client(lambda client: job_calls.change(client, verb, job_ids)), as_json=as_json)
        return
    changed = with_client(lambda client: job_calls.change_where(client, verb, where, dry_run=dry_run))
    if wants_json(as_json):
        print_json(changed)
    else:
        typer.echo(f"{changed['count']} jobs {'match' if dry_run else 'changed'}.")


def _uploads(stated: list[str]) -> dict[str, Path]:
    """Return the files of ``--file FIELD=PATH``, after checking that all of them exist."""
    found: dict[str, Path] = {}
    for one in stated:
        field, equals, path = one.partition("=")
        if not equals or not field:
            raise typer.BadParameter("must be FIELD=PATH, such as audio_blob=meeting.wav", param_hint="--file")
        if not Path(path).is_file():
            raise typer.BadParameter(f"there is no file {path}", param_hint="--file")
        found[field] = Path(path)
    return found


def _filter(
    owner_service: str | None,
    owner_ref: str | None,
    task_type: str | None,
    model_profile: str | None,
    status: list[str] | None,
    error_category: str | None,
    concurrency_key: str | None,
    tags: list[str] | None,
) -> dict[str, Any]:
    fields = {
        "owner_service": owner_service,
        "owner_ref": owner_ref,
        "task_type": task_type,
        "model_profile": model_profile,
        "status": status,
        "error_category": error_category,
        "concurrency_key": concurrency_key,
        "tags": tags,
    }
    return {name: value for name, value in fields.items() if value}


def _exit_by(jobs: list[Job]) -> None:
    if any(job["status"] != "completed" for job in jobs):
        raise typer.Exit(1)
