"""``penstock model``: the gateway's models from the command line, and models under development."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import model_arguments, model_views
from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, print_json, print_json_line, wants_json

if TYPE_CHECKING:
    from penstock.client import Client

app = typer.Typer(help="Call and manage models, through the gateway at PENSTOCK_URL.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
Version = Annotated[str | None, typer.Option(help="A version; without it the newest.")]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]…",
        help="Fields of the input, or the VALUE of its only field: parsed as JSON if it is JSON, otherwise text.",
    ),
]
Input = Annotated[
    str | None, typer.Option("--input", "-i", metavar="JSON", help="The input: JSON, @FILE, or - for standard input.")
]
Files = Annotated[list[str] | None, typer.Option("--file", "-f", metavar="FIELD=PATH", help="Media of the input.")]


@command(app, "list")
def list_models(as_json: AsJson = False) -> None:
    """List all models, and the manifests that cannot be used."""
    model_views.show_models(with_client(lambda client: client.models()), as_json=as_json)


@command(app)
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one model: its versions, replicas, load and counters.

    penstock model show summary
    """
    model_views.show_model(with_client(lambda client: client.model(name)), as_json=as_json)


@command(app)
def schema(name: Name) -> None:
    """Print the JSON Schemas of a model's input and output, and of its sessions if it takes any.

    penstock model schema summary | jq .input
    """
    model = with_client(lambda client: client.model(name))
    described = {"input": model["input_schema"], "output": model["output_schema"], "streams": model["streams"]}
    print_json(described | ({"session": model["session"]} if model["session"] is not None else {}))


