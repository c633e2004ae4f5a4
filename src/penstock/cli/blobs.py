"""``penstock blob``: files that the gateway keeps."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.blobs.service import BlobService
    from penstock.client import Client
    from penstock.postgres.pool import Database

T = TypeVar("T")

app = typer.Typer(help="Upload files to the gateway at PENSTOCK_URL, for jobs to use.", no_args_is_help=True)

_IN_ONE = 64 * 2**20  # bytes of a file that is sent in one request

BlobId = Annotated[UUID, typer.Argument(metavar="ID", help="The blob's id.")]


@command(app)
def put(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file.")],
    media_type: Annotated[str | None, typer.Option(help="The media type; by default guessed from the name.")] = None,
    resume: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Continue the upload in parts of that id, which ended early.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file and print its id. One of more than 64 MiB is sent in parts, and can be resumed.

    penstock blob put meeting.wav
    """
    import msgspec

    def begun(upload_id: UUID) -> None:
        typer.echo(f"if this is interrupted: penstock blob put {file} --resume {upload_id}", err=True)

    if resume is not None or file.stat().st_size > _IN_ONE:
        blob = with_client(lambda client: client.upload_in_parts(file, media_type, upload_id=resume, on_begin=begun))
    else:
        blob = with_client(lambda client: client.upload(file, media_type))
    known = msgspec.to_builtins(blob)
    if wants_json(as_json):
        print_json(known)
    else:
        print_table(("field", "value"), known.items())


@command(app)
def get(
    blob_id: BlobId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here.")] = None,
) -> None:
    """Download a file, to standard output or to a file, which is written as a whole or not at all.

    penstock blob get 01990000-0000-7000-8000-000000000007 -o meeting.wav
    """
    if output is None:
        if sys.stdout.isatty():
            raise typer.BadParameter("the file may be binary: state where to write it", param_hint="--output")
        _download(blob_id, sys.stdout.buffer)
        return
    partial = output.with_name(output.name + ".part")
    try:
        with partial.open("wb") as file:
            _download(blob_id, file)
        partial.replace(output)
    except OSError as error:
        raise typer.BadParameter(f"{error.filename or output}: {error.strerror}", param_hint="--output") from None
    finally:
        partial.unlink(missing_ok=True)


@command(app)
def delete(blob_id: BlobId) -> None:
    """Delete a file before it expires."""
    with_client(lambda client: client.delete_blob(blob_id))


@command(app)
def url(
    blob_id: BlobId,
    ttl: Annotated[int, typer.Option(help="Seconds for which it is valid.", min=1, max=604_800)] = 3600,
) -> None:
    """Print a URL from which anyone may download a file, without a key, for an hour.

    penstock blob url 01990000-0000-7000-8000-000000000007 --ttl 60
    """
    from datetime import timedelta

    typer.echo(with_client(lambda client: client.blob_url(blob_id, ttl=timedelta(seconds=ttl))))


@command(app)
def migrate(as_json: AsJson = False) -> None:
    """Move files to the store that PENSTOCK_BLOB_URL names now, while the system runs.

    Set PENSTOCK_BLOB_URL to the new store and PENSTOCK_BLOB_PREVIOUS_URLS to the old one on every host, restart the
    processes, and run this on a host that reaches both and the database. It may be interrupted and repeated.
    """
    from penstock.blobs.moving import Mover

    async def move(database: Database, blobs: BlobService) -> Mover:
        mover = Mover(database, blobs, report=lambda tally: None if as_json else _progress(tally.moved, tally.bytes))
        await mover.run()
        return mover

    mover = _with_stores(move)
    left = [{"id": str(one.id), "reason": one.reason} for one in mover.unmoved]
    if wants_json(as_json):
        print_json({"moved": mover.tally.moved, "bytes": mover.tally.bytes, "gone": mover.tally.gone, "unmoved": left})
    else:
        typer.echo(f"moved {mover.tally.moved} files of {mover.tally.bytes} bytes")
        if left:
            print_table(("unmoved", "reason"), ((one["id"], one["reason"]) for one in left))
    if left:
        raise typer.Exit(1)


@command(app)
def check(as_json: AsJson = False) -> None:
    """Compare the stores of files with the database, as the housekeeper does once a day.

    Objects that nothing refers to are removed once they are two days old. Files whose bytes are gone are listed.
    """
    from penstock.blobs.reconciler import Comparison, Findings

    async def compare(database: Database, blobs: BlobService) -> dict[str, Findings]:
        found = {}
        for objects in blobs.stores.outside():
            comparison = Comparison(database, blobs.stores, objects)
            while await comparison.step():
                pass
            found[objects.url] = comparison.found
        return found

    found = _with_stores(compare)
    rows: list[dict[str, Any]] = [
        {"store": url, "objects": one.objects, "orphans": one.orphans, "foreign": one.foreign,
         "missing": [str(blob_id) for blob_id in one.missing]}
        for url, one in found.items()
    ]  # fmt: skip
    if wants_json(as_json):
        print_json(rows)
    else:
        columns = ("store", "objects", "orphans", "foreign")
        print_table((*columns, "missing"), ([*(row[name] for name in columns), len(row["missing"])] for row in rows))
        for one in found.values():
            for blob_id in one.missing:
                typer.echo(f"missing: {blob_id}")
    if any(one.missing for one in found.values()):
        raise typer.Exit(1)


def _progress(moved: int, size: int) -> None:
    if moved % 100 == 0:
        typer.echo(f"{moved} files of {size} bytes …", err=True)


def _with_stores(work: Callable[[Database, BlobService], Awaitable[T]]) -> T:
    """Run ``work`` with the database and the stores of the settings; needs no gateway."""
    import asyncio

    from penstock.assembly.shared import Shared
    from penstock.settings import load_settings
    from penstock.telemetry import logs

    settings = load_settings()
    logs.configure(
        level="warning", form=settings.penstock_log_format, secrets=settings.secret_values(), stream=sys.stderr
    )

    async def run() -> T:
        shared = Shared(settings, role="command")
        try:
            return await work(shared.database, shared.blobs)
        finally:
            await shared.close()

    return asyncio.run(run())


def _download(blob_id: UUID, to: IO[bytes]) -> None:
    async def read(client: Client) -> None:
        async for piece in client.download_pieces(blob_id):
            to.write(piece)

    with_client(read)
    to.flush()
