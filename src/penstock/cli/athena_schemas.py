"""``penstock athena schema``: the documents that describe services to Athena's clients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.gateway import command, read_input, with_client
from penstock.cli.output import AsJson, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.athena.protocol.schemas.description import Description
    from penstock.athena.protocol.schemas.document import Document
    from penstock.errors import FieldProblem

app = typer.Typer(
    help="Generate, check and compare the schemas of services in Athena's dialects. "
    "SOURCE is the folder or manifest of a model, a document (a JSON file), a model's name at the gateway of "
    "PENSTOCK_URL, or a URL such as http://127.0.0.1:8000/ocr; only the gateway of PENSTOCK_URL gets a key.",
    no_args_is_help=True,
)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, a manifest, a document, a name or a URL.")]
Dialect = Annotated[str, typer.Option(help="current (aipaas) or legacy.")]


@command(app)
def generate(
    source: Source,
    dialect: Dialect = "current",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the document here.")] = None,
) -> None:
    """Print the document that describes a service, made from what its code or its schema states.

    penstock athena schema generate examples/athena/ocr

    penstock athena schema generate summary --dialect legacy -o schema.json

    penstock athena schema generate http://gpu-host:8000/summary
    """
    content = _content(source, dialect)
    if output is None:
        print_json(content)
        return
    import json

    output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    typer.echo(f"wrote {output}")


@command(app)
def validate(
    source: Source,
    request: Annotated[
        str | None,
        typer.Argument(metavar="[REQUEST]", help="A request: JSON, @FILE, or - for standard input."),
    ] = None,
    later: Annotated[bool, typer.Option("--later", help="The request is a later message of a session.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a document, or a request against one. The exit status is 1 if there are mistakes.

    penstock athena schema validate schema.json

    penstock athena schema validate ocr @request.json
    """
    from penstock.athena.protocol.requests import read_request
    from penstock.athena.protocol.schemas.rules import Rules
    from penstock.errors import InvalidInput

    try:
        rules = Rules(_document(source))
        if request is not None:
            message = read_input(request)
            if not isinstance(message, dict):
                raise InvalidInput.of("body", "must be a JSON object with header, parameter and payload")
            read_request(rules.later(message) if later else rules.first(message))
    except InvalidInput as error:
        _show_problems(error.problems, as_json=as_json)
        raise typer.Exit(1) from None
    _show_problems((), as_json=as_json)


@command(app)
def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The older one: a SOURCE.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The newer one: a SOURCE.")],
    as_json: AsJson = False,
) -> None:
    """Compare two documents of a service. The exit status is 1 if a change breaks clients.

    penstock athena schema diff released.json ./ocr
    """
    from penstock.athena.protocol.schemas.differences import differences

    found = differences(_document(before), _document(after))
    breaking = any(one.breaking for one in found)
    if wants_json(as_json):
        changes = [{"path": one.path, "change": one.change, "breaking": one.breaking} for one in found]
        print_json({"breaking": breaking, "changes": changes})
    elif found:
        print_table(("", "path", "change"), (("BREAKS" if one.breaking else "", one.path, one.change) for one in found))
    else:
        typer.echo("No differences.")
    if breaking:
        raise typer.Exit(1)


def _show_problems(problems: tuple[FieldProblem, ...], *, as_json: bool) -> None:
    if wants_json(as_json):
        found = [{"field": one.field, "detail": one.detail} for one in problems]
        print_json({"valid": not problems, "problems": found})
    elif problems:
        print_table(("field", "problem"), ((one.field, one.detail) for one in problems))
    else:
        typer.echo("Valid.")


def _document(source: str) -> Document:
    from penstock.athena.protocol.schemas.document import Document

    return Document(_content(source, "current"))


def _content(source: str, dialect: str) -> dict[str, Any]:
    """Return the content of a document: as its file has it, or made from what describes the service."""
    from penstock.athena.protocol.schemas.dialects import Dialect, document_of

    if dialect not in set(Dialect):
        raise typer.BadParameter(f"must be one of {', '.join(Dialect)}", param_hint="--dialect")
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        from penstock.athena.protocol.schemas.document import Document

        return dict(Document.read(path.read_bytes()).content)
    description = _of_files(path) if path.exists() else _of_gateway(source)
    return document_of(description, Dialect(dialect))


def _of_files(path: Path) -> Description:
    """Return the description of the model in a folder, or of a manifest."""
    import asyncio

    from penstock.athena.protocol.schemas.description import of_schema
    from penstock.models import describing
    from penstock.models.manifest import file_in
    from penstock.settings import Settings
    from penstock.telemetry import logs

    logs.configure(level="error", stream=sys.stderr)
    manifest = (file_in(path) if path.is_dir() else path).absolute()
    model, schema = asyncio.run(describing.schema_of(manifest, private=Settings.descriptions()))
    sessions = schema.session is not None
    return of_schema(schema.input, schema.output, name=model.name, version=model.version, sessions=sessions)


def _of_gateway(source: str) -> Description:
    """Return the description of a model of a running Penstock."""
    from urllib.parse import urlsplit

    from penstock.athena.protocol.schemas.description import of_schema

    url, name = None, source
    if "://" in source:
        parts = urlsplit(source)
        url, name = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/").rpartition("/")[2]
    if not name:
        raise typer.BadParameter("must end with the name of a model, such as http://127.0.0.1:8000/ocr")
    model = with_client(lambda client: client.model(name), url=url)
    return of_schema(
        model["input_schema"] or {},
        model["output_schema"] or {},
        name=model["name"],
        version=model["version"],
        sessions=model.get("session") is not None,
    )
