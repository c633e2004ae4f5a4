"""``penstock app``: marketplace apps from the command line."""

from __future__ import annotations

import typer

from penstock.cli import app_packaging, app_serving

app = typer.Typer(help="Serve, build and push marketplace apps.", no_args_is_help=True)
app.command()(app_serving.serve)
app.command()(app_packaging.build)
app.command()(app_packaging.push)
