"""``penstock config``: the settings as they are in effect here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from penstock.cli.output import AsJson, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.providers.profile import ProviderSpec

app = typer.Typer(help="Settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Settings: environment variables, and a file .env in the working directory."""


@app.command()
def show(as_json: AsJson = False) -> None:
    """Print every setting's effective value; secrets are masked."""
    from penstock.settings import Settings, load_settings, misspelt

    values = load_settings().masked()
    for name, meant in misspelt().items():
        typer.echo(f"penstock: {name} is set but is not a setting; did you mean {meant}?", err=True)
    if wants_json(as_json):
        print_json(values)
    else:
        meanings = Settings.descriptions()
        print_table(("variable", "value", "meaning"), ((name, value, meanings[name]) for name, value in values.items()))


@app.command()
def profiles(as_json: AsJson = False) -> None:
    """Print the model profiles that jobs may name, and check profiles.toml."""
    from penstock.providers.catalogue import load
    from penstock.settings import environment, load_settings

    catalogue = load(load_settings(), environment())
    rows: list[dict[str, Any]] = [
        {
            "profile": profile.name,
            "task": "transcription" if profile.transcribes else "chat",
            "mode": profile.mode.value,
            "providers": [_provider(one) for one in profile.providers],
        }
        for profile in catalogue.profiles.values()
    ]
    if wants_json(as_json):
        print_json(rows)
        return
    columns = ("profile", "task", "mode", "provider", "kind", "model", "url")
    print_table(columns, (_row(profile, one) for profile in rows for one in profile["providers"]))


def _provider(spec: ProviderSpec) -> dict[str, Any]:
    url = None if spec.endpoint is None else spec.endpoint.shown
    return {"name": spec.name, "kind": spec.kind.value, "url": url, "model": spec.model}


def _row(profile: dict[str, Any], provider: dict[str, Any]) -> Sequence[object]:
    first = provider is profile["providers"][0]
    head = (profile["profile"], profile["task"], profile["mode"]) if first else ("", "", "")
    return (*head, provider["name"], provider["kind"], provider["model"] or None, provider["url"])
