"""Settings of models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from penstock.settings.kinds import DAY, duration, flag, folder, http_url
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelSettings:
    """Models."""

    penstock_models_dir: Path | None = setting(
        folder, None, "folder of model manifests: NAME.toml or NAME/model.toml; watched for changes"
    )
    penstock_models_watch: bool = setting(
        flag, False, "reload models of PENSTOCK_MODELS_DIR when their code changes; `penstock serve --dev` sets it"
    )
    penstock_models_url: str | None = setting(
        http_url, None, "gateway that runs a worker's predict jobs; unset: the worker runs PENSTOCK_MODELS_DIR itself"
    )
    penstock_cancel_grace: timedelta = setting(
        duration(timedelta(0), DAY),
        timedelta(seconds=5),
        "time for a model's call to stop after its caller has gone; after that its replica is replaced if calls wait",
    )
