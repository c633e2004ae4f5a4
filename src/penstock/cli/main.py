"""The command ``penstock``: its subcommands, and how errors are printed.

Commands import what they need when they run, so that ``penstock --help`` prints at once.
Exit statuses: 0 done, 1 failed, 2 used wrongly (arguments or settings).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from penstock.cli import (
    apps,
    athena,
    audit,
    blobs,
    callbacks,
    collections,
    compare,
    config,
    database,
    flows,
    jobs,
    keys,
    models,
    queues,
    quotas,
    roles,
    secret,
    sidecar,
    tenants,
    tickets,
    top,
    usage,
)
from penstock.cli.gateway import command
from penstock.errors import PenstockError, SettingsError

app = typer.Typer(
    name="penstock",
    help="One backend for all your AI models: live calls, streams and durable jobs, on nothing but PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings are environment variables, or lines of a file .env: penstock config show lists them all.",
)
app.command("serve")(roles.serve)
app.command("gateway")(roles.gateway)
app.command("worker")(roles.worker)
app.command("housekeeper")(roles.housekeeper)
app.command("sidecar")(sidecar.sidecar)
app.add_typer(jobs.app, name="job")
app.add_typer(flows.app, name="flow")
app.add_typer(apps.app, name="app")
app.add_typer(athena.app, name="athena")
app.add_typer(queues.app, name="queue")
app.add_typer(models.app, name="model")
app.add_typer(blobs.app, name="blob")
app.add_typer(collections.app, name="collection")
command(app, "stats")(jobs.stats)
command(app, "usage")(usage.usage)
command(app, "compare")(compare.compare)
command(app, "top")(top.top)
app.add_typer(tenants.app, name="tenant")
app.add_typer(keys.app, name="key")
app.add_typer(quotas.app, name="quota")
app.add_typer(callbacks.app, name="callback")
command(app, "ticket")(tickets.ticket)
command(app, "audit")(audit.audit)
app.add_typer(secret.app, name="secret")
app.add_typer(config.app, name="config")
app.add_typer(database.app, name="db")


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a failure can still be reported
    except SettingsError as error:
        _fail(error.message, status=2)
    except PenstockError as error:
        _fail(error.message, status=1)
    except BrokenPipeError:  # the reader of our output has closed it: `penstock job list | head`
        _mute()
        sys.exit(1)
    except OSError as error:  # for example, the disk is full
        _mute()
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", status=1)
    except KeyboardInterrupt:
        sys.exit(130)


def _mute() -> None:
    """Write nothing more: flushing the rest of the buffer at exit would fail in the same way."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"penstock {version('penstock')}")
        raise typer.Exit


@app.callback()
def _options(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _fail(message: str, *, status: int) -> None:
    sys.stderr.write(f"penstock: {message}\n")
    sys.exit(status)
