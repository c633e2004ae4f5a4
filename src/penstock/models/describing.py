"""Read the schema of a model without a gateway: by its manifest, or from its code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from penstock.models import manifest
from penstock.models.host.host import ModelHost
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Schema


async def schema_of(path: Path, *, private: Iterable[str] = ()) -> tuple[Model, Schema]:
    """Return the (first) model of a manifest, an absolute path, with its schema.

    A process reads the schema if only the code states it.
    ``private`` names variables that the model must not see. Raises InvalidInput for the manifest itself, and
    ModelUnavailable for code that cannot be imported.
    """
    model = manifest.read_all(path)[0][0]
    host = ModelHost(private=private)
    await host.start()
    try:
        deployment = await host.add(model)
        return model, await deployment.describe()
    finally:
        await host.stop()
