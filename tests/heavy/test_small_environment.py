"""An environment of a lock file from the package index, with what Penstock's own lock file of replicas adds to it."""

from __future__ import annotations

from pathlib import Path

from penstock.models import manifest
from penstock.models.environments import environment
from tests.support.models import Models


async def test_a_replica_runs_in_it(models: Models) -> None:
    model = manifest.read(Path(__file__).with_name("small") / "model.toml")
    prefix, text = await models.call(await models.host.add(model), {"number": 12_400_000})
    assert Path(prefix) == environment.root() / model.environments[0].key
    assert text == "12.4 million"
