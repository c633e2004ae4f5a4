"""Wheels for environments of models, made without a package index."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# What a replica imports, with what that needs.
REPLICA: Final = ("annotated-types", "msgspec", "pydantic", "pydantic-core", "typing-extensions", "typing-inspection")
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Wheels:
    """A folder of wheels, and lock files that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pins: dict[str, str] = {}  # by the name of the package

    def add(self, name: str, files: Mapping[str, str], *, requires: str = "") -> None:
        """Make the wheel of a package of version 1.0."""
        information = f"{name}-1.0.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        whole = {**files, f"{information}/METADATA": metadata, f"{information}/WHEEL": _WHEEL}
        self._write(name, "1.0", information, {path: text.encode() for path, text in whole.items()})

    def add_installed(self, name: str) -> None:
        """Make the wheel of a package that is installed here. It fits this Python, whatever its tag says."""
        distribution = importlib.metadata.distribution(name)
        files = {
            str(file): Path(str(distribution.locate_file(file))).read_bytes()
            for file in distribution.files or ()
            if not {"..", "__pycache__"} & set(file.parts) and file.name not in {"RECORD", "INSTALLER", "REQUESTED"}
        }
        information = next(path.partition("/")[0] for path in files if path.endswith(".dist-info/METADATA"))
        files[f"{information}/WHEEL"] = _WHEEL.encode()
        self._write(name, distribution.version, information, files)

    def lock(self, *names: str) -> str:
        """Return a lock file with these packages, and with what a replica needs."""
        return "".join(f"{self.pins[name]}\n" for name in (*names, *REPLICA))

    def _write(self, name: str, version: str, information: str, files: Mapping[str, bytes]) -> None:
        path = self.folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        record = "".join(f"{file},{_digest(content)},{len(content)}\n" for file, content in files.items())
        with zipfile.ZipFile(path, "w") as wheel:
            for file, content in {**files, f"{information}/RECORD": record.encode()}.items():
                wheel.writestr(file, content)
        self.pins[name] = f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def without_index(folder: Path) -> dict[str, str]:
    """Return the variables that make pip install from a folder of wheels only."""
    return {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_EXTRA_INDEX_URL": "",
    }
