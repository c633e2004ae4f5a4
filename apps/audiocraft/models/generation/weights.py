"""Find the weights of a model: in a folder, in the caches, or, if the operator allows it, at the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from generation.errors import CannotLoad
from generation.variables import Variables

_FILES: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.bin")
_log = logging.getLogger(__name__)


def find(names: Sequence[str], variable: str, variables: Variables, needed: Sequence[str]) -> Path:
    """Return the folder of the weights that one of ``names`` has; the names are alternatives for the same weights.

    ``needed`` are patterns, one of which a file of the folder has to match. Raises CannotLoad.
    """
    incomplete: Path | None = None
    for folder in _candidates(names, variables):
        if any(next(folder.glob(pattern), None) for pattern in needed):
            return folder
        incomplete = folder
    if incomplete is not None and Path(names[0]).is_dir():
        raise CannotLoad(f"{variable}: {incomplete} has no {' or '.join(needed)}")
    if not variables.may_download:
        places = ", ".join(str(cache) for cache in variables.caches)
        raise CannotLoad(
            f"{variable}: the weights of {names[0]} are not here. Put them into one of {places} (as the folder "
            f"{names[0]}, or as the hub's cache), set the variable to a folder that has them, or set "
            "ALLOW_MODEL_DOWNLOAD=true"
        )
    return _download(names[0], variable, variables)


def _candidates(names: Sequence[str], variables: Variables) -> Iterator[Path]:
    """Yield the folders that may have the weights, the most specific first."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only in the model's environment)
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    for name in names:
        for path in (Path(name).expanduser(), *(cache / name for cache in variables.caches)):
            if path.is_dir():
                yield path
        for cache in (*variables.caches, None):  # None: the hub's usual folder in the user's cache
            with suppress(LocalEntryNotFoundError, HFValidationError, OSError):
                yield Path(snapshot_download(name, cache_dir=cache, local_files_only=True))


def _download(name: str, variable: str, variables: Variables) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415

    cache = variables.caches[0]
    try:
        files = HfApi().model_info(name, files_metadata=True, timeout=30).siblings or []
        size = sum(file.size or 0 for file in files if any(Path(file.rfilename).match(one) for one in _FILES))
        _log.warning("downloading %s (%.1f GB) into %s; this is done once", name, size / 1e9, cache)
        return Path(snapshot_download(name, cache_dir=cache, allow_patterns=list(_FILES)))
    except Exception as error:  # its client raises errors of several libraries
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CannotLoad(f"{variable}: {name} cannot be downloaded into {cache}: {reason}") from error
