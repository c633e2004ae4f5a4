"""Settings of models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from penstock.settings.kinds import DAY, MEBIBYTE, duration, flag, folder, http_url, integer
from penstock.settings.variable import Known, setting


def _call_folder(known: Known) -> Path:
    """`calls` in PENSTOCK_DATA_DIR"""
    return Path(known.get("penstock_data_dir", ".")) / "calls"


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
    penstock_call_folder: Path = setting(
        folder,
        derived=_call_folder,
        meaning="folder for the files of models' calls while they run; it should not be in memory",
    )
    penstock_call_files_bytes: int = setting(
        integer(MEBIBYTE, 2**50),
        16 * 2**30,
        "most bytes of the input files of all calls of a process together, and of the files that models write",
    )
    penstock_cancel_grace: timedelta = setting(
        duration(timedelta(0), DAY),
        timedelta(seconds=5),
        "time for a model's call to stop after its caller has gone; after that its replica is replaced if calls wait",
    )
