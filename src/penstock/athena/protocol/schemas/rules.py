"""The rules of a document for the messages of its service: constants, defaults, checks, names, returned headers.

``constVal`` sets a value whatever the client states, ``defaultVal`` one that it does not state, ``replaceKey`` renames
a member for the engine. Checks see the names of clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.athena.protocol.data import DataObject, DataType, Scalar
from penstock.athena.protocol.schemas.absent import drop_absent
from penstock.athena.protocol.schemas.document import Document, properties_of
from penstock.models.checking import Checker
from penstock.models.replica.aiges.calls import text_of

_MAX_DEPTH: Final = 30  # levels of a schema at which rules may stand
_SECTIONS: Final = {
    "header": 0,
    "parameter": 2,
    "payload": None,
}  # levels of members that rules may add; None: not even it
_OF_TEXT: Final = ("encoding", "compress", "format")
_CONTAINERS: Final = (dict, list)
_NUMBERS: Final = frozenset({"integer", "number"})
_FROM_TEXT: Final = frozenset({"integer", "number", "boolean"})


class Rules:
    """Applies a document to messages. Made once per document; raises InvalidInput for a schema that is not valid."""

    def __init__(self, document: Document) -> None:
        Checker.check_schema(document.given, "schemainput")
        self._document = document
        self._first = Checker(document.given, owner="service")
        self._later = Checker(_without_required(document.given), owner="service")
        self._opening = Checker(_without_required_data(document.given), owner="service")
        self._plan = _plan_of(document.given)
        self._plan_in_parts = _plan_of(_without_statuses(document.given))
        self._header = properties_of(properties_of(document.given).get("header"))
        returned = properties_of(properties_of(document.returned).get("payload"))
        self._results = {name: _Attributes.of(schema) for name, schema in returned.items()}

    def first(self, message: dict[str, Any], *, app_id: str = "", in_parts: bool = False) -> dict[str, Any]:
        """Return a first, or only, message as the engine should see it; the message itself is changed.

        ``app_id`` is that of the sender's key, for a message that states none. If the input comes ``in_parts``, data
        may come later, and statuses have no defaults. Raises InvalidInput that names fields.
        """
        drop_absent(message)
        self._complete_header(message, app_id)
        plan = self._plan_in_parts if in_parts else self._plan
        if plan is not None:
            for name, grow in _SECTIONS.items():
                inner = plan.inner.get(name)
                if inner is not None and inner.sets and grow is not None and name not in message:
                    message[name] = {}
                if inner is not None:
                    _complete(inner, message.get(name), grow=grow or 0)
        (self._opening if in_parts else self._first).check(message)
        if plan is not None and plan.renames:
            _rename(plan, message)
        return message

    def later(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a later message of a session, of which nothing is required; the message itself is changed."""
        drop_absent(message)
        plan = self._plan_in_parts
        if plan is not None:
            _complete(plan, message, grow=0)
        self._later.check(message)
        if plan is not None and plan.renames:
            _rename(plan, message)
        return message

    def _complete_header(self, message: dict[str, Any], app_id: str) -> None:
        """State the app id under the name that the schema knows: both spellings occur."""
        header = message.setdefault("header", {})
        if not isinstance(header, dict):
            return
        stated = header.get("appid") or header.get("app_id") or app_id
        if isinstance(stated, int) and not isinstance(stated, bool):
            stated = str(stated)
        for name in ("appid", "app_id"):
            if stated and (name in self._header or name in header):
                header[name] = stated

    def cast(self, results: Sequence[DataObject]) -> None:
        """Complete the attributes of results: those of text by the defaults in the document, all in its types."""
        for one in results:
            stated = self._results.get(one.name)
            if stated is None:
                continue
            if one.type is DataType.TEXT:
                for name, default in stated.defaults.items():
                    one.attributes.setdefault(name, default)
            for name, value in one.attributes.items():
                kind = stated.types.get(name)
                if kind is not None:
                    one.attributes[name] = as_type(value, kind)

    def response_header(self, header: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return the fields of a request's header that its response repeats."""
        if not self._document.build_header:
            return {}
        found = {name: header[name] for name in self._header if name in header}
        types = {name: one.get("type") if isinstance(one, Mapping) else None for name, one in self._header.items()}
        return {name: as_type(value, types[name]) for name, value in found.items()}


@dataclass(slots=True)
class _Attributes:
    """What a schema states of the attributes of a result."""

    defaults: dict[str, str]  # of those that describe text
    types: dict[str, str]

    @classmethod
    def of(cls, schema: Any) -> _Attributes:
        stated = {name: one for name, one in properties_of(schema).items() if isinstance(one, Mapping)}
        of_text = {name: stated[name] for name in _OF_TEXT if name in stated}
        defaults = {name: one.get("defaultVal", one.get("default")) for name, one in of_text.items()}
        types = {name: one.get("type") for name, one in stated.items()}
        return cls(
            defaults={name: one for name, one in defaults.items() if isinstance(one, str)},
            types={name: kind for name, kind in types.items() if isinstance(kind, str)},
        )


def as_type(value: Scalar, kind: Any) -> Scalar:
    """Return a value as a JSON type, where it can be one."""
    if kind == "string":
        return value if isinstance(value, str) else text_of(value)
    if not isinstance(kind, str):
        return value
    if kind in _NUMBERS and isinstance(value, str):
        try:
            return int(value) if len(value) < 20 else value
        except ValueError:
            pass
        try:
            number = float(value)
        except ValueError:
            return value
        return number if number - number == 0 else value  # not inf, not nan
    if kind in {"boolean", "bool"} and value in ("true", "false"):
        return value == "true"
    return value


@dataclass(slots=True)
class _Plan:
    """What the rules of a schema do with an object, without the parts of the schema that state none."""

    constants: list[tuple[str, Any]] = field(default_factory=list)
    defaults: list[tuple[str, Any]] = field(default_factory=list)
    types: list[tuple[str, str]] = field(default_factory=list)  # members that texts are converted for
    names: list[tuple[str, str]] = field(default_factory=list)  # members that are renamed
    inner: dict[str, _Plan] = field(default_factory=dict)
    items: _Plan | None = None  # of each item, where the value is a list
    sets: bool = False  # it, or one in it, sets something
    renames: bool = False  # it, or one in it or its items, renames something


def _plan_of(schema: Any, depth: int = 0) -> _Plan | None:
    """Return the plan of a schema; None if it states no rules."""
    if depth > _MAX_DEPTH or not isinstance(schema, Mapping):
        return None
    found = _Plan(items=_plan_of(schema.get("items"), depth + 1))
    for name, one in properties_of(schema).items():
        if not isinstance(one, Mapping):
            continue
        if "constVal" in one:
            found.constants.append((name, one["constVal"]))
        elif "defaultVal" in one:
            found.defaults.append((name, one["defaultVal"]))
        kind, other = one.get("type"), one.get("replaceKey")
        if isinstance(kind, str) and kind in _FROM_TEXT:
            found.types.append((name, kind))
        if isinstance(other, str) and other and other != name:
            found.names.append((name, other))
        inner = _plan_of(one, depth + 1)
        if inner is not None:
            found.inner[name] = inner
    found.sets = bool(found.constants or found.defaults) or any(one.sets for one in found.inner.values())
    inside = [*found.inner.values(), *([found.items] if found.items is not None else ())]
    found.renames = bool(found.names) or any(one.renames for one in inside)
    states_some = found.sets or found.types or found.names or found.inner or found.items is not None
    return found if states_some else None


def _complete(plan: _Plan, value: Any, *, grow: int) -> None:
    """Set constants and defaults in a value, and turn texts into the numbers and booleans that the schema wants:
    clients of the original send texts. ``grow`` levels of members are made where rules set something in them."""
    if type(value) is list and plan.items is not None:
        for one in value:
            _complete(plan.items, one, grow=0)
    if type(value) is not dict:
        return
    for name, constant in plan.constants:
        value[name] = _copy(constant)
    for name, default in plan.defaults:
        if name not in value:
            value[name] = _copy(default)
    for name, kind in plan.types:
        one = value.get(name)
        if type(one) is str:
            value[name] = as_type(one, kind)
    for name, inner in plan.inner.items():
        if name not in value:
            if not grow or not inner.sets:
                continue
            value[name] = {}
        _complete(inner, value[name], grow=max(grow - 1, 0))


def _copy(value: Any) -> Any:
    """Return a value of JSON that may be changed apart from the original."""
    return deepcopy(value) if isinstance(value, _CONTAINERS) else value


def _rename(plan: _Plan, value: Any) -> None:
    if type(value) is list and plan.items is not None:
        for one in value:
            _rename(plan.items, one)
    if type(value) is not dict:
        return
    for name, inner in plan.inner.items():
        if inner.renames and name in value:
            _rename(inner, value[name])
    if plan.names:
        value |= {other: value.pop(name) for name, other in plan.names if name in value}


def _without_required_data(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of messages in which no data object, and nothing in one, is required."""
    properties = dict(properties_of(schema))
    if isinstance(properties.get("payload"), Mapping):
        properties["payload"] = _without_required(properties["payload"], 1)
    return {**schema, "properties": properties}


def _without_statuses(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of messages in which the statuses of header and data objects have no defaults."""
    properties = dict(properties_of(schema))
    if isinstance(properties.get("header"), Mapping):
        properties["header"] = _without_default_status(properties["header"])
    payload = properties.get("payload")
    if isinstance(payload, Mapping):
        objects = {
            name: _without_default_status(one) if isinstance(one, Mapping) else one
            for name, one in properties_of(payload).items()
        }
        properties["payload"] = {**payload, "properties": objects}
    return {**schema, "properties": properties}


def _without_default_status(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = dict(properties_of(schema))
    status = properties.get("status")
    if isinstance(status, Mapping):
        properties["status"] = {name: one for name, one in status.items() if name != "defaultVal"}
    return {**schema, "properties": properties}


def _without_required(schema: Any, depth: int = 0) -> dict[str, Any]:
    """Return a schema in which no member of header, parameter, payload and their members is required."""
    found = {name: one for name, one in schema.items() if name != "required"}
    if depth < 3:
        for word in ("properties", "patternProperties"):
            if isinstance(found.get(word), Mapping):
                found[word] = {
                    name: _without_required(one, depth + 1) if isinstance(one, Mapping) else one
                    for name, one in found[word].items()
                }
    return found
