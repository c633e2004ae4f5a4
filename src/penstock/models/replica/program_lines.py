"""The lines that a program of the runtime ``subprocess`` writes, and what each means. Pure.

docs/subprocess-models.md specifies the protocol.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import msgspec

from penstock.failures import CallFailed, Category
from penstock.finite import not_finite_in

_QUOTED: Final = 200  # characters of a line that an error quotes
_LEVELS: Final = frozenset({"debug", "info", "warning", "error"})

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_json = msgspec.json.Decoder()


class OutOfStep(Exception):
    """The program broke the protocol, so answers can no longer be matched to calls."""


class Log(msgspec.Struct, forbid_unknown_fields=True):
    """A log line of a program."""

    message: str
    level: str = "info"


class Refusal(msgspec.Struct, forbid_unknown_fields=True):
    """An error of a program."""

    message: str
    field: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The meaning of one line of a program."""

    final: bool = True
    output: bytes | None = None
    progress: msgspec.Raw | None = None
    log: Log | None = None
    error: CallFailed | None = None


def read(line: bytes) -> Said:
    """Return what a line means. Raises OutOfStep when it is not JSON."""
    try:
        if not line.isascii():
            line.decode()
        _json.decode(line)  # all of it: a number may be out of range
        if not line.startswith(b"{"):
            return Said(output=line)
        members = _members.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if held := not_finite_in(line):
            return _not_finite(line, held)
        raise OutOfStep(f"a line that is not JSON: {_short(line)}") from None
    stated = members.pop("final", None)
    final = {b"true": True, b"false": False}.get(bytes(stated)) if stated is not None else None
    if final is not False and members.keys() == {"error"}:
        error = _refusal(members["error"])
        if error is not None:
            return Said(error=error)
    if final is None:
        return Said(output=line)
    if members.keys().isdisjoint({"output", "progress", "log"}):
        return Said(final=final, output=msgspec.json.encode(members) if members or not final else None)
    return Said(
        final=final,
        output=bytes(members["output"]) if "output" in members else None,
        progress=members.get("progress"),
        log=_log(members["log"]) if "log" in members else None,
    )


def _not_finite(line: bytes, held: str) -> Said:
    """Return the meaning of a line that holds NaN, which many libraries write, or a number that no float can hold: the
    call has failed, and the program is still in step."""
    stated = json.loads(line)
    final = not (isinstance(stated, dict) and stated.get("final") is False)
    return Said(final=final, error=CallFailed(Category.INTERNAL, f"the program's output holds {held}"))


def _refusal(stated: msgspec.Raw) -> CallFailed | None:
    try:
        found = msgspec.json.decode(stated, type=str | Refusal)
    except msgspec.DecodeError:
        return None  # such an object is an ordinary answer
    if isinstance(found, str):
        return CallFailed(Category.INTERNAL, found)
    return CallFailed(Category.INTERNAL if found.field is None else "bad_input", found.message, field=found.field)


def _log(stated: msgspec.Raw) -> Log:
    try:
        found = msgspec.json.decode(stated, type=str | Log)
    except msgspec.DecodeError:
        return Log(bytes(stated).decode())
    if isinstance(found, str):
        return Log(found)
    return found if found.level in _LEVELS else Log(found.message)


def _short(line: bytes) -> str:
    text = " ".join(line[: 4 * _QUOTED].decode("utf-8", "replace").split())
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "…"
