"""A server that speaks as much of the protocol of the Hugging Face hub as a download needs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.http_servers import running

_COMMIT = "a" * 40


@dataclass(slots=True)
class Hub:
    """The hub with one model, whose files are those of a folder."""

    name: str
    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)

    async def respond(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        prefix, _, rest = request.path.partition(self.name)
        if prefix == "/api/models/":
            return web.json_response(self._tree() if rest.startswith("/tree/") else self._model())
        if prefix == "/" and rest.startswith("/resolve/"):
            return self._file(rest.rpartition("/")[2])
        return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})

    def _model(self) -> dict[str, Any]:
        siblings = [{"rfilename": path.name, "size": path.stat().st_size} for path in self._paths()]
        return {"id": self.name, "sha": _COMMIT, "private": False, "siblings": siblings}

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _digest(path)}
            for path in self._paths()
        ]

    def _file(self, name: str) -> web.Response:
        path = self.folder / name
        if path not in self._paths():
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": _COMMIT}
        return web.Response(body=path.read_bytes(), headers=headers)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@asynccontextmanager
async def hub(name: str, folder: Path) -> AsyncIterator[Hub]:
    """Run a hub whose model ``name`` has the files of a folder."""
    made = Hub(name, folder)
    async with running(made.respond) as made.url:
        yield made
