"""``penstock model``: the gateway's models from the command line, and models in the making."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import model_views
from penstock.cli.gateway import read_input, with_client
from penstock.cli.output import AsJson, print_json, print_json_line, wants_json

if TYPE_CHECKING:
    from penstock.client import Client, ModelEvent

app = typer.Typer(help="Call models and look after them, through the gateway at PENSTOCK_URL.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
Version = Annotated[str | None, typer.Option(help="A version; without it the newest.")]
Fields = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]…", help="Fields of the input: JSON where it is JSON, otherwise text."),
]
Input = Annotated[
    str | None, typer.Option("--input", "-i", metavar="JSON", help="The input: JSON, @FILE, or - for standard input.")
]
Files = Annotated[list[str] | None, typer.Option("--file", "-f", metavar="FIELD=PATH", help="Media of the input.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List all models, and the manifests that cannot be read."""
    model_views.show_models(with_client(lambda client: client.models()), as_json=as_json)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one model: its versions, replicas, load and counters."""
    model_views.show_model(with_client(lambda client: client.model(name)), as_json=as_json)


@app.command()
def schema(name: Name) -> None:
    """Print what a model takes and gives, as JSON Schema."""
    model = with_client(lambda client: client.model(name))
    print_json({"input": model["input_schema"], "output": model["output_schema"], "streams": model["streams"]})


@app.command()
def add(
    name: Annotated[str | None, typer.Argument(help="Its name; alone: a model of the server's folder.")] = None,
    runtime: Annotated[str | None, typer.Option(help="http or openai.")] = None,
    url: Annotated[str | None, typer.Option(help="http: where the server takes the input by POST.")] = None,
    base_url: Annotated[str | None, typer.Option(help="openai: such as http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="openai: the name that the server knows the model by.")] = None,
    task: Annotated[str | None, typer.Option(help="openai: chat, embeddings or transcription.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="A manifest as TOML or JSON instead.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the version if it is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a model that another server runs, or one of the server's folder by name.

    penstock model add shout --runtime http --url http://127.0.0.1:8888/predict
    """
    stated = _read_manifest(manifest) if manifest is not None else {}
    if name is not None:
        stated["name"] = name
    if runtime is not None:
        stated["runtime"] = runtime
    options = {"url": url, "base_url": base_url, "model": model, "task": task}
    given = {key: value for key, value in options.items() if value is not None}
    if given:
        if "runtime" not in stated:
            raise typer.BadParameter("goes with --runtime", param_hint=f"--{next(iter(given)).replace('_', '-')}")
        stated[stated["runtime"]] = stated.get(stated["runtime"], {}) | given
    if "name" not in stated:
        raise typer.BadParameter("name the model, or a --manifest that does")
    model_views.show_model(with_client(lambda client: client.add_model(stated, replace=replace)), as_json=as_json)


@app.command()
def remove(name: Name, version: Version = None) -> None:
    """Take a model away, or one version of it; what it runs is finished."""
    with_client(lambda client: client.remove_model(name, version=version))


@app.command()
def reload(name: Name, version: Version = None, as_json: AsJson = False) -> None:
    """Import and load a model again; calls go on meanwhile."""
    model_views.show_model(with_client(lambda client: client.reload_model(name, version=version)), as_json=as_json)


@app.command()
def predict(
    name: Name,
    fields: Fields = None,
    whole: Input = None,
    files: Files = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the output here.")] = None,
    version: Version = None,
) -> None:
    """Call a model and print its output.

    penstock model predict summary text="A penstock feeds a turbine." words=2

    penstock model predict edges -f image=cat.pgm -o edges.pgm
    """
    from penstock.client import MediaAnswer

    given, media = _input(fields, whole), _files(files)
    answer = with_client(lambda client: client.predict(name, given, files=media, version=version))
    if isinstance(answer, MediaAnswer):
        _write_media(answer.data, answer.media_type, output)
    elif output is not None:
        import json

        output.write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    elif isinstance(answer, str) and sys.stdout.isatty():
        typer.echo(answer)
    else:
        print_json(answer)


