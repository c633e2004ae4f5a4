"""Read ``profiles.toml``: return its tables and every mistake in them.

Each table is checked field by field, so that one mistake does not hide another. The URL of a provider is checked even
if its ``kind`` is wrong, and a profile that names this provider gets no error that the provider does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from penstock import toml_file
from penstock.checking import all_of
from penstock.providers.profile import Mode
from penstock.suggestions import did_you_mean
from penstock.toml_file import Problems

_TABLES: Final = ("providers", "profiles")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ProviderTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table ``[providers.NAME]``. ``catalogue`` checks which fields its kind allows."""

    kind: Literal["chat", "whisperx", "audio-chat", "model", "audio-model"]
    url: Annotated[str, Meta(min_length=1)] | None = None
    model: str = ""
    api_key: str = ""
    timeout: str = ""
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    requests_per_minute: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    interface: Literal["transcribe", "asr", "openai"] | None = None
    prompt: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_duration: str = ""
    defaults: dict[str, Any] = {}


class ProfileTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table ``[profiles.NAME]``."""

    providers: Annotated[list[Name], Meta(min_length=1, max_length=20)]
    mode: Mode = Mode.FIRST
    defaults: dict[str, Any] = {}


@dataclass(slots=True)
class ProfilesFile:
    """A file's tables by name, as the fields of each that could be read."""

    providers: dict[str, dict[str, Any]] = field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)


def read(problems: Problems) -> ProfilesFile:
    """Read the file, and add the mistakes in its tables. Raises SettingsError for a file that is not TOML."""
    found = toml_file.read(problems.path, "PENSTOCK_PROFILES")
    for name in sorted(found.keys() - set(_TABLES)):
        problems.add(name, f"is not known here{did_you_mean(name, _TABLES) or '; there are: providers, profiles'}")
    file = ProfilesFile()
    for name, fields in _tables(found, "providers", ProviderTable, problems):
        file.providers[name] = fields
    for name, fields in _tables(found, "profiles", ProfileTable, problems):
        file.profiles[name] = fields
    return file


def _tables(
    found: Mapping[str, Any], group: str, kind: type[Struct], problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each table of a group by its name, with the fields that could be read."""
    tables = found.get(group, {})
    if not isinstance(tables, dict):
        problems.add(group, "must be a table")
        return
    for name, table in tables.items():
        where = f"{group}.{name}"
        if not _NAME.fullmatch(name):
            problems.add(f"{where}.name", "must hold no control characters, and at most 200 characters")
        if not isinstance(table, dict):
            problems.add(where, "must be a table")
            yield name, {}
            continue
        try:
            msgspec.json.encode(table)  # a value is nested too deeply to be sent to a provider
            for one in all_of(table, kind):
                problems.add(f"{where}.{one.field}", one.detail)
            yield name, _readable(table, kind)
        except RecursionError:
            problems.add(where, "is nested too deeply")
            yield name, {}


def _readable(table: Mapping[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """Return the fields of a table that have the right types."""
    found: dict[str, Any] = {}
    for one in msgspec.structs.fields(kind):
        if one.encode_name in table:
            with suppress(msgspec.ValidationError):
                found[one.name] = msgspec.convert(table[one.encode_name], one.type)
    return found