@command(app)
def add(
    name: Annotated[
        str | None, typer.Argument(help="The name; without other options, of a model in the server's folder.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="http or openai.")] = None,
    url: Annotated[str | None, typer.Option(help="http: the URL to which the input is sent by POST.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="openai: the server's URL, such as http://127.0.0.1:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="openai: the name that the server knows the model by.")] = None,
    task: Annotated[str | None, typer.Option(help="openai: chat, embeddings or transcription.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="A manifest as TOML or JSON instead.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the version if it exists already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a model that another server runs, or a model of the server's folder by its name.

    penstock model add shout --runtime http --url http://127.0.0.1:8888/predict

    penstock model add chat --runtime openai --base-url http://127.0.0.1:8000/v1 --model qwen2.5-14b

    penstock model add --manifest chat.toml --replace

    If the server needs a key, write a manifest into the gateway's folder: models there see the gateway's variables.
    """
    options = {"url": url, "base_url": base_url, "model": model, "task": task}
    stated = model_arguments.manifest(manifest, name, runtime, options)
    model_views.show_model(with_client(lambda client: client.add_model(stated, replace=replace)), as_json=as_json)


@command(app)
def remove(name: Name, version: Version = None) -> None:
    """Remove a model, or one version of it; running calls are finished.

    penstock model remove summary --version 1
    """
    with_client(lambda client: client.remove_model(name, version=version))


@command(app)
def reload(name: Name, version: Version = None, as_json: AsJson = False) -> None:
    """Import and load a model again; calls continue meanwhile.

    penstock model reload summary
    """
    model_views.show_model(with_client(lambda client: client.reload_model(name, version=version)), as_json=as_json)


@command(app)
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

    penstock model predict summary --input @request.json words=5

    penstock model predict half 5

    penstock model predict edges-c -f image=cat.pgm
    """
    stated = model_arguments.call_input(fields, whole, files)
    if output is not None and not output.absolute().parent.is_dir():  # reported before the model runs
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")

    async def call(client: Client) -> Any:
        given = await _placed(client, name, stated, files)
        return await client.predict(name, given.value, files=given.files, version=version)

    model_views.show_output(with_client(call), output)


async def _placed(
    client: Client, name: str, stated: model_arguments.CallInput | str, files: list[str] | None
) -> model_arguments.CallInput:
    """Return the input of a call; the model's schema decides the meaning of a single VALUE."""
    if not isinstance(stated, str):
        return stated
    schema = (await client.model(name))["input_schema"]
    return model_arguments.place(stated, schema, model_arguments.files(files))


@command(app)
def stream(
    name: Name,
    fields: Fields = None,
    whole: Input = None,
    files: Files = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Call a model and print its chunks as they arrive: plain text on a terminal, otherwise one JSON line each.

    penstock model stream chat user="Write a limerick."
    """
    stated = model_arguments.call_input(fields, whole, files)
    chunks = model_views.Chunks(plain=not wants_json(as_json))

    async def follow(client: Client) -> None:
        given = await _placed(client, name, stated, files)
        async for event in client.stream(name, given.value, files=given.files, version=version):
            chunks.show(event)

    try:
        with_client(follow)
    finally:
        chunks.close()


@command(app)
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow new lines until Ctrl-C.")] = False,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error: this level or worse.")] = None,
    since: Annotated[str | None, typer.Option(help="A time with its offset, or how long ago: 5m, 2h.")] = None,
    request_id: Annotated[str | None, typer.Option(help="Only lines of this call.")] = None,
    version: Version = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Print the newest lines of a model's log.

    penstock model logs summary --level warning --since 5m --follow
    """
    after, plain = model_arguments.since(since), not wants_json(as_json)

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


@command(app, "clean-logs")
def clean_logs(name: Name) -> None:
    """Delete the lines of a model's log."""
    count = with_client(lambda client: client.clean_model_logs(name))
    typer.echo(f"{count} lines deleted.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name, and its folder's.")],
    folder: Annotated[Path, typer.Option(help="Where its folder is created.")] = Path(),
    runtime: Annotated[str, typer.Option(help="python or subprocess.")] = "python",
) -> None:
    """Create a small working model with a manifest and a test, as a starting point.

    penstock model new summary --folder models
    """
    from penstock.models import skeleton

    made = skeleton.write(name, folder, runtime)
    for path in made:
        typer.echo(f"created {path}")
    typer.echo(f"Try it: penstock model test {made[0]}")


@app.command()
def install(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FOLDER]…", help="Models, or folders of models or apps; without, all models."),
    ] = None,
    lock: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of models with several lock files, install this one.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the environments of this user.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove environments that were not used for a while.")] = False,
    unused_for: Annotated[str, typer.Option(help="With --prune: for how long.")] = "30d",
    as_json: AsJson = False,
) -> None:
    """Install the packages that models need into environments of their own, as their lock files state.

    Without arguments, for all models of PENSTOCK_MODELS_DIR and PENSTOCK_APPS_DIR. Models with the same packages share
    one environment.

    penstock model install summary

    penstock model install models/summary --lock requirements-cpu.lock

    penstock model install --list
    """
    from penstock.cli import model_environments

    if show:
        model_environments.show(as_json=as_json)
    elif prune:
        model_environments.prune(unused_for, as_json=as_json)
    else:
        model_environments.install(models or [], lock)


@app.command("test")
def try_out(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A model.toml, or the folder that holds it.")],
    as_json: AsJson = False,
) -> None:
    """Load a model here, without a gateway, call it with its examples, and check its outputs.

    Each output must fit the model's schema; a model that batches must return the same outputs as without batches.

    penstock model test models/summary/model.toml
    """
    import asyncio

    from penstock.models import trial
    from penstock.models.manifest import file_in
    from penstock.settings import Settings
    from penstock.telemetry import logs as our_logs

    our_logs.configure(level="error", stream=sys.stderr)
    path = (file_in(manifest) if manifest.is_dir() else manifest).absolute()
    report = asyncio.run(trial.run(path, private=Settings.descriptions()))
    model_views.show_trial(report, as_json=as_json)
    if not report.sound:
        raise typer.Exit(1)
