"""Sub-services: a category of services passes a request to the first one whose rules its fields meet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.athena.protocol.mistakes import Mistakes
from penstock.models.replica.aiges.calls import text_of

_STEP: Final = re.compile(
    r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d{1,6})\]|\['(?P<single>[^']*)'\]|\[\"(?P<double>[^\"]*)\"\]"
)
_ABSENT: Final = object()
_MAX_ROUTES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """A field of a request and the values that it may have, as texts."""

    path: str
    steps: Sequence[str | int]
    values: frozenset[str]

    def value_in(self, request: Any) -> str | None:
        found = request
        for step in self.steps:
            if isinstance(found, Mapping) and isinstance(step, str):
                found = found.get(step, _ABSENT)
            elif isinstance(found, list) and isinstance(step, int) and step < len(found):
                found = found[step]
            else:
                return None
        return text_of(found) if isinstance(found, str | int | float) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    service: str
    priority: float
    rules: Sequence[_Rule]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubRoute:
    """The sub-service for a request, with the values of its route keys, joined by underscores."""

    service: str
    info: str


class SubRoutes:
    """The rules by which a category chooses a sub-service."""

    def __init__(self, routes: Sequence[_Route], keys: Sequence[str], *, is_category: bool) -> None:
        self._routes = sorted(routes, key=lambda one: -one.priority)  # stable: of equal ones the first
        self._keys = keys
        self.is_category = is_category  # a request that meets no rules is refused

    @classmethod
    def of(cls, meta: Mapping[str, Any], mistakes: Mistakes) -> SubRoutes:
        """Return the rules in the meta data of a document, recording what is wrong with them."""
        stated = meta.get("subRoute", [])
        if not isinstance(stated, list) or len(stated) > _MAX_ROUTES:
            mistakes.add(("meta", "subRoute"), f"must be a list of at most {_MAX_ROUTES} routes")
            stated = []
        routes = [one for index, item in enumerate(stated) for one in _routes(item, index, mistakes)]
        keys = meta.get("routeKey", [])
        if not isinstance(keys, list) or not all(isinstance(one, str) for one in keys):
            mistakes.add(("meta", "routeKey"), "must be a list of texts")
            keys = []
        return cls(routes, keys, is_category=meta.get("type") == "category" or bool(routes))

    def choose(self, request: Any) -> SubRoute | None:
        """Return the sub-service for a request as JSON; None where it meets no rules."""
        for route in self._routes:
            found = [(rule, rule.value_in(request)) for rule in route.rules]
            if all(value in rule.values for rule, value in found):
                values = [
                    next((value or "" for rule, value in found if rule.path.endswith(key)), "") for key in self._keys
                ]
                return SubRoute(service=route.service, info="_".join(values))
        return None


def _routes(item: Any, index: int, mistakes: Mistakes) -> Iterator[_Route]:
    path = ("meta", "subRoute", index)
    if not isinstance(item, Mapping):
        mistakes.add(path, "must be an object with subServiceId and rules")
        return
    service, rules, priority = item.get("subServiceId"), item.get("rules"), item.get("priority", 0)
    if not isinstance(service, str) or not service:
        mistakes.add((*path, "subServiceId"), "must be the name of a service")
    elif isinstance(priority, bool) or not isinstance(priority, int | float):
        mistakes.add((*path, "priority"), "must be a number; the highest is tried first")
    elif not isinstance(rules, Mapping):
        mistakes.add(
            (*path, "rules"), "must be an object of paths, such as $.parameter.iat.domain, with allowed values"
        )
    else:
        found = [_rule(text, value, (*path, "rules", text), mistakes) for text, value in rules.items()]
        yield _Route(service=service, priority=priority, rules=[one for one in found if one is not None])


def _rule(text: str, value: Any, path: tuple[str | int, ...], mistakes: Mistakes) -> _Rule | None:
    steps = _steps(text)
    if steps is None:
        mistakes.add(path, "must be a path like $.header.uid, $['a.b'] or $.list[0]")
        return None
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        mistakes.add(path, "must be a text, a number, a boolean, or a list of these")
        return None
    return _Rule(path=text, steps=steps, values=frozenset(text_of(one) for one in values))


def _steps(text: str) -> list[str | int] | None:
    if not text.startswith("$"):
        return None
    steps: list[str | int] = []
    at = 1
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            return None
        if found["index"] is not None:
            steps.append(int(found["index"]))
        else:
            steps.append(next(one for one in (found["name"], found["single"], found["double"]) if one is not None))
        at = found.end()
    return steps
