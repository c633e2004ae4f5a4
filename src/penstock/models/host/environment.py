"""The interpreter, environment and working folder of a replica's process."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from penstock import masking
from penstock.errors import ModelUnavailable
from penstock.models.environments.environment import first_installed
from penstock.models.manifest import Model
from penstock.models.replica.secrets import is_secret

START = Path(__file__).parents[1] / "replica" / "start.py"
_ALWAYS = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "SSL_CERT_FILE", "SSL_CERT_DIR")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def command(model: Model, *fds: int) -> list[str]:
    """Return the command of a replica."""
    return [interpreter(model), str(START), *map(str, fds)]


def interpreter(model: Model) -> str:
    """Return the Python that runs the replica: that of the model's environment, or its own if it names one.

    Raises ModelUnavailable if the environment is not installed.
    """
    if model.environments:
        return _of_environment(model)
    own = model.runtime.interpreter(model.manifest.options, model.folder)
    return sys.executable if own is None else str(own)


def _of_environment(model: Model) -> str:
    installed = first_installed(model.environments)
    if installed is None:
        raise ModelUnavailable(
            f"the environment of model {model.name} is not installed; install it with "
            f"`penstock model install {model.name}`"
        )
    installed.note_use()
    return str(installed.python)


def working_folder(model: Model) -> Path:
    """Return the working folder of a replica; raises ModelUnavailable if it does not exist."""
    if model.source == "api":
        return Path("/")
    folder = model.folder / Path(model.manifest.folder).expanduser()
    if not folder.is_dir():
        raise ModelUnavailable(f"model {model.name}: its folder {model.manifest.folder!r} does not exist")
    return folder


def variables(
    model: Model, *, ours: Mapping[str, str], private: frozenset[str], visible_devices: str = ""
) -> dict[str, str]:
    """Return the environment of a replica, which sees the GPU ``visible_devices`` only.

    ``ours`` is the host's environment. A model of the operator gets it without ``private``, the settings of Penstock;
    its manifest adds variables and may refer to the host's as ``${NAME}``. A model that an API caller registered gets
    only the variables that every program needs: it could send others to a server of the caller's choice.
    """
    trusted = model.source == "folder"
    found = {name: value for name, value in ours.items() if name in _ALWAYS or (trusted and name not in private)}
    found["PYTHONUNBUFFERED"] = "1"
    found.setdefault("LANG", "C.UTF-8")
    # Python considers cached code current if the source has the same size and second of change, so a reload right after
    # an edit could load the old code. This also keeps the operator's folder as it is.
    found["PYTHONDONTWRITEBYTECODE"] = "1"
    for name, value in model.manifest.environment.items():
        found[name] = _REFERENCE.sub(lambda match: ours.get(match[1], ""), value) if trusted else value
    found["PENSTOCK_MODEL"] = model.name
    found["PENSTOCK_MODEL_VERSION"] = model.version
    found["CUDA_VISIBLE_DEVICES"] = visible_devices
    found.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order of the driver's tools, by which we number GPUs
    return found


def secrets(model: Model, *, ours: Mapping[str, str]) -> list[str]:
    """Return values that must never appear in a response, a log or an error: the manifest's own, and those of the host
    that it refers to."""
    if model.source != "folder":
        return list(model.secrets)
    stated = [value for name, value in model.manifest.environment.items() if is_secret(name)]
    known = [_REFERENCE.sub(lambda match: ours.get(match[1], ""), value) for value in stated]
    return [*model.secrets, *(value for value in known if len(value) >= masking.SHORTEST)]


def of_host() -> Mapping[str, str]:
    """Return the host's own environment."""
    return os.environ
