"""Models that ``aiges.toml`` describes: the file of Athena's loader, beside ``wrapper.py`` or ``libwrapper.so``.

A folder with such a file and without a ``model.toml`` is a model, or one for each section named after a service.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock.errors import FieldProblem, InvalidInput
from penstock.models.aiges_keys import SECTIONS, Note, notes_on
from penstock.models.replica.aiges.calls import text_of

FILE_NAME: Final = "aiges.toml"
PLACEHOLDER: Final = "svcName"  # the section of the original's own template, which names no service

_WRAPPER: Final = "wrapper.py"
_LIBRARY: Final = "libwrapper.so"
_PASSED: Final = "headerPass.wrapper"  # a file with one name per line
_TIMEOUT: Final = "2m"  # of a call: the time for which the original's loader waits
_MAX_BYTES: Final = 2**20

Tables = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AigesFile:
    """The content of a file: manifests, and notes on its keys."""

    manifests: list[Tables]
    notes: list[Note]


def read(path: Path, tables: Mapping[str, Any]) -> AigesFile:
    """Return what a file with these tables, in its folder, describes. Raises InvalidInput with every mistake."""
    folder = path.parent
    return convert(
        tables,
        name=folder.name,
        has=lambda name: (folder / name).is_file(),
        text_of=lambda name: _text(folder / name),
    )


def convert(
    tables: Mapping[str, Any], *, name: str, has: Callable[[str], bool], text_of: Callable[[str], str]
) -> AigesFile:
    """Return what these tables describe.

    ``name`` is that of a service for which there is no section; ``has`` says whether there is a file of that name
    beside the tables, and ``text_of`` returns its content. Raises InvalidInput with every mistake.
    """
    services = {key: value for key, value in tables.items() if key not in SECTIONS}
    problems = [_wrong(key, "must be a table") for key, value in tables.items() if not isinstance(value, Mapping)]
    if problems:
        raise InvalidInput(problems)
    common = {key: tables[key] for key in SECTIONS if key in tables}
    manifests: list[Tables] = []
    for service, own in (services or {name: {}}).items():
        inner = {key: {**common.get(key, {}), **value} for key, value in own.items() if isinstance(value, Mapping)}
        stated = _Service(common | inner, has=has, text_of=text_of, problems=problems)
        manifests.append({"name": name if service == PLACEHOLDER else service, **stated.manifest()})
    if problems:
        raise InvalidInput(problems)
    return AigesFile(manifests=manifests, notes=notes_on(tables, services))


class _Service:
    """One service of a file, and the mistakes in it."""

    def __init__(
        self,
        tables: Mapping[str, Any],
        *,
        has: Callable[[str], bool],
        text_of: Callable[[str], str],
        problems: list[FieldProblem],
    ) -> None:
        self._tables = tables
        self._has = has
        self._text_of = text_of
        self._problems = problems

    def manifest(self) -> Tables:
        """Return the manifest, without the name."""
        runtime = self._runtime()
        found: Tables = {"runtime": runtime, "timeout": _TIMEOUT}
        if self._flag("fc", "able", default=True):
            places = self._number("fc", "max", 1, 10_000)
            if places is not None:
                found["concurrency"] = int(places)
            idle = self._number("fc", "ttl", 1, 86_400_000)
            if idle is not None:
                found["session_timeout"] = idle / 1000
        options: Tables = {"config": self._config(), "header_pass": self._passed()}
        if runtime == "aiges-native":
            options["callbacks"] = self._flag("aiges", "asyncMode")
            options["realtime"] = self._flag("aiges", "realTimeRlt", default=True)
        if runtime == "aiges-plugin":
            options["command"] = self._text("aiges", "pythonPluginCmd")
        if runtime != "aiges":
            options["sessions"] = self._flag("aiges", "sessMode")
        return found | {runtime: {name: value for name, value in options.items() if value not in ({}, [])}}

    def _runtime(self) -> str:
        command = self._text("aiges", "pythonPluginCmd")
        if self._has(_WRAPPER):
            return "aiges"
        if self._has(_LIBRARY):
            return "aiges-native"
        if not command or "aiges.serve" in command:
            self._problems.append(
                _wrong("aiges", f"needs {_WRAPPER} or {_LIBRARY} beside it, or a pythonPluginCmd of another program")
            )
        return "aiges-plugin"

    def _config(self) -> dict[str, str]:
        """Return what wrapperInit gets: [wrapper], or instead the file that ``usrCfg`` names."""
        name = self._text("aiges", "usrCfg")
        if not name:
            return dict(_flat(self._tables.get("wrapper", {})))
        if Path(name).is_absolute() or ".." in Path(name).parts:
            self._problems.append(_wrong("aiges.usrCfg", "must be a file in the same folder"))
            return {}
        try:
            return dict(_flat(tomllib.loads(self._text_of(name))))
        except OSError as error:
            self._problems.append(_wrong("aiges.usrCfg", f"{name} cannot be read: {error.strerror}"))
        except (ValueError, RecursionError) as error:
            self._problems.append(_wrong("aiges.usrCfg", f"{name} is not TOML: {error}"))
        return {}

    def _passed(self) -> list[str]:
        names = self._text("aiges", "headerPass").split(";")
        if self._has(_PASSED):
            try:
                names += self._text_of(_PASSED).splitlines()
            except (OSError, ValueError) as error:
                self._problems.append(_wrong(_PASSED, f"cannot be read: {error}"))
        stripped = dict.fromkeys(name.strip() for name in names)
        return [name for name in stripped if name and name != "sid"]  # every engine gets the sid

    def _value(self, section: str, name: str) -> Any:
        table = self._tables.get(section, {})
        return table.get(name) if isinstance(table, Mapping) else None

    def _text(self, section: str, name: str) -> str:
        value = self._value(section, name)
        if value is not None and not isinstance(value, str):
            self._problems.append(_wrong(f"{section}.{name}", "must be a text"))
        return value.strip() if isinstance(value, str) else ""

    def _flag(self, section: str, name: str, *, default: bool = False) -> bool:
        value = self._value(section, name)
        if value is None:
            return default
        if value not in (0, 1):
            self._problems.append(_wrong(f"{section}.{name}", "must be true or false"))
        return bool(value)

    def _number(self, section: str, name: str, least: int, most: int) -> float | None:
        value = self._value(section, name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self._problems.append(_wrong(f"{section}.{name}", f"must be a number from {least} to {most}"))
            return None
        return value


def _wrong(field: str, detail: str) -> FieldProblem:
    return FieldProblem(field=field[:100], detail=detail)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of a table as the texts that engines get; inner ones are named ``section.key``."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", text_of(value) if isinstance(value, str | int | float) else str(value)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"has more than {_MAX_BYTES} bytes")
    return content.decode()
