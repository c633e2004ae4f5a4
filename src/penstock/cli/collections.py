"""``penstock collection``: collections of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.client import Client
    from penstock.collections.collection import Collection, StoredItem

app = typer.Typer(
    help="Show and delete collections of vectors, through the gateway at PENSTOCK_URL.", no_args_is_help=True
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The collection's name.")]


@command(app, "list")
def list_collections(as_json: AsJson = False) -> None:
    """List the collections, with the number of items in each."""
    import msgspec

    found = with_client(_all)
    if wants_json(as_json):
        print_json(msgspec.to_builtins(found))
    else:
        print_table(("name", "dimension", "metric", "items", "changed"), map(_row, found))


@command(app)
def show(
    name: _Name,
    after: Annotated[str, typer.Option(metavar="KEY", help="Show the items after this key.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of items to show.")] = 20,
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Show only the items of a group.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a collection and its first items.

    penstock collection show faces --group "Ada Lovelace"
    """
    import msgspec

    collection = with_client(lambda client: client.collection(name))
    page = with_client(lambda client: client.items(name, after=after, limit=limit, group=group))
    if wants_json(as_json):
        print_json(msgspec.to_builtins(collection) | msgspec.json.decode(msgspec.json.encode(page)))
        return
    typer.echo(f"{collection.name}: {collection.items} items of {collection.dimension} dimensions, {collection.metric}")
    print_table(("key", "group", "attributes"), map(_item_row, page.items))
    if page.next is not None:
        typer.echo(f"There are more: --after {page.next}")


@command(app)
def delete(
    name: _Name,
    key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Delete only this item; may be repeated.")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Delete only the items of this group.")] = None,
) -> None:
    """Delete a collection, or some of its items.

    penstock collection delete faces --group "Ada Lovelace"
    """
    if key is None and group is None:
        with_client(lambda client: client.delete_collection(name))
        typer.echo(f"deleted the collection {name}")
        return
    deleted = with_client(lambda client: client.delete_items(name, keys=key, group=group))
    typer.echo(f"deleted {deleted.deleted} items")


async def _all(client: Client) -> list[Collection]:
    found: list[Collection] = []
    after: str | None = ""
    while after is not None:
        page = await client.collections(after=after, limit=1000)
        found += page.collections
        after = page.next
    return found


def _row(collection: Collection) -> Sequence[object]:
    changed = local_time(collection.changed_at)
    return (collection.name, collection.dimension, collection.metric, collection.items, changed)


def _item_row(item: StoredItem) -> Sequence[object]:
    return (item.key, item.group or "", bytes(item.attributes).decode())
