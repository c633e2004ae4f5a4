"""The documents of services: a file beside a model's manifest, or made from its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.athena.protocol.schemas.description import of_engine, of_model
from penstock.athena.protocol.schemas.dialects import document_of
from penstock.athena.protocol.schemas.document import MAX_BYTES, Document
from penstock.errors import InvalidInput
from penstock.models.host.deployment import Deployment
from penstock.models.manifest import Model
from penstock.models.replica.aiges import schema_file
from penstock.models.replica.aiges.fields import Service
from penstock.models.replica.runtime import Schema
from penstock.web.reading import decode

FILE_NAME: Final = "athena.json"

_DESCRIBED_BY_FILES: Final = frozenset({"aiges-native", "aiges-plugin"})
_any: Final = msgspec.json.Decoder()


def beside(model: Model) -> Document | None:
    """Return the document in ``NAME.athena.json`` or ``athena.json`` in the folder of the operator's manifest, or the
    one that describes an engine in C or a plugin.

    Raises MalformedBody and InvalidInput.
    """
    if model.source != "folder":
        return None
    for path in (model.folder / f"{model.name}.{FILE_NAME}", model.folder / FILE_NAME):
        content = _content(path)
        if content is not None:
            return Document.read(content)
    return _of_engine(model) if model.manifest.runtime in _DESCRIBED_BY_FILES else None


def _of_engine(model: Model) -> Document | None:
    """Return the file that describes an engine, where it is a document with a service id."""
    content = _content(model.folder / model.manifest.options.get("schema", schema_file.FILE_NAME))
    if content is None:
        return None
    stated = decode(content, _any) if len(content) <= MAX_BYTES else None
    meta = stated.get("meta") if isinstance(stated, dict) else None
    return Document(stated) if isinstance(meta, dict) and "serviceId" in meta else None


def _content(path: Path) -> bytes | None:
    if not path.is_file():  # also not a FIFO, whose reader would wait
        return None
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput.of(path.name, f"cannot be read: {error.strerror}") from None


def made(deployment: Deployment, schema: Schema, engine: Service | None) -> dict[str, Any]:
    """Return the document of a service that has none of its own."""
    name = deployment.model.name
    if engine is not None:
        return document_of(of_engine(engine, name=name, version=f"v{deployment.model.version}"))
    sessions = schema.session is not None
    return document_of(of_model(name=name, input=schema.input, output=schema.output, sessions=sessions))
