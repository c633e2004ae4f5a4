"""``penstock app``: apps and their requests, through the gateway at PENSTOCK_URL."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from penstock.cli import submission_options as options
from penstock.cli.gateway import read_input, with_client
from penstock.cli.output import AsJson, harmless, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.client import Client

AppName = Annotated[str, typer.Argument(metavar="APP", help="The app's name.")]
TaskId = Annotated[UUID, typer.Argument(metavar="TASK", help="The request's task_id.")]
_FINISHED: Final = frozenset({"completed", "failed", "cancelled"})
_POLL: Final = timedelta(milliseconds=500)


def list_apps(as_json: AsJson = False) -> None:
    """List the apps that workers have, with the mistakes in their files.

    penstock app list
    """
    apps = with_client(lambda client: client.apps())
    if wants_json(as_json):
        print_json(apps)
        return
    print_table(
        ("app", "version", "worker", "description"),
        (
            (app["name"], app["version"], "yes" if app["alive"] else "none", app["description"] or app["title"])
            for app in apps
        ),
    )
    for problem in (problem for app in apps for problem in app["problems"]):
        typer.echo(f"penstock: {line_of(problem)}", err=True)


def run(
    app: AppName,
    request_input: options.Input = "{}",
    user: Annotated[str, typer.Option("--user", help="The user on whose behalf the request is made.")] = "",
    priority: options.Priority = None,
    idempotency_key: options.IdempotencyKey = None,
    tag: options.NewTags = None,
    callback: options.CallbackUrl = None,
    callback_event: options.CallbackEvents = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show its stages until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a request of an app.

    penstock app run hello --user ada --input '{"text": "a penstock feeds a turbine"}' --watch
    """
    stated = {
        "user_id": user or None,
        "priority": priority,
        "idempotency_key": idempotency_key,
        "tags": tag,
        "callback": options.callback_of(callback, callback_event),
    }
    chosen: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    given = read_input(request_input)

    async def act(client: Client) -> dict[str, Any]:
        made = await client.call_app(app, given, **chosen)
        return await _watched(client, app, made["task_id"], show=not wants_json(as_json)) if watch else made

    request = with_client(act)
    _show(request, as_json=as_json)
    if watch and request["status"] != "completed":
        raise typer.Exit(1)


def result(
    app: AppName,
    task: TaskId,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until the request has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a request of an app: its state, its stages and its result.

    penstock app result hello TASK
    """

    async def act(client: Client) -> dict[str, Any]:
        if watch:
            return await _watched(client, app, str(task), show=not wants_json(as_json))
        return await client.app_result(app, task)

    _show(with_client(act), as_json=as_json)


def stats(
    app: AppName,
    user: Annotated[str | None, typer.Option("--user", help="Only this user's requests.")] = None,
    since: Annotated[str | None, typer.Option("--from", metavar="DAY", help="From this day on.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Before this day.")] = None,
    results: Annotated[bool, typer.Option("--results", help="The requests as well, newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="The maximum number of requests.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show how many requests were made by day, how they ended, how long they took, and what they cost.

    penstock app stats hello --user ada --from 2026-01-01 --to 2026-02-01
    """
    from penstock.cli.moments import day

    low = None if since is None else day(since, "--from")
    high = None if to is None else day(to, "--to")
    found = with_client(
        lambda client: client.app_stats(app, user_id=user, since=low, to=high, results=results, limit=limit)
    )
    if wants_json(as_json):
        print_json(found)
        return
    counts = ("requests", "open", "completed", "failed", "cancelled", "p50_seconds", "p95_seconds", "units")
    rows = [*found["days"], {"day": "all", **{name: found[name] for name in counts}}]
    titles = ("day", "requests", "open", "completed", "failed", "cancelled", "p50 s", "p95 s", found["price_unit"])
    print_table(titles, ((row["day"], *(row[name] for name in counts)) for row in rows))
    if found["results"] is not None:
        print_table(
            ("task", "user", "status", "created", found["price_unit"]),
            (
                (one["task_id"], one["user_id"], one["status"], one["created_at"], one["units"])
                for one in found["results"]["requests"]
            ),
        )


def line_of(problem: dict[str, Any]) -> str:
    """Return a mistake in a file as one line."""
    place = f"{problem['file']}: {problem['key']}" if problem["key"] else problem["file"]
    return harmless(f"{place}: {problem['detail']}", lines=True)


async def _watched(client: Client, app: str, task: str, *, show: bool) -> dict[str, Any]:
    """Return a request once it has ended; meanwhile print what its stages do."""
    seen: dict[int, str] = {}
    while True:
        found = await client.app_result(app, task, stages=1000)
        for stage in found["stages"]:
            if show and seen.get(stage["no"]) != stage["status"]:
                typer.echo(f"{stage['no']:>4} {harmless(stage['name'])}  {stage['status']}")
            seen[stage["no"]] = stage["status"]
        if found["status"] in _FINISHED:
            return found
        await asyncio.sleep(_POLL.total_seconds())


def _show(request: dict[str, Any], *, as_json: bool) -> None:
    if wants_json(as_json):
        print_json(request)
        return
    typer.echo(f"{request['task_id']}  {request['status']}")
    for warning in request.get("warnings", []):
        typer.echo(f"penstock: {harmless(warning)}", err=True)
    if request.get("error"):
        typer.echo(f"{request['error']['category']}: {harmless(request['error']['message'], lines=True)}")
    if request.get("result") is not None:
        print_json(request["result"])
