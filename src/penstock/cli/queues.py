"""``penstock queue``: list, pause and resume queues, and limit what tenants run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, print_json, print_table, wants_json

app = typer.Typer(help="List, pause and resume queues, through the gateway at PENSTOCK_URL.", no_args_is_help=True)

Queue = Annotated[
    str | None, typer.Argument(metavar="[TASK_TYPE/MODEL_PROFILE]", help="One queue; without it, all of the tenant.")
]
AllTenants = Annotated[bool, typer.Option("--all-tenants", help="The queue of every tenant; for operators.")]


@command(app, "list")
def list_queues(as_json: AsJson = False) -> None:
    """List queues: their jobs, pauses and limits."""
    _show(with_client(lambda client: client.queues()), as_json)


@command(app)
def pause(queue: Queue = None, all_tenants: AllTenants = False, as_json: AsJson = False) -> None:
    """Let no worker take jobs of a queue. Running jobs go on, and submits are accepted.

    penstock queue pause transcription/whisperx

    penstock queue pause --tenant acme
    """
    names = _names(queue)
    _show(with_client(lambda client: client.pause_queue(*names, all_tenants=all_tenants)), as_json)


@command(app)
def resume(queue: Queue = None, all_tenants: AllTenants = False, as_json: AsJson = False) -> None:
    """Resume what was paused with the same arguments."""
    names = _names(queue)
    _show(with_client(lambda client: client.resume_queue(*names, all_tenants=all_tenants)), as_json)


@app.command()
def limits(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    weight: Annotated[float | None, typer.Option(help="Its share of the workers, relative to other tenants.")] = None,
    max_running: Annotated[
        int | None, typer.Option(min=0, help="The most jobs that run at a time, in all queues; 0: no limit.")
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK_TYPE/MODEL_PROFILE=N", help="The same for one queue; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the limits of a tenant, or change those that are given.

    penstock queue limits acme --weight 3 --max-running 20 --queue transcription/whisperx=4
    """
    by_queue = dict(_limit(text) for text in queue or [])

    async def act(client: Any) -> dict[str, Any]:
        found: dict[str, Any] = await client.tenant_limits(tenant)
        if weight is None and max_running is None and not by_queue:
            return found
        queues = {(one["task_type"], one["model_profile"]): one["max_running"] for one in found["queues"]} | by_queue
        changed: dict[str, Any] = await client.set_tenant_limits(
            tenant,
            weight=found["weight"] if weight is None else weight,
            max_running=(found["max_running"] if max_running is None else max_running) or None,
            queues={name: most for name, most in queues.items() if most},
        )
        return changed

    found = with_client(act, of_tenant=False)
    if wants_json(as_json):
        print_json(found)
        return
    rows = [("weight", found["weight"]), ("running jobs", found["max_running"] or "no limit")]
    rows += [(f"{one['task_type']}/{one['model_profile']}", one["max_running"]) for one in found["queues"]]
    print_table(("limit", tenant), rows)


def _names(queue: str | None) -> tuple[str, str] | tuple[()]:
    """Return task type and model profile; a profile's name may hold slashes."""
    if queue is None:
        return ()
    task_type, separator, model_profile = queue.partition("/")
    if not separator or not task_type or not model_profile:
        raise typer.BadParameter("must be TASK_TYPE/MODEL_PROFILE", param_hint="queue")
    return task_type, model_profile


def _limit(text: str) -> tuple[tuple[str, ...], int]:
    queue, separator, most = text.rpartition("=")
    if not separator or not most.isascii() or not most.isdigit():
        raise typer.BadParameter("must be TASK_TYPE/MODEL_PROFILE=N; N = 0 removes the limit", param_hint="--queue")
    return _names(queue), int(most)


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    if wants_json(as_json):
        print_json(found)
        return
    if found["paused_at"]:
        typer.echo(f"All queues are paused since {found['paused_at']}.")
    if found["max_running"]:
        typer.echo(f"At most {found['max_running']} jobs run at a time in all queues.")
    print_table(
        ("queue", "pending", "running", "at most", "paused since"),
        [
            (
                f"{one['task_type']}/{one['model_profile']}",
                one["pending"],
                one["running"],
                one["max_running"],
                one["paused_at"],
            )
            for one in found["queues"]
        ],
    )
