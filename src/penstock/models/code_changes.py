"""Reload models whose code changes on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from penstock.models.manifest import Key, Model

# The files of `watch = true`. The model may write other files itself, so only a manifest can name those.
_CODE: Final = (
    "*.py", "*.so", "*.dylib", "*.sh", "*.js", "*.mjs", "*.ts", "*.java", "*.class", "*.jar", "*.rb", "*.pl", "*.lua",
    "*.R", "*.jl",
)  # fmt: skip
_NEVER: Final = frozenset({"__pycache__", "node_modules"})  # folders


def concerned(models: Iterable[Model], changed: Iterable[Path], *, by_default: bool) -> set[Key]:
    """Return the models that must be reloaded after files have changed.

    A file belongs to the models of the nearest folder above it. ``by_default`` is for manifests without ``watch``.
    """
    watching = [model for model in models if _patterns(model, by_default)]
    folders = {model.folder for model in watching}
    found: set[Key] = set()
    for path in changed:
        home = next((parent for parent in path.parents if parent in folders), None)
        if home is None:
            continue
        inside = path.relative_to(home)
        if any(part in _NEVER or part.startswith(".") for part in inside.parts):
            continue
        found |= {model.key for model in watching if model.folder == home and _is_code(model, inside, by_default)}
    return found


def _patterns(model: Model, by_default: bool) -> tuple[str, ...]:
    stated = model.manifest.watch
    if isinstance(stated, list):
        return tuple(stated)
    return _CODE if (by_default if stated is None else stated) else ()


def _is_code(model: Model, inside: Path, by_default: bool) -> bool:
    name, path = inside.name, inside.as_posix()
    if any(fnmatchcase(name, pattern) or fnmatchcase(path, pattern) for pattern in _patterns(model, by_default)):
        return True
    return any(PurePosixPath(named) == PurePosixPath(path) for named in _texts(model.manifest.options))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in the runtime's options, which may name a library or a program."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


class Reloads:
    """Reloads models in the background. A model that changes during its reload is reloaded again afterwards."""

    def __init__(self, reload: Callable[[Key], Awaitable[None]]) -> None:
        self._reload = reload
        self._changed: set[Key] = set()
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def request(self, keys: Iterable[Key]) -> None:
        """Reload these soon."""
        for key in keys:
            self._changed.add(key)
            if key not in self._tasks:
                self._tasks[key] = asyncio.get_running_loop().create_task(self._run(key))

    async def stop(self) -> None:
        """Cancel running reloads."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key) -> None:
        try:
            while key in self._changed:
                self._changed.discard(key)
                await self._reload(key)
        finally:
            del self._tasks[key]
