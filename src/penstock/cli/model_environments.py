"""``penstock model install``: the environments of models on this machine."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer

from penstock.cli.moments import length
from penstock.cli.output import local_time, print_json, print_table, wants_json
from penstock.errors import PenstockError
from penstock.models import manifest
from penstock.models.environments import installing, records
from penstock.models.environments.environment import Environment, first_installed
from penstock.models.folder import ManifestFiles
from penstock.models.manifest import Model
from penstock.settings import Settings, load_settings

# A folder that a person names may be a model, or hold models, or be an app, or hold apps.
_PATTERNS: Final = (
    *("*.toml", "*/model.toml"),
    *("models/*.toml", "models/*/model.toml"),
    *("*/models/*.toml", "*/models/*/model.toml"),
)
_NO_MODEL: Final = frozenset({"app.toml", "pyproject.toml"})


def install(stated: Sequence[str], lock: str | None) -> None:
    """Install the environments of models by name, manifest or folder; of all, if none is stated.

    Several are tried even if some fail; then the exit status is 1.
    """
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # unwinds, which removes what is unfinished
    failed = False
    models = [model for model in _models(stated) if model.environments]
    names = {one.lock.name for model in models for one in model.environments}
    if lock is not None and lock not in names:
        known = f"their lock files are {', '.join(sorted(names))}" if names else "none of these models has one"
        raise typer.BadParameter(f"no model has {lock}: {known}", param_hint="--lock")
    for model in models:
        try:
            environment = _chosen(model, lock)
            if environment is not None:
                _install(model, environment)
        except PenstockError as error:
            typer.echo(f"penstock: {model.name}: {error.message}", err=True)
            failed = True
    if failed:
        raise typer.Exit(1)
    if not models:
        typer.echo("No model states an environment.")


def show(*, as_json: bool) -> None:
    """Print the environments of this user."""
    found = records.installed()
    if wants_json(as_json):
        print_json(msgspec.to_builtins(found))
        return
    _print(found)


def prune(unused_for: str, *, as_json: bool) -> None:
    """Remove environments that were not used for a while, and print them."""
    removed = records.prune(unused_for=length(unused_for, "--unused-for"))
    if wants_json(as_json):
        print_json(msgspec.to_builtins(removed))
    elif removed:
        _print(removed)
        typer.echo(f"Removed {_size(sum(one.bytes for one in removed))}.")
    else:
        typer.echo("There is nothing to remove.")


def _models(stated: Sequence[str]) -> Iterator[Model]:
    if not stated:
        yield from _read(_configured())
    for one in stated:
        path = Path(one).absolute()
        if path.is_file():
            yield from manifest.read_all(path)[0]
        elif path.is_dir() and (found := list(_read([ManifestFiles(root=path, patterns=_PATTERNS)]))):
            yield from found
        else:
            yield _named(one)


def _configured() -> list[ManifestFiles]:
    """Return the folders of models and apps that the settings name."""
    settings = load_settings()
    models, apps = settings.penstock_models_dir, settings.penstock_apps_dir
    found = [] if models is None else [ManifestFiles(root=models)]
    found += [] if apps is None else [ManifestFiles.of_apps(apps)]
    if not found:
        raise typer.BadParameter("name a folder of models, or set PENSTOCK_MODELS_DIR or PENSTOCK_APPS_DIR")
    return found


def _named(name: str) -> Model:
    for model in _read(_configured()):
        if model.name == name:
            return model
    raise typer.BadParameter(f"{name}: there is no such folder here, and no such model in the folders of the settings")


def _read(sources: Iterable[ManifestFiles]) -> Iterator[Model]:
    """Yield the models of folders; those whose manifests are wrong are reported."""
    for path in sorted({path for source in sources for path in source.paths() if path.name not in _NO_MODEL}):
        try:
            yield from manifest.read_all(path)[0]
        except PenstockError as error:
            typer.echo(f"penstock: {path}: {error.message}", err=True)


def _chosen(model: Model, lock: str | None) -> Environment | None:
    """Return the environment to install for a model; None if it needs none, or has one already."""
    alternatives = model.environments
    named = [one for one in alternatives if one.lock.name == lock]
    if named and not named[0].installed:
        return named[0]
    present = first_installed(named or alternatives)
    if present is not None:
        typer.echo(f"{model.name}: {present.lock.name} is installed already, in {present.folder}")
        return None
    return alternatives[0] if alternatives else None


def _install(model: Model, environment: Environment) -> None:
    typer.echo(f"{model.name}: installing {environment.count} packages of {environment.lock.name}")
    began = time.monotonic()
    installing.install(
        environment,
        report=typer.echo,
        private=Settings.descriptions(),
        on_terminal=sys.stdout.isatty(),
    )
    typer.echo(f"{model.name}: installed in {environment.folder} in {time.monotonic() - began:.0f} s")


def _print(found: Sequence[records.Installed]) -> None:
    columns = ("key", "lock file", "packages", "size", "used", "state")
    print_table(
        columns, ((one.key, one.lock, one.packages, _size(one.bytes), _used(one), _state(one)) for one in found)
    )


def _used(one: records.Installed) -> str:
    return "" if one.used_at is None else local_time(one.used_at)


def _state(one: records.Installed) -> str:
    if one.installed_at is None:
        return "being installed" if one.in_use else "unfinished"
    return "in use" if one.in_use else ""


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
