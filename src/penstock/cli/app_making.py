"""``penstock app new`` and ``penstock app check``: apps on this machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.app_calls import line_of
from penstock.cli.output import AsJson, print_json, wants_json


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the app and of its folder.")],
    folder: Annotated[Path, typer.Option(help="The folder for its folder.")] = Path(),
) -> None:
    """Create a small working app, as a starting point: a manifest, a flow, a model and tests.

    penstock app new hello --folder apps
    """
    from penstock.apps import skeleton

    made = skeleton.write(name, folder)
    for path in made:
        typer.echo(f"created {path}")
    typer.echo(f"Serve it: PENSTOCK_APPS_DIR={made[0].parent.parent} penstock serve")


def check(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="An app or a folder of apps; by default PENSTOCK_APPS_DIR."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load apps as a worker does, and list every mistake in their files. Nothing is executed or changed.

    penstock app check apps/hello
    """
    import msgspec

    from penstock.apps import trial
    from penstock.apps.manifest import FILE_NAME
    from penstock.settings import load_settings
    from penstock.telemetry import logs

    stated = folder or load_settings().penstock_apps_dir
    if stated is None or not stated.is_dir():
        raise typer.BadParameter("name an app or a folder of apps, or set PENSTOCK_APPS_DIR", param_hint="FOLDER")
    logs.configure(level="error", stream=sys.stderr)
    home = stated.resolve()
    one = (home / FILE_NAME).is_file()
    names, problems = asyncio.run(trial.check(home.parent if one else home, home.name if one else None))
    if wants_json(as_json):
        print_json({"apps": names, "problems": msgspec.to_builtins(problems)})
    else:
        for problem in msgspec.to_builtins(problems):
            typer.echo(line_of(problem))
        if not problems:
            typer.echo(f"no mistakes in {', '.join(names) or 'this folder, which has no app'}")
    if problems or not names:
        raise typer.Exit(1)
