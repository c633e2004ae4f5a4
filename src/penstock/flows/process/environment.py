"""The environment of the process that runs flow code."""

from __future__ import annotations

from collections.abc import Mapping


def variables(ours: Mapping[str, str], private: frozenset[str]) -> dict[str, str]:
    """Return ``ours`` without ``private`` (Penstock's settings), plus the variables that make Python deterministic."""
    found = {name: value for name, value in ours.items() if name not in private}
    found["PYTHONHASHSEED"] = "0"  # so that sets of strings have the same order on each replay
    found["PYTHONUNBUFFERED"] = "1"
    found["PYTHONDONTWRITEBYTECODE"] = "1"
    found.setdefault("LANG", "C.UTF-8")
    return found
