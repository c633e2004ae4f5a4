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
    """Let no worker take jobs of a queue. Running jobs continue, and submits are accepted.

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


@command(app)
def limit(
    queue: Annotated[str, typer.Argument(metavar="TASK_TYPE/MODEL_PROFILE", help="The queue.")],
    per_key: Annotated[
        int | None,
        typer.Option(min=1, help="The maximum number of jobs with the same concurrency key that run at a time."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="KEY=N", help="Another number for one key; may be repeated.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the rule.")] = False,
    all_tenants: AllTenants = False,
    as_json: AsJson = False,
) -> None:
    """Limit how many jobs of a queue with the same concurrency key run at a time. Replaces an earlier rule.

    penstock queue limit transcription/whisperx --per-key 2 --key "customer 7=5"

    penstock queue limit transcription/whisperx --remove
    """
    if remove == (per_key is not None) or (remove and key):
        raise typer.BadParameter("state either --per-key, with --key if needed, or --remove", param_hint="--per-key")
    task_type, model_profile = _one_queue(queue)
    exceptions = dict(_exception(text) for text in key or [])

    _show(
        with_client(
            lambda client: client.limit_keys(
                task_type, model_profile, per_key, exceptions=exceptions, all_tenants=all_tenants
            )
        ),
        as_json,
    )


@app.command()
def limits(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    weight: Annotated[float | None, typer.Option(help="Its share of the workers, relative to other tenants.")] = None,
    max_running: Annotated[
        int | None,
        typer.Option(min=0, help="The maximum number of jobs that run at a time, in all queues; 0: no limit."),
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
    return () if queue is None else _one_queue(queue)


def _one_queue(queue: str) -> tuple[str, str]:
    task_type, separator, model_profile = queue.partition("/")
    if not separator or not task_type or not model_profile:
        raise typer.BadParameter("must be TASK_TYPE/MODEL_PROFILE", param_hint="queue")
    return task_type, model_profile


def _limit(text: str) -> tuple[tuple[str, ...], int]:
    queue, separator, most = text.rpartition("=")
    if not separator or not most.isascii() or not most.isdigit():
        raise typer.BadParameter("must be TASK_TYPE/MODEL_PROFILE=N; N = 0 removes the limit", param_hint="--queue")
    return _names(queue), int(most)


def _exception(text: str) -> tuple[str, int]:
    key, separator, most = text.rpartition("=")
    if not separator or not key or not most.isascii() or not most.isdigit() or not int(most):
        raise typer.BadParameter("must be KEY=N, with N from 1", param_hint="--key")
    return key, int(most)


def _per_key(queue: Mapping[str, Any]) -> str | None:
    """Return the numbers of the rules for concurrency keys, the tenant's own and the one for every tenant."""
    rule, shared = queue["key_rule"], queue["shared_key_limit"]
    parts = []
    if rule:
        exceptions = rule["exceptions"]
        parts.append(f"{rule['max_running']}, {len(exceptions)} exceptions" if exceptions else str(rule["max_running"]))
    if shared:
        parts.append(f"{shared} for every tenant")
    return "; ".join(parts) or None


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    if wants_json(as_json):
        print_json(found)
        return
    if found["paused_at"]:
        typer.echo(f"All queues are paused since {found['paused_at']}.")
    if found["max_running"]:
        typer.echo(f"At most {found['max_running']} jobs run at a time in all queues.")
    print_table(
        ("queue", "pending", "running", "at most", "per key", "paused since"),
        [
            (
                f"{one['task_type']}/{one['model_profile']}",
                one["pending"],
                one["running"],
                one["max_running"],
                _per_key(one),
                one["paused_at"],
            )
            for one in found["queues"]
        ],
    )
