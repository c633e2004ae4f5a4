"""``penstock athena run`` and ``path``: try a wrapper without a gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def run(
    wrapper: Annotated[Path, typer.Argument(help="The wrapper's file, wrapper.py.", exists=True, dir_okay=False)],
    stream: Annotated[bool, typer.Option("--stream", help="Run a session instead of a single call.")] = False,
    python: Annotated[str, typer.Option(help="The Python with the wrapper's packages; Penstock's own.")] = "",
) -> None:
    """Call a wrapper with the test values of its fields, and print what is wrong with it."""
    path = wrapper.absolute()
    command = [python or sys.executable, "-m", "aiges.local", str(path), *(["--stream"] if stream else [])]
    raise typer.Exit(subprocess.run(command, env=_environment(), cwd=path.parent, check=False).returncode)


@app.command()
def path() -> None:
    """Print the folder of the package aiges, for PYTHONPATH."""
    from penstock.models.replica.aiges import package

    typer.echo(package.FOLDER)


def _environment() -> dict[str, str]:
    from penstock.models.replica.aiges import package

    others = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{package.FOLDER}{os.pathsep}{others}" if others else str(package.FOLDER)}
