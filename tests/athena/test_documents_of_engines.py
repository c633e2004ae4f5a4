"""The file that describes an engine in C is the document of its service, with all its rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.athena import documents
from penstock.errors import InvalidInput
from penstock.models.manifest import Model, check

_CONTENT: dict[str, Any] = {"meta": {"serviceId": "ocr", "codeMap": {"10110": 429}}, "schemainput": {}}


def _engine(folder: Path, **options: Any) -> Model:
    (folder / "libwrapper.so").touch()
    stated = {"name": "ocr", "runtime": "aiges-native", "aiges-native": options}
    return check(stated, folder=folder, source="folder")


def test_the_file_of_an_engine_is_its_document(tmp_path: Path) -> None:
    """By its usual name, or by the one that the manifest states."""
    for name, options in (("schema.json", {}), ("mine.json", {"schema": "mine.json"})):
        (tmp_path / name).write_text(json.dumps(_CONTENT))
        found = documents.beside(_engine(tmp_path, **options))
        assert found is not None
        assert found.code_map == {"10110": 429}
        (tmp_path / name).unlink()


def test_a_file_that_is_no_document_is_not_one(tmp_path: Path) -> None:
    """It may be a schema of Penstock, or state no service id; a document of its own comes first."""
    assert documents.beside(_engine(tmp_path)) is None
    others: list[Any] = [{"input": {}}, {"meta": {}}, []]
    for content in others:
        (tmp_path / "schema.json").write_text(json.dumps(content))
        assert documents.beside(_engine(tmp_path)) is None
    (tmp_path / "athena.json").write_text(json.dumps({"meta": {"serviceId": "other"}}))
    found = documents.beside(_engine(tmp_path))
    assert found is not None
    assert found.service_id == "other"


def test_a_wrong_document_of_an_engine_is_reported(tmp_path: Path) -> None:
    """With the key that is wrong."""
    (tmp_path / "schema.json").write_text(json.dumps({"meta": {"serviceId": "a", "route": 5}}))
    with pytest.raises(InvalidInput, match=r"meta\.route"):
        documents.beside(_engine(tmp_path))
