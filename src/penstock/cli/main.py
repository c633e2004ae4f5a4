"""The command ``penstock``: what there is, and how mistakes are told.

Commands import what they need when they run, so that ``penstock --help`` answers at once.
Exit statuses: 0 done, 1 failed, 2 used wrongly (arguments or settings).
"""

from __future__ import annotations

import os
import sys

import typer

from penstock.cli import blobs, compare, config, database, jobs, models, roles, sidecar, top
from penstock.errors import PenstockError, SettingsError

app = typer.Typer(
    name="penstock",
    help="One backend for all your AI models: live calls, streams and durable jobs, on nothing but PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(roles.serve)
app.command("gateway")(roles.gateway)
app.command("worker")(roles.worker)
app.command("housekeeper")(roles.housekeeper)
app.command("sidecar")(sidecar.sidecar)
app.add_typer(jobs.app, name="job")
app.add_typer(models.app, name="model")
app.add_typer(blobs.app, name="blob")
app.command("stats")(jobs.stats)
app.command("compare")(compare.compare)
app.command("top")(top.top)
app.add_typer(config.app, name="config")
app.add_typer(database.app, name="db")


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        app()
    except SettingsError as error:
        _fail(error.message, status=2)
    except PenstockError as error:
        _fail(error.message, status=1)
    except BrokenPipeError:  # the reader of our output had enough: `penstock job list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, *, status: int) -> None:
    sys.stderr.write(f"penstock: {message}\n")
    sys.exit(status)
