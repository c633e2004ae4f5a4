"""``penstock athena``: Athena Serving."""

from __future__ import annotations

import typer

from penstock.cli import athena_files, athena_keys, athena_schemas, athena_wrappers

app = typer.Typer(help="Serve clients and engines of Athena Serving.", no_args_is_help=True)
app.add_typer(athena_keys.app, name="key")
app.add_typer(athena_schemas.app, name="schema")
app.add_typer(athena_wrappers.app)
app.command("inspect")(athena_files.inspect)