@app.command()
def stream(
    name: Name,
    fields: Fields = None,
    whole: Input = None,
    files: Files = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Call a model and print its chunks as they come: text as it is on a terminal, otherwise a JSON line each."""
    given, media, plain = _input(fields, whole), _files(files), not wants_json(as_json)

    async def follow(client: Client) -> None:
        async for event in client.stream(name, given, files=media, version=version):
            _show_event(event, plain=plain)

    with_client(follow)
    if plain:
        typer.echo()


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error: that one or worse.")] = None,
    since: Annotated[str | None, typer.Option(help="A time with its offset, or how long ago: 5m, 2h.")] = None,
    request_id: Annotated[str | None, typer.Option(help="Only lines of this call.")] = None,
    version: Version = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Print the newest lines of a model's log."""
    after, plain = _since(since), not wants_json(as_json)

    async def read(client: Client) -> None:
        if not follow:
            lines = await client.model_logs(
                name, since=after, level=level, request_id=request_id, version=version, limit=limit
            )
            if plain:
                for line in lines:
                    model_views.show_line(line)
            else:
                print_json(lines)
            return
        async for line in client.follow_model_logs(
            name, since=after, level=level, request_id=request_id, version=version, limit=limit
        ):
            (model_views.show_line if plain else print_json_line)(line)

    with_client(read)


@app.command("clean-logs")
def clean_logs(name: Name) -> None:
    """Forget the lines of a model's log."""
    count = with_client(lambda client: client.clean_model_logs(name))
    typer.echo(f"{count} lines forgotten.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name, which is its folder's too.")],
    folder: Annotated[Path, typer.Option(help="Where its folder is made.")] = Path(),
    runtime: Annotated[str, typer.Option(help="python or subprocess.")] = "python",
) -> None:
    """Make a small model that works, with its manifest and its test, to begin from."""
    from penstock.models import skeleton

    made = skeleton.write(name, folder, runtime)
    for path in made:
        typer.echo(f"made {path}")
    typer.echo(f"Try it: penstock model test {made[0]}")


@app.command("test")
def try_out(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A model.toml, or the folder that holds it.")],
    as_json: AsJson = False,
) -> None:
    """Load a model here, without a gateway, call it with its examples, and check what it answers.

    Each output must fit the model's schema; a model that answers calls together must answer them as it does alone.
    """
    import asyncio

    from penstock.models import trial
    from penstock.telemetry import logs as our_logs

    our_logs.configure(level="error", stream=sys.stderr)
    path = (manifest / "model.toml" if manifest.is_dir() else manifest).absolute()
    report = asyncio.run(trial.run(path))
    model_views.show_trial(report, as_json=as_json)
    if not report.sound:
        raise typer.Exit(1)


def _input(fields: list[str] | None, whole: str | None) -> Any:
    """The input of a call, or None for an empty one."""
    import json

    given: Any = read_input(whole) if whole is not None else {}
    for field in fields or []:
        key, equals, text = field.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{field!r} is not KEY=VALUE")
        if not isinstance(given, dict):
            raise typer.BadParameter("fields go with an input that is an object")
        try:
            given[key] = json.loads(text)
        except ValueError:
            given[key] = text
    return given or None


def _files(stated: list[str] | None) -> dict[str, Path] | None:
    found: dict[str, Path] = {}
    for one in stated or []:
        field, equals, path = one.partition("=")
        if not equals or not field:
            raise typer.BadParameter(f"{one!r} is not FIELD=PATH", param_hint="--file")
        if not Path(path).is_file():
            raise typer.BadParameter(f"there is no file {path}", param_hint="--file")
        found[field] = Path(path)
    return found or None


def _read_manifest(path: Path) -> dict[str, Any]:
    import json
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        read: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--manifest") from None
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--manifest") from None
    if not isinstance(read, dict):
        raise typer.BadParameter(f"{path}: is no table", param_hint="--manifest")
    read.setdefault("name", path.parent.name if path.name == "model.toml" else path.stem)
    return read


def _write_media(data: bytes, media_type: str, output: Path | None) -> None:
    if output is not None:
        output.write_bytes(data)
        typer.echo(f"{output}: {len(data)} bytes, {media_type}", err=True)
    elif sys.stdout.isatty():
        raise typer.BadParameter(
            f"the output is {len(data)} bytes of {media_type}: name a file for it", param_hint="--output"
        )
    else:
        sys.stdout.buffer.write(data)


def _show_event(event: ModelEvent, *, plain: bool) -> None:
    value = event.data
    if event.type == "done":
        if "output" not in value:
            return
        value = value["output"]
    elif event.type != "chunk":
        return
    if plain:
        text = value.get("delta", value) if isinstance(value, dict) else value
        sys.stdout.write(text if isinstance(text, str) else f"{text}\n")
        sys.stdout.flush()
    else:
        print_json_line(value)


def _since(stated: str | None) -> datetime | None:
    from penstock import durations

    if stated is None:
        return None
    try:
        return datetime.now(UTC) - durations.parse(stated)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(stated)
    except ValueError:
        raise typer.BadParameter("must be a time, or how long ago such as 5m", param_hint="--since") from None
    return found.astimezone() if found.tzinfo is None else found
