"""Write the files that deploy an app into a folder: the context of its images, and what starts them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from penstock.apps.layout import Layout
from penstock.apps.packaging.variables import defaults_of, groups_of
from penstock.apps.packaging.wheel import write_wheel

BASE: Final = "python:3.12.11-slim-bookworm"
IMAGES: Final = {
    "rabbitmq": "rabbitmq:4.1-management-alpine",
    "redis": "redis:7.4-alpine",
    "postgres": "postgres:17-alpine",
}
REGISTRY: Final = "your_registry_url"  # until the operator names one
REPOSITORY: Final = "your_repo"
VERSION_FILE: Final = "version.json"
_KEPT: Final = frozenset({".env", VERSION_FILE})  # the operator edits them
_MODES: Final = {".env": 0o600, "scripts/build_dockerfile.sh": 0o755}
_PLAIN: Final = (".dockerignore", "docker-compose.yml", "docker-compose.gpu.yml", ".env", VERSION_FILE, "Dockerfile")
_UNQUOTED: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_LOCK: Final = Path(__file__).with_name("requirements.lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the build script builds."""

    dockerfile: str
    suffix: str  # of its tag
    service: str | None  # whose worker it is; None: the image of the other components
    model: str = ""


def images_of(layout: Layout) -> list[Image]:
    """Return the images of an app: one for all components, and one for each worker with packages of its own."""
    own = [one for one in layout.services if one.has_environment]
    return [
        Image(dockerfile="Dockerfile", suffix="", service=None),
        *(
            Image(dockerfile=f"Dockerfile.{one.name}", suffix=f"-{one.name}", service=one.name, model=one.model)
            for one in own
        ),
    ]


def texts_of(layout: Layout, *, registry: str = REGISTRY, repository: str = REPOSITORY) -> dict[str, str]:
    """Return the text files, by their paths."""
    groups = groups_of(layout, registry=registry, repository=repository)
    images = images_of(layout)
    known: Mapping[str, Any] = {
        "app": layout,
        "base": BASE,
        "defaults": defaults_of(groups),
        "groups": groups,
        "images": IMAGES,
        "images_built": images,
        "registry": registry,
        "repository": repository,
    }
    found = {name: _render(name.removeprefix("."), known) for name in (*_PLAIN, "scripts/build_dockerfile.sh")}
    for image in images[1:]:
        (worker,) = [one for one in layout.components if one.name == f"{image.service}-worker"]
        found[image.dockerfile] = _render("Dockerfile.worker", {**known, "image": image, "worker": worker})
    return found


def write(layout: Layout, app: Path, output: Path, *, registry: str | None, repository: str | None) -> list[Path]:
    """Write everything below ``output``, and return the paths of what was written.

    ``.env`` and ``version.json`` are kept if they exist, because the operator edits them. ``app`` is the app's folder.
    """
    texts = texts_of(layout, registry=registry or REGISTRY, repository=repository or REPOSITORY)
    written: list[Path] = []
    for name, text in texts.items():
        path = output / name
        if name in _KEPT and path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=_MODES.get(name, 0o644))
        path.chmod(_MODES.get(name, 0o644))
        path.write_text(text)
        written.append(path)
    shutil.copyfile(_LOCK, output / _LOCK.name)
    return [*written, output / _LOCK.name, _copy_app(app, output / "app"), _write_wheel(output / "wheels")]


def _copy_app(app: Path, target: Path) -> Path:
    """Copy the app's folder in place of an earlier copy."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(app, target, ignore=shutil.ignore_patterns("__pycache__", ".git", ".env", "tests"))
    return target


def _write_wheel(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return write_wheel(folder)


def _render(name: str, known: Mapping[str, Any]) -> str:
    templates = Environment(
        loader=PackageLoader("penstock.apps.packaging"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - these files are not HTML
    )
    templates.filters |= {"json": _json, "quoted": _quoted, "reference": _reference}
    return templates.get_template(name).render(known)


def _json(value: object) -> str:
    """Return a value as JSON, which is also YAML and what Dockerfiles expect."""
    return msgspec.json.encode(value).decode()


def _reference(name: str, value: str) -> str:
    """Return a reference to a variable with its default; ``.env`` alone has one that Compose could misread."""
    return f"${{{name}:-{value}}}" if _UNQUOTED.fullmatch(value) else f"${{{name}-}}"


def _quoted(value: str) -> str:
    """Return the value of a line of ``.env``, in quotes where it needs them."""
    if _UNQUOTED.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
