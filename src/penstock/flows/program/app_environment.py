"""The environment variables of apps, whose flows share a process: code of an app sees the defaults of its own app only.

``os.environ`` is replaced by a mapping that adds the defaults of the app whose code reads it. The app is known from the
context of a run, a side effect or the loading of a file; in threads, which have no context, from the code that runs.
Variables of the process take precedence over defaults.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextvars import Context, ContextVar
from functools import wraps
from types import FrameType
from typing import Any, Final

_current: ContextVar[Mapping[str, str] | None] = ContextVar("app_variables", default=None)
_by_package: Final[dict[str, Mapping[str, str]]] = {}


class _Environment(os._Environ[str]):
    """The environment of the process, and the defaults of the current app."""

    def __getitem__(self, key: str) -> str:
        try:
            return super().__getitem__(key)
        except KeyError:
            defaults = _defaults()
            if key not in defaults:
                raise
            return defaults[key]

    def __iter__(self) -> Iterator[str]:
        stated = list(super().__iter__())
        yield from stated
        yield from (name for name in _defaults() if name not in stated)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"environ({dict(self)!r})"


def install(by_package: Mapping[str, Mapping[str, str]]) -> None:
    """Give the code of each app its defaults, by the name of the app's package. Nothing happens if there are none."""
    _by_package.update({package: defaults for package, defaults in by_package.items() if defaults})
    if not _by_package:
        return
    ours = os.environ
    os.environ = _Environment(  # noqa: B003  (it changes the same variables)
        ours._data,  # type: ignore[attr-defined]  # shared, so that both always have the same variables
        ours.encodekey,
        ours.decodekey,
        ours.encodevalue,
        ours.decodevalue,
    )
    _pass_on_to_programs()


def context_of(package: str) -> Context:
    """Return a context in which code of an app sees its defaults."""
    context = Context()
    if package in _by_package:
        context.run(_current.set, _by_package[package])
    return context


def _defaults() -> Mapping[str, str]:
    found = _current.get()
    return _of_frames() if found is None else found


def _of_frames() -> Mapping[str, str]:
    """Return the defaults of the app to which the innermost code of an app on the stack belongs."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        package = ".".join(module.split(".", 2)[:2]) if isinstance(module, str) else ""
        if package in _by_package:
            return _by_package[package]
        frame = frame.f_back
    return {}


def _pass_on_to_programs() -> None:
    """Let programs that side effects start have the defaults, too: by default they get the variables of the process."""
    begin = subprocess.Popen.__init__

    @wraps(begin)
    def init(self: Any, args: Any, *more: Any, **options: Any) -> None:
        if options.get("env") is None and len(more) < _ENV:
            options["env"] = dict(os.environ)
        begin(self, args, *more, **options)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


_ENV: Final = 10  # the place of ``env`` among the arguments of Popen after the first
