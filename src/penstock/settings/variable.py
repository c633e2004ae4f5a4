"""Declare a group of variables: each with its kind, default and description, and rules about several of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")
Kind = Callable[[object], T]  # converts a text or checks a value; raises ValueError with what is allowed
Known = Mapping[str, Any]  # values of the variables that were read before, by field; invalid ones are missing

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
        """The description of a derived default: the docstring of the function that computes it."""
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
    """Declare a field of a group. ``derived`` computes a default that depends on variables that were read before."""
    variable = Variable(kind=kind, default=default, derived=derived, meaning=meaning)
    return dataclasses.field(metadata={_KEY: variable})


def variables(group: type) -> dict[str, Variable]:
    """Return the variables that a group declares itself, by field."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(group) if _KEY in field.metadata}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A rule about several variables. It is checked only if each of them is valid on its own."""

    blames: str  # the field whose variable the error names
    over: tuple[str, ...]  # the fields whose values ``problem`` takes, in order
    problem: Callable[..., str | None]  # returns what is allowed, or None when the rule holds
