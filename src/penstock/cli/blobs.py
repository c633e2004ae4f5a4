"""``penstock blob``: files that the gateway keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.client import Client

app = typer.Typer(help="Keep files at the gateway at PENSTOCK_URL, for jobs to use.", no_args_is_help=True)

BlobId = Annotated[UUID, typer.Argument(metavar="ID", help="The blob's id.")]


@command(app)
def put(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file.")],
    media_type: Annotated[str | None, typer.Option(help="Its media type; guessed from its name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file and print its id.

    penstock blob put meeting.wav
    """
    import msgspec

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
            raise typer.BadParameter("the file may not be text: state where to write it", param_hint="--output")
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


def _download(blob_id: UUID, to: IO[bytes]) -> None:
    async def read(client: Client) -> None:
        async for piece in client.download_pieces(blob_id):
            to.write(piece)

    with_client(read)
    to.flush()
