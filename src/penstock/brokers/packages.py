"""The packages of brokers, which are optional."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.errors import FieldProblem, SettingsError


def require(package: str, variable: str) -> None:
    """Raise SettingsError if the package that a variable needs is not installed."""
    if find_spec(package) is None:
        detail = f"needs the package {package}: pip install 'penstock[brokers]'"
        raise SettingsError([FieldProblem(field=variable, detail=detail)])
