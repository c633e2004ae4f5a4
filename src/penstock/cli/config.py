"""``penstock config``: the settings as they are in effect here."""

from __future__ import annotations

import typer

from penstock.cli.output import AsJson, print_json, print_table, wants_json

app = typer.Typer(help="Settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Settings: environment variables, and a file .env in the working directory."""


@app.command()
def show(as_json: AsJson = False) -> None:
    """Print every setting's effective value; secrets are masked."""
    from penstock.settings import Settings, load_settings

    values = load_settings().masked()
    if wants_json(as_json):
        print_json(values)
    else:
        meanings = Settings.descriptions()
        print_table(("variable", "value", "meaning"), ((name, value, meanings[name]) for name, value in values.items()))
