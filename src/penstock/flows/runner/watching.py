"""Reload the flows when their files change."""

from __future__ import annotations

from pathlib import Path

from watchfiles import Change, awatch

from penstock.flows.process.flow_process import FlowProcess

_NEVER = frozenset({"__pycache__", ".git", ".venv"})


async def reload_on_changes(process: FlowProcess) -> None:
    """Reload the flows of a process whenever a Python file of its folder changes, until cancelled."""

    def is_code(_change: Change, path: str) -> bool:
        return path.endswith(".py") and not _NEVER.intersection(Path(path).parts)

    async for _changes in awatch(process.folder, watch_filter=is_code, debounce=200, step=50):
        process.reload()
