"""Differences between two documents of a service, and which of them break clients."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from penstock.athena.protocol.schemas.description import of_engine
from penstock.athena.protocol.schemas.dialects import document_of
from penstock.athena.protocol.schemas.differences import differences
from penstock.athena.protocol.schemas.document import Document
from tests.athena.test_schema_documents import ENGINE

_GIVEN = "schemainput.properties.parameter.properties.ocr"
_RESULT = "schemaoutput.properties.payload.properties.boxes"


def _changed(path: str, value: Any, *, remove: bool = False) -> list[tuple[str, bool]]:
    """Return the paths of the differences after one change, below the changed member, each with whether it breaks."""
    before = document_of(of_engine(ENGINE))
    after = deepcopy(before)
    *steps, last = path.split(".")
    where = after
    for step in steps:
        where = where[step]
    if remove:
        del where[last]
    else:
        where[last] = value
    found = differences(Document(before), Document(after))
    return [(one.path, one.breaking) for one in found]


def test_equal_documents_have_no_differences() -> None:
    """Also after a copy."""
    content = document_of(of_engine(ENGINE))
    assert differences(Document(content), Document(deepcopy(content))) == []


@pytest.mark.parametrize(
    ("path", "value", "where", "breaking"),
    [
        (f"{_GIVEN}.properties.lang.enum", ["en"], f"{_GIVEN}.properties.lang.enum", True),
        (f"{_GIVEN}.properties.lang.enum", ["en", "zh", "fr"], f"{_GIVEN}.properties.lang.enum", False),
        (f"{_GIVEN}.properties.angle.maximum", 80, f"{_GIVEN}.properties.angle.maximum", True),
        (f"{_GIVEN}.properties.angle.maximum", 100, f"{_GIVEN}.properties.angle.maximum", False),
        (f"{_GIVEN}.properties.angle.minimum", -80, f"{_GIVEN}.properties.angle.minimum", True),
        (f"{_GIVEN}.properties.angle.minimum", -100, f"{_GIVEN}.properties.angle.minimum", False),
        (f"{_GIVEN}.properties.top.type", "number", f"{_GIVEN}.properties.top.type", False),
        (f"{_GIVEN}.properties.angle.type", "integer", f"{_GIVEN}.properties.angle.type", True),
        (f"{_GIVEN}.properties.name.pattern", "^a", f"{_GIVEN}.properties.name.pattern", True),
        (f"{_GIVEN}.properties.name.defaultVal", "y", f"{_GIVEN}.properties.name.defaultVal", False),
        (f"{_GIVEN}.properties.new", {"type": "string"}, f"{_GIVEN}.properties.new", False),
        (f"{_GIVEN}.required", ["lang", "top"], f"{_GIVEN}.required", True),
        (f"{_GIVEN}.required", [], f"{_GIVEN}.required", False),
        (f"{_RESULT}.properties.text.type", "string", f"{_RESULT}.properties.text.type", False),
        (f"{_RESULT}.properties.seq.type", ["integer", "string"], f"{_RESULT}.properties.seq.type", True),
        (f"{_RESULT}.properties.format.enum", ["json"], f"{_RESULT}.properties.format.enum", False),
        (f"{_GIVEN}.properties.top.enum", [1, 5, 9], f"{_GIVEN}.properties.top.enum", False),
        (f"{_RESULT}.properties.seq.minimum", 1, f"{_RESULT}.properties.seq.minimum", False),
        (f"{_RESULT}.properties.seq.minimum", -1, f"{_RESULT}.properties.seq.minimum", True),
        ("meta.version", "v2", "meta.version", False),
        ("meta.serviceId", "other", "meta.serviceId", True),
        ("meta.route", "/other", "meta.route", True),
        ("meta.ocr.input.img.dataType", "audio", "meta.ocr.input.img.dataType", True),
    ],
)
def test_a_change_breaks_clients_or_not(path: str, value: Any, where: str, breaking: bool) -> None:
    """Seen from the client: what it sends must stay allowed, what it gets must stay as it was."""
    assert (where, breaking) in _changed(path, value)


@pytest.mark.parametrize(
    ("path", "breaking"),
    [
        (f"{_GIVEN}.properties.top", True),
        (f"{_GIVEN}.properties.name.maxLength", False),
        (f"{_RESULT}.properties.format", True),
        ("schemaoutput.properties.payload.properties.crop", True),
    ],
)
def test_a_removal_breaks_clients_or_not(path: str, breaking: bool) -> None:
    """A limit that is gone allows more."""
    assert (path, breaking) in _changed(path, None, remove=True)


def test_a_new_member_that_is_required_breaks_clients() -> None:
    """It is one difference, not two."""
    before = document_of(of_engine(ENGINE))
    after = deepcopy(before)
    service = after["schemainput"]["properties"]["parameter"]["properties"]["ocr"]
    service["properties"]["new"] = {"type": "string"}
    service["required"].append("new")
    (one,) = differences(Document(before), Document(after))
    assert (one.path, one.change, one.breaking) == (f"{_GIVEN}.properties.new", "was added, and is required", True)
