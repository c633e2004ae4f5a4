"""Messages for several services at once. Pure functions.

Each service has parameters under its name, and data objects whose names begin with its name and an underscore. The
services are called side by side, or in a row where the header's field ``services`` states their order, as
``ocr>translate``: the results of one are then data objects of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import DataObject, DataType
from penstock.errors import InvalidInput

ORDER: Final = "services"  # the field of the header
_NEXT: Final = ">"
_MAX_SERVICES: Final = 16


@dataclass(slots=True, kw_only=True)
class Part:
    """What a message states for one service, as a message of its own."""

    service: str
    message: dict[str, Any]
    fields: dict[str, str] = field(default_factory=dict)  # beginnings of its fields → those of the whole message

    @classmethod
    def whole(cls, service: str, message: dict[str, Any]) -> Part:
        """Return a message that is for one service."""
        return cls(service=service, message=message)


@dataclass(slots=True, kw_only=True)
class Division:
    """The parts of a message for several services; ``in_a_row``: each gets the results of the one before."""

    parts: Sequence[Part]
    in_a_row: bool = False


def divide(
    message: dict[str, Any], is_service: Callable[[str], bool], *, takes: Container[str] = frozenset()
) -> Division | None:
    """Return the parts of a message that is for several services; None if it is for one.

    It is for several if it states parameters of more than one, and each name there is that of a service, or if its
    header states their order. ``takes`` has the names of the data objects that the addressed service itself knows.
    Raises InvalidInput for what belongs to none of them.
    """
    header, parameter = message.get("header"), message.get("parameter")
    stated = header.get(ORDER) if isinstance(header, dict) else None
    if stated is not None:
        if not isinstance(stated, str):
            raise InvalidInput.of(
                f"header.{ORDER}", "must be a string that names services, as ocr>translate or ocr,asr"
            )
        names = _order(stated)
    elif isinstance(parameter, dict) and len(parameter) > 1 and all(is_service(name) for name in parameter):
        names = list(parameter)
    else:
        _refuse_unknown(message, is_service, takes)
        return None
    for name, section in (("header", header), ("parameter", parameter)):
        if section is not None and not isinstance(section, dict):
            raise InvalidInput.of(name, "must be an object")
    if len(names) > _MAX_SERVICES:
        raise InvalidInput.of("parameter", f"names {len(names)} services; at most {_MAX_SERVICES} are allowed")
    parts = [_part(message, name) for name in names]
    _share_out(message, {part.service: part for part in parts})
    return Division(parts=parts, in_a_row=isinstance(stated, str) and _NEXT in stated)


def _refuse_unknown(message: Mapping[str, Any], is_service: Callable[[str], bool], takes: Container[str]) -> None:
    """Raise InvalidInput for parameters under names that no service has, if data objects begin with those of others.

    Otherwise parameters may stand under any names.
    """
    parameter, payload = message.get("parameter"), message.get("payload")
    if not isinstance(parameter, dict) or not 1 < len(parameter) <= _MAX_SERVICES or not isinstance(payload, dict):
        return
    services = [name for name in parameter if is_service(name)]
    divided = any(name not in takes and name.startswith(f"{one}_") for name in payload for one in services)
    unknown = [name for name in parameter if name not in services]
    if divided and unknown:
        raise InvalidInput.of(f"parameter.{unknown[0][:100]}", "is not the name of a service")


def _order(stated: str) -> list[str]:
    names = [name.strip() for name in stated.split(_NEXT if _NEXT in stated else ",")]
    if not all(names) or len(set(names)) < len(names):
        raise InvalidInput.of(f"header.{ORDER}", "must name services, each once, as ocr>translate or ocr,asr")
    return names


def _part(message: Mapping[str, Any], name: str) -> Part:
    header = {key: value for key, value in dict(message.get("header") or {}).items() if key != ORDER}
    parameter = message.get("parameter")
    own = parameter.get(name) if isinstance(parameter, dict) else None
    return Part(service=name, message={"header": header} | ({} if own is None else {"parameter": {name: own}}))


def _share_out(message: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Give each data object to the service with whose name its own begins, of several to the one with the longest."""
    payload = message.get("payload")
    if payload is None:
        return
    if not isinstance(payload, dict):
        raise InvalidInput.of("payload", "must be an object")
    for name, value in payload.items():
        fitting = [one for one in parts if name == one or name.startswith(f"{one}_")]
        if not fitting:
            raise InvalidInput.of(f"payload.{name[:100]}", f"must begin with one of the services {', '.join(parts)}")
        owner = max(fitting, key=len)
        own = name[len(owner) + 1 :] or name
        part = parts[owner]
        part.message.setdefault("payload", {})[own] = value
        part.fields[f"payload.{own}"] = f"payload.{name}"


def hand_on(results: Sequence[DataObject], takes: Mapping[str, DataType]) -> dict[str, DataObject]:
    """Return the results of a service as data objects of the next one in a row, which takes ``takes``.

    A result keeps its name if the next service takes one of that name; otherwise it gets the name of the first one of
    its type that is left, and is left out if there is none.
    """
    found: dict[str, DataObject] = {one.name: one for one in results if one.name in takes}
    for one in results:
        if one.name in takes:
            continue
        free = next((name for name, kind in takes.items() if name not in found and kind is one.type), None)
        if free is not None:
            found[free] = replace(one, name=free)
    return found


def with_results(request: ServiceRequest, results: Mapping[str, DataObject]) -> ServiceRequest:
    """Return a request that has these data objects, except where it states them itself."""
    return replace(request, payload={**results, **request.payload})
