"""A wheel of the Penstock that runs here, so that an image has the same one whether or not an index has it."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import penstock

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel
_LEFT_OUT: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})


def write_wheel(folder: Path) -> Path:
    """Write the wheel of the installed package into a folder, and return its path."""
    distribution = importlib.metadata.distribution("penstock")
    information = f"penstock-{distribution.version}.dist-info"
    path = folder / f"penstock-{distribution.version}-py3-none-any.whl"
    record: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in (*_package(), *_metadata(distribution, information)):
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={digest},{len(content)}\n")
        record.append(f"{information}/RECORD,,\n")
        wheel.writestr(zipfile.ZipInfo(f"{information}/RECORD", _EPOCH), "".join(record))
    return path


def _package() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the package, also where it is installed in place."""
    (root,) = map(Path, penstock.__path__)
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"penstock/{path.relative_to(root).as_posix()}", path.read_bytes()


def _metadata(distribution: importlib.metadata.Distribution, information: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that describe the package."""
    for file in sorted(distribution.files or ()):
        if file.parts[0].endswith(".dist-info") and file.name not in _LEFT_OUT:
            path = Path(str(distribution.locate_file(file)))
            yield "/".join((information, *file.parts[1:])), path.read_bytes()
