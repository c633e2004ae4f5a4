"""``penstock flow``: flows and their runs from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from penstock.cli import flow_views, job_views
from penstock.cli import submission_options as options
from penstock.cli.gateway import command, read_input, with_client
from penstock.cli.output import AsJson, print_json, wants_json
from penstock.errors import WrongState

if TYPE_CHECKING:
    from penstock.callbacks.callback import Callback
    from penstock.client import Client

app = typer.Typer(help="Start and follow runs of flows, through the gateway at PENSTOCK_URL.", no_args_is_help=True)

RunId = Annotated[UUID, typer.Argument(metavar="RUN", help="The run's id.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the flow and of its file.")],
    folder: Annotated[Path, typer.Option(help="The folder for its file.")] = Path(),
) -> None:
    """Create a small working flow, as a starting point.

    penstock flow new greeting --folder flows
    """
    from penstock.flows import skeleton

    path = skeleton.write(name, folder)
    typer.echo(f"created {path}")
    typer.echo(f"Serve it: PENSTOCK_FLOWS_DIR={path.parent} penstock serve")


@command(app, "list")
def list_runs(
    flow: Annotated[str | None, typer.Option("--flow", metavar="NAME@VERSION", help="Only runs of this flow.")] = None,
    status: Annotated[str | None, typer.Option(help="Only runs in this status.")] = None,
    owner_service: Annotated[str | None, typer.Option("--owner-service", help="Only this caller's runs.")] = None,
    owner_ref: Annotated[str | None, typer.Option("--owner-ref", help="Only runs with this reference.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Only held runs.")] = False,
    stranded: Annotated[bool, typer.Option("--stranded", help="Only runs of versions that no runner has.")] = False,
    flows: Annotated[bool, typer.Option("--flows", help="List flows instead of runs.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of runs.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first, or the flows that can be started.

    penstock flow list --flows

    penstock flow list --stranded
    """
    if flows:
        flow_views.show_flows(with_client(lambda client: client.flows()), as_json=as_json)
        return
    stated = {"flow": flow, "status": status, "owner_service": owner_service, "owner_ref": owner_ref}
    filters: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    filters |= {name: True for name, wanted in (("held", held), ("stranded", stranded)) if wanted}
    page = with_client(lambda client: client.runs(limit=limit, **filters))
    flow_views.show_runs(page["runs"], as_json=as_json)


@command(app)
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The flow's name.")],
    run_input: options.Input = "{}",
    version: Annotated[str | None, typer.Option(help="The version; by default the most recent one.")] = None,
    owner_service: options.Owner = "cli",
    owner_ref: options.Reference = "",
    priority: options.Priority = None,
    run_at: options.RunAt = None,
    idempotency_key: options.IdempotencyKey = None,
    tag: options.NewTags = None,
    callback: options.CallbackUrl = None,
    callback_event: options.CallbackEvents = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show its steps until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run of a flow.

    penstock flow run greeting --input '{"name": "Ada"}' --watch
    """
    stated = {
        "version": version,
        "owner_service": owner_service,
        "owner_ref": owner_ref,
        "priority": priority,
        "run_at": run_at.astimezone() if run_at else None,
        "idempotency_key": idempotency_key,
        "tags": tag,
        "callback": _callback(callback, callback_event),
    }
    chosen: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    given = read_input(run_input)

    async def act(client: Client) -> dict[str, Any]:
        from penstock.cli import flow_calls

        started = flow_calls.plain(await client.start_flow(name, given, **chosen))
        if not watch:
            return started
        await flow_calls.follow(client, UUID(started["id"]), show=not wants_json(as_json))
        return flow_calls.plain(await client.get(started["id"]))

    job = with_client(act)
    job_views.show_job(job, as_json=as_json)
    if watch and job["status"] != "completed":
        raise typer.Exit(1)


@command(app)
def show(
    run_id: RunId,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until the run has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run as a tree of its steps, with their durations and the steps of child flows."""
    from penstock.cli import flow_calls

    with_client(lambda client: flow_calls.show(client, run_id, watch=watch, as_json=wants_json(as_json)))


