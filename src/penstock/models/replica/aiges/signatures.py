"""Call the methods of a wrapper by their own signatures: published ones differ in number, names and order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

GIVEN: Final = {  # what each method is given, in the order of the contract
    "wrapperInit": ("config",),
    "wrapperFini": (),
    "wrapperError": ("number",),
    "wrapperOnceExec": ("params", "data", "tag", "resource"),
    "wrapperOnceExecAsync": ("params", "data", "sid", "resource", "tag"),
    "wrapperCreate": ("params", "sid", "resource", "tag"),
    "wrapperWrite": ("handle", "data", "sid"),
    "wrapperRead": ("handle", "sid"),
    "wrapperDestroy": ("handle", "sid"),
    "wrapperLoadRes": ("data", "resource"),
    "wrapperUnloadRes": ("resource",),
}

_MEANINGS: Final = {  # names of parameters, in lower case, by what they mean
    "params": "params",
    "param": "params",
    "reqdata": "data",
    "req": "data",
    "request": "data",
    "data": "data",
    "datas": "data",
    "usrtag": "tag",
    "usertag": "tag",
    "tag": "tag",
    "sid": "sid",
    "handle": "handle",
    "hdl": "handle",
    "persid": "resource",
    "presid": "resource",
    "psrid": "resource",
    "resid": "resource",
    "patch_id": "resource",
    "config": "config",
    "ret": "number",
}
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class SignatureError(ValueError):
    """A method needs something that it is never given."""


def bound(method: Callable[..., Any], *given: str) -> Callable[..., Any]:
    """Return a function that takes the values ``given``, by their meanings, and passes those that the method has
    parameters for.

    A parameter gets the value that its name means. One of another name without a default gets the next value that is
    left, in the order of ``given``. Raises SignatureError if there is none.
    """
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):  # code in C need not show it
        return method
    places = _places(parameters, given)
    leading: list[int] = []  # indices into the values
    named: dict[str, int] = {}
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            leading += [index for index in range(len(given)) if index not in (*leading, *named.values())]
        elif name not in places:
            if parameter.default is parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                raise SignatureError(_missing(method, name, given))
        elif parameter.kind in _POSITIONAL and len(leading) == _position(parameters, name):
            leading.append(places[name])
        else:
            named[name] = places[name]
    return _call(method, leading, named)


def _places(parameters: Mapping[str, inspect.Parameter], given: Sequence[str]) -> dict[str, int]:
    """Return which value each parameter gets, as an index into the values."""
    found: dict[str, int] = {}
    for name, parameter in parameters.items():
        meaning = _MEANINGS.get(name.lower())
        if meaning in given and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            found.setdefault(name, given.index(meaning))
    left = [index for index in range(len(given)) if index not in found.values()]
    for name, parameter in parameters.items():
        if name not in found and left and parameter.kind in _POSITIONAL and parameter.default is parameter.empty:
            found[name] = left.pop(0)
    return found


def _position(parameters: Mapping[str, inspect.Parameter], name: str) -> int:
    return list(parameters).index(name)


def _call(method: Callable[..., Any], leading: Sequence[int], named: Mapping[str, int]) -> Callable[..., Any]:
    if not named:
        match leading:
            case [0]:
                return lambda first, *_more: method(first)
            case [0, 1]:
                return lambda first, second, *_more: method(first, second)
    return lambda *values: method(
        *(values[index] for index in leading), **{name: values[index] for name, index in named.items()}
    )


def _missing(method: Callable[..., Any], name: str, given: Sequence[str]) -> str:
    what = ", ".join(given) or "nothing"
    return f"{getattr(method, '__name__', method)} has a parameter {name!r}, which it is never given: it gets {what}"
