"""``penstock app``: marketplace apps from the command line."""

from __future__ import annotations

import typer

from penstock.cli import app_calls, app_making, app_packaging, app_serving
from penstock.cli.gateway import command

app = typer.Typer(help="Create, check, call, serve, build and push marketplace apps.", no_args_is_help=True)
app.command()(app_making.new)
app.command()(app_making.check)
command(app, "list")(app_calls.list_apps)
command(app)(app_calls.run)
command(app)(app_calls.result)
command(app)(app_calls.stats)
app.command()(app_serving.serve)
app.command()(app_packaging.build)
app.command()(app_packaging.push)
