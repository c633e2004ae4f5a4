"""How a group declares its variables: what each may be, its default, its meaning, and how several must agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")
Kind = Callable[[object], T]  # the value of a text, or a checked value; raises ValueError with what is allowed
Known = Mapping[str, Any]  # values of the variables that were read before, by field; wrong ones are missing

_KEY: Final = "penstock.variable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One setting."""

    kind: Kind[Any]
    default: Any
    derived: Callable[[Known], Any] | None
    meaning: str

    @property
    def derived_meaning(self) -> str:
        """How the default is derived, in words: the docstring of the function that does it."""
        return (self.derived.__doc__ or "").removesuffix(".")

    def default_with(self, known: Known) -> Any:
        return self.default if self.derived is None else self.derived(known)


@overload
def setting(kind: Kind[T], default: T, meaning: str) -> T: ...
@overload
def setting(kind: Kind[T], *, derived: Callable[[Known], T], meaning: str) -> T: ...
def setting(
    kind: Kind[Any], default: Any = None, meaning: str = "", *, derived: Callable[[Known], Any] | None = None
) -> Any:
    """A field of a group. ``derived`` computes the default from what is known, when that is not constant."""
    variable = Variable(kind=kind, default=default, derived=derived, meaning=meaning)
    return dataclasses.field(metadata={_KEY: variable})


def variables(group: type) -> dict[str, Variable]:
    """The variables that a group declares itself, by field."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(group) if _KEY in field.metadata}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A rule over several variables; it is checked when each of them is right by itself."""

    blames: str  # the field whose variable is named when the rule is broken
    over: tuple[str, ...]  # the fields whose values ``problem`` takes, in order
    problem: Callable[..., str | None]  # returns what is allowed, or None when the rule holds
