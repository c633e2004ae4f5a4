"""``penstock callback``: endpoints for events, and the deliveries to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, harmless, local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.callbacks.endpoint import CreatedEndpoint, DeliveryView, Endpoint
    from penstock.client import Client

app = typer.Typer(
    help="Register endpoints for events and inspect deliveries, through the gateway at PENSTOCK_URL.",
    no_args_is_help=True,
)

_COLUMNS = ("id", "url", "events", "state", "waiting", "delivered", "dead")
_DELIVERY_COLUMNS = ("id", "type", "subject", "status", "attempts", "last attempt", "next")
_TEST = "callback.test"
_TEST_SECONDS = 60.0
_TEST_POLL_SECONDS = 0.2
_Id = Annotated[UUID, typer.Argument(metavar="ID", help="The callback's id.")]


@command(app, "list")
def list_callbacks(
    of_jobs: Annotated[bool, typer.Option(help="List the endpoints that submissions of jobs named, instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the callbacks of a tenant."""

    async def act(client: Client) -> list[Endpoint]:
        found: list[Endpoint] = []
        after: UUID | None = None
        while True:
            page = await client.callbacks(of_jobs=of_jobs, after=after)
            found += page.callbacks
            if page.next is None:
                return found
            after = page.next

    _show(with_client(act), as_json=as_json)


@command(app)
def show(
    callback_id: _Id,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only waiting, delivered or dead deliveries.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of deliveries.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a callback and its newest deliveries."""
    wanted: Any = status  # the gateway checks it

    async def act(client: Client) -> tuple[Endpoint, list[DeliveryView]]:
        page = await client.deliveries(callback_id, status=wanted, limit=limit)
        return await client.callback(callback_id), page.deliveries

    endpoint, deliveries = with_client(act)
    if wants_json(as_json):
        import msgspec

        print_json(msgspec.to_builtins({"callback": endpoint, "deliveries": deliveries}))
        return
    _show([endpoint], as_json=False)
    if endpoint.failing_since is not None:
        typer.echo(f"failing since {local_time(endpoint.failing_since)}")
    print_table(_DELIVERY_COLUMNS, map(_delivery_row, deliveries))


@command(app)
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where messages are sent by POST.")],
    event: Annotated[
        list[str] | None,
        typer.Option("--event", "-e", metavar="TYPE", help="job.completed, job.*, *; may be repeated."),
    ] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Register an endpoint. Its secret is printed only now.

    penstock callback add https://shop.example/hooks --event job.completed --event job.failed
    """
    _reveal(
        with_client(lambda client: client.create_callback(url, events=event, description=description)), as_json=as_json
    )


@command(app)
def rotate(
    callback_id: _Id,
    overlap: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="For how long messages have both signatures; by default a day."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a callback a new secret, which is printed only now."""
    _reveal(with_client(lambda client: client.rotate_callback(callback_id, overlap_seconds=overlap)), as_json=as_json)


@command(app)
def disable(callback_id: _Id, as_json: AsJson = False) -> None:
    """Send nothing more until the callback is enabled."""
    _show([with_client(lambda client: client.change_callback(callback_id, disabled=True))], as_json=as_json)


@command(app)
def enable(callback_id: _Id, as_json: AsJson = False) -> None:
    """Send new events again, and the waiting deliveries."""
    _show([with_client(lambda client: client.change_callback(callback_id, disabled=False))], as_json=as_json)


@command(app)
def remove(callback_id: _Id) -> None:
    """Remove a callback and its deliveries."""
    with_client(lambda client: client.remove_callback(callback_id))


@command(app)
def replay(
    callback_id: _Id,
    delivery: Annotated[list[str] | None, typer.Argument(metavar="DELIVERY", help="Ids of deliveries.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every dead delivery, up to 10,000.")] = False,
) -> None:
    """Send deliveries that have ended again.

    penstock callback replay 01977bd3-2c11-7d70-9d5c-3a3e5b7f0c55 --dead
    """
    number = with_client(lambda client: client.replay(callback_id, ids=delivery or None, dead=dead))
    typer.echo(f"{number} {'delivery is' if number == 1 else 'deliveries are'} sent again")


@command(app, "test")
def try_out(callback_id: _Id, as_json: AsJson = False) -> None:
    """Send a test event, and show the outcome of the first attempt."""
    import asyncio
    import time

    async def newest(client: Client) -> DeliveryView | None:
        page = await client.deliveries(callback_id, limit=20)
        return next((one for one in page.deliveries if one.type == _TEST), None)

    async def act(client: Client) -> DeliveryView:
        before = await newest(client)
        await client.test_callback(callback_id)
        deadline = time.monotonic() + _TEST_SECONDS
        while time.monotonic() < deadline:
            found = await newest(client)
            if found is not None and found.attempts and (before is None or found.id != before.id):
                return found
            await asyncio.sleep(_TEST_POLL_SECONDS)
        raise typer.BadParameter(
            "nothing was sent within a minute: check that a housekeeper runs, and that the endpoint is not resting"
        )

    found = with_client(act)
    if wants_json(as_json):
        import msgspec

        print_json(msgspec.to_builtins(found))
    else:
        print_table(_DELIVERY_COLUMNS, [_delivery_row(found)])
    if found.status != "delivered":
        raise typer.Exit(1)


def _reveal(created: CreatedEndpoint, *, as_json: bool) -> None:
    """Print a callback with its secret."""
    import msgspec

    if wants_json(as_json):
        print_json(msgspec.to_builtins(created))
        return
    _show([created], as_json=False)
    typer.echo(f"secret: {created.secret}")


def _show(callbacks: Sequence[Endpoint], *, as_json: bool) -> None:
    import msgspec

    if wants_json(as_json):
        print_json(msgspec.to_builtins(callbacks))
    else:
        print_table(_COLUMNS, map(_row, callbacks))


def _row(endpoint: Endpoint) -> Sequence[object]:
    if endpoint.disabled_reason is not None:
        state = f"disabled: {endpoint.disabled_reason}"
    elif endpoint.resting_until is not None:
        state = f"rests until {local_time(endpoint.resting_until)}"
    else:
        state = "failing" if endpoint.failing_since else "enabled"
    counts = (endpoint.waiting, endpoint.delivered, endpoint.dead)
    return (endpoint.id, harmless(endpoint.url), ", ".join(endpoint.events), state, *counts)


def _delivery_row(delivery: DeliveryView) -> Sequence[object]:
    last = delivery.attempts[-1] if delivery.attempts else None
    said = "" if last is None else harmless(last.error or f"status {last.status}")
    after = "" if delivery.next_attempt_at is None else local_time(delivery.next_attempt_at)
    return (delivery.id, delivery.type, delivery.subject, delivery.status, len(delivery.attempts), said, after)
