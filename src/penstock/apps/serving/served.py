"""An app that is served on this machine: its folder, its components, and their ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.apps.layout import Layout, Service
from penstock.errors import FieldProblem, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedApp:
    """An app, and the ports of its APIs by the names of their components."""

    folder: Path
    layout: Layout
    ports: Mapping[str, int]

    @classmethod
    def of(cls, layout: Layout, folder: Path, environment: Mapping[str, str]) -> ServedApp:
        """Return an app with the ports that the environment states. Raises SettingsError with every mistake."""
        return cls(folder=folder, layout=layout, ports=_ports(layout, environment))

    def service(self, component: str) -> Service:
        """Return the service of an API or of a worker."""
        (found,) = [one for one in self.layout.services if component in {f"{one.name}-api", f"{one.name}-worker"}]
        return found


def _ports(layout: Layout, environment: Mapping[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    problems: list[FieldProblem] = []
    for one in layout.components:
        if one.port_variable is None:
            continue
        stated = environment.get(one.port_variable, "").strip()
        port = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 6 else 0
        if not stated:
            port = one.port
        if not 1 <= port <= 65_535:
            problems.append(FieldProblem(field=one.port_variable, detail="must be a whole number from 1 to 65535"))
        elif port in found.values():
            taken = next(name for name, other in found.items() if other == port)
            problems.append(FieldProblem(field=one.port_variable, detail=f"must differ from the port of {taken}"))
        found[one.name] = port
    if problems:
        raise SettingsError(problems)
    return found
