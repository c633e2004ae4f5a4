"""Parts of the routes of collections: names in paths, and examples."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from penstock.collections.collection import Key, Limit, Name
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound
from penstock.web.reading import convert
from penstock.web.request import Request
from penstock.web.route import Parameter, PathParameter

TAG: Final = "Collections"
NAME: Final = PathParameter(name="name", description="the collection's name")
KEY: Final = PathParameter(name="key", description="the item's key")
LIMIT: Final = Parameter(name="limit", type=Limit, description="the most to return; 100 unless stated")
NAMED: Final = (InvalidInput, NotFound, DatabaseUnavailable)


class _Name(Struct, frozen=True):
    name: Name


class _Key(Struct, frozen=True):
    key: Key


def name_in(request: Request) -> str:
    """Return the name of the collection in the path. Raises InvalidInput."""
    return convert({"name": request.path("name")}, _Name).name


def key_in(request: Request) -> str:
    """Return the key of the item in the path. Raises InvalidInput."""
    return convert({"key": request.path("key")}, _Key).key


def check_text(value: str, field: str) -> None:
    """Raise InvalidInput for a text that the database cannot hold."""
    if "\x00" in value:
        raise InvalidInput.of(field, "must not contain the character U+0000")
