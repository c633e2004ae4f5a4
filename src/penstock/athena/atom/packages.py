"""The packages of gRPC, which are optional."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.errors import FieldProblem, SettingsError

_NEEDED = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf")


def require(variable: str) -> None:
    """Raise SettingsError if a package that the server needs is not installed; ``variable`` names its setting."""
    for package in _NEEDED:
        if not _installed(package):
            detail = f"needs the package {package}: pip install 'penstock[athena]'"
            raise SettingsError([FieldProblem(field=variable, detail=detail)])


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
