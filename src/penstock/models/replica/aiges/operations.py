"""Calls that load or unload a resource of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import codes

LOAD: Final = "AILoad"  # values of header.op, as the original's RPC names them
UNLOAD: Final = "AIUnLoad"


def is_operation(header: Mapping[str, str]) -> bool:
    """Return whether a call is to load or unload a resource."""
    return header.get("op", "") in (LOAD, UNLOAD)


def bad(name: str, detail: str) -> CallFailed:
    """Return the failure of a call whose header has a wrong field."""
    return codes.failed(codes.LOAD, detail, category=Category.BAD_INPUT, field=f"header.{name}")