@command(app)
def signal(
    run_id: RunId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The signal's name.")],
    payload: Annotated[
        str, typer.Option("--payload", "-p", metavar="JSON", help="JSON, @FILE, or - for standard input.")
    ] = "null",
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated signal with the same key arrives once.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a signal to a run.

    penstock flow signal RUN approved --payload '{"by": "Ada"}'
    """
    value = read_input(payload)
    reply = with_client(lambda client: client.signal_run(run_id, name, value, idempotency_key=idempotency_key))
    if wants_json(as_json):
        print_json(reply)
    else:
        typer.echo("it was sent before" if reply["repeated"] else "sent")


@command(app)
def cancel(
    run_id: RunId,
    force: Annotated[bool, typer.Option("--force", help="End it at once, without its code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Request that a run stop. Its code may clean up first; its child jobs are cancelled."""
    from penstock.cli import flow_calls

    job = with_client(lambda client: flow_calls.cancelled(client, run_id, force=force))
    job_views.show_job(job, as_json=as_json)


@command(app)
def retry(run_id: RunId, as_json: AsJson = False) -> None:
    """Retry a failed run from the step that failed, which gets a new job."""
    from penstock.cli import flow_calls

    job_views.show_job(with_client(lambda client: flow_calls.retried(client, run_id)), as_json=as_json)


@command(app)
def rerun(
    run_id: RunId,
    step: Annotated[int, typer.Option("--from", min=0, metavar="STEP", help="The number of the first new step.")],
    run_input: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON", help="A different input: JSON, @FILE, or -.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a new run that reuses the steps of another before one. penstock flow show prints the numbers.

    penstock flow rerun RUN --from 3
    """
    from penstock.cli import flow_calls

    options = {} if run_input is None else {"input": read_input(run_input)}
    job = with_client(lambda client: flow_calls.run_again(client, run_id, step, options))
    job_views.show_job(job, as_json=as_json)


@command(app)
def release(run_id: RunId, as_json: AsJson = False) -> None:
    """Release a held run; it also continues by itself once a runner has different code for its version."""
    from penstock.cli import flow_calls

    job_views.show_job(with_client(lambda client: flow_calls.released(client, run_id)), as_json=as_json)


@command(app)
def check(
    runs: Annotated[
        list[UUID] | None, typer.Argument(metavar="[RUN]…", help="Run ids; without any, the newest.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The folder of the flows; by default PENSTOCK_FLOWS_DIR.")] = None,
    flow: Annotated[str | None, typer.Option("--flow", metavar="NAME@VERSION", help="Only runs of this flow.")] = None,
    version: Annotated[
        str | None, typer.Option("--as", metavar="VERSION", help="Check with the code of this version.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of runs.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Replay stored runs with the code of this machine: would it repeat them? Nothing is executed or changed.

    penstock flow check --folder flows

    penstock flow check RUN --as 3
    """
    from penstock.cli import flow_checks

    code = flow_checks.folder_of(folder)

    async def act(client: Client) -> list[flow_checks.Checked]:
        found = runs or _with_code((await client.runs(limit=limit, **_of(flow)))["runs"])
        return await flow_checks.check(client, found, code, version=version)

    checked = with_client(act)
    flow_checks.show(checked, as_json=as_json)
    if any(one.problem for one in checked):
        raise typer.Exit(1)


@command(app)
def move(
    run_id: RunId,
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="The version to continue with.")],
    folder: Annotated[Path | None, typer.Option(help="The folder of the flows; by default PENSTOCK_FLOWS_DIR.")] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not check the code of this machine first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Continue a run with the code of another version, once its history has been replayed with that code.

    penstock flow move RUN --to 3
    """
    from penstock.cli import flow_calls, flow_checks

    code = None if unchecked else flow_checks.folder_of(folder)

    async def act(client: Client) -> dict[str, Any]:
        if code is not None:
            (checked,) = await flow_checks.check(client, [run_id], code, version=to)
            if checked.problem:
                raise WrongState(f"run {run_id} cannot continue with version {to}: {checked.problem}")
        return flow_calls.plain(await client.move_run(run_id, to))

    job_views.show_job(with_client(act), as_json=as_json)


def _with_code(runs: list[dict[str, Any]]) -> list[UUID]:
    """Return the ids of runs of flows; maps have no code."""
    return [UUID(one["id"]) for one in runs if "@" in one["model_profile"]]


def _of(flow: str | None) -> dict[str, Any]:
    return {} if flow is None else {"flow": flow}


def _callback(url: str | None, events: list[str] | None) -> Callback | None:
    from penstock.callbacks.callback import Callback

    stated = options.callback_of(url, events)
    return None if stated is None else Callback(**stated)
