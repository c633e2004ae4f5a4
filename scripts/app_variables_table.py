"""Writes the table of the variables of a deployed app into docs/marketplace.md; ``make fix`` runs it."""

from __future__ import annotations

from pathlib import Path

from penstock.apps.layout import Layout, Service
from penstock.apps.packaging.variables import Variable, groups_of
from penstock.apps.packaging.writing import REGISTRY, REPOSITORY
from scripts.marked_tables import MarkedTable

DOCUMENT = Path(__file__).parents[1] / "docs" / "marketplace.md"
PLACE = MarkedTable("variables")
_HEAD = "| group | variable | default | update | meaning |\n| --- | --- | --- | --- | --- |\n"
_UPDATE = {"required": "**required**", "update": "yes", "": "optional"}
_SERVICE = Service(name="SERVICE", model="MODEL", port=8081, port_variable="SERVICE_PORT")
_APP = Layout(name="APP", version="VERSION", title="TITLE", services=[_SERVICE], variables={})


def table() -> str:
    """Return one row per variable of an app with one service."""
    groups = groups_of(_APP, registry=REGISTRY, repository=REPOSITORY)
    return _HEAD + "".join(_row(group, one) for group, members in groups for one in members)


def _row(group: str, one: Variable) -> str:
    default = f"`{one.default}`" if one.default else ""
    return f"| {group.partition(' (')[0]} | `{one.name}` | {default} | {_UPDATE[one.update]} | {one.meaning} |\n"


if __name__ == "__main__":
    PLACE.write(DOCUMENT, table())
