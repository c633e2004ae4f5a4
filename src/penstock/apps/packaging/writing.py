"""Write the files that deploy an app into a folder: the context of its images, and what starts them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from penstock.apps.layout import MODEL_FOLDER_VARIABLE, Layout, Service
from penstock.apps.packaging.variables import defaults_of, groups_of
from penstock.apps.packaging.wheel import write_wheel
from penstock.errors import InvalidInput

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
_MARK: Final = "Written by `penstock app build`"  # in each Dockerfile
_LOCK: Final = Path(__file__).with_name("requirements.lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the build script builds."""

    dockerfile: str
    suffix: str  # of its tag
    services: Sequence[Service] = ()  # whose workers it runs; none: it runs the other components


def images_of(layout: Layout) -> list[Image]:
    """Return the images of an app: one for all components, and one for workers with packages of their own."""
    by_suffix: dict[str, list[Service]] = {}
    for service in layout.services:
        if service.environment:
            by_suffix.setdefault(layout.image_suffix(service), []).append(service)
    return [
        Image(dockerfile="Dockerfile", suffix=""),
        *(
            Image(dockerfile=f"Dockerfile.{suffix.removeprefix('-')}", suffix=suffix, services=services)
            for suffix, services in by_suffix.items()
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
        "model_folder_variable": MODEL_FOLDER_VARIABLE,
        "registry": registry,
        "repository": repository,
    }
    found = {name: _render(name.removeprefix("."), known) for name in (*_PLAIN, "scripts/build_dockerfile.sh")}
    if not layout.services:
        del found["docker-compose.gpu.yml"]  # there are no workers
    for image in images[1:]:
        (worker,) = [one for one in layout.components if one.name == f"{image.services[0].name}-worker"]
        found[image.dockerfile] = _render("Dockerfile.worker", {**known, "image": image, "worker": worker})
    return found


def write(layout: Layout, app: Path, output: Path, *, registry: str | None, repository: str | None) -> list[Path]:
    """Write everything below ``output``, and return the paths of what was written. ``app`` is the app's folder.

    Folders with the same names are replaced, so ``output`` has to be new, empty, or written by this before. Raises
    InvalidInput for another folder.
    """
    folders = {app, *(app.with_name(one.app_folder) for one in layout.services)}
    _require_own(output, folders)
    texts = write_texts(layout, output, registry=registry, repository=repository)
    shutil.copyfile(_LOCK, output / _LOCK.name)
    return [*texts, output / _LOCK.name, _copy_apps(folders, output / "apps"), _write_wheel(output / "wheels")]


def write_texts(
    layout: Layout, output: Path, *, registry: str | None = None, repository: str | None = None
) -> list[Path]:
    """Write the text files, and return their paths.

    ``.env`` and ``version.json`` are kept if they exist, because the operator edits them.
    """
    texts = texts_of(layout, registry=registry or REGISTRY, repository=repository or REPOSITORY)
    for path in output.glob("Dockerfile.*"):  # of services that the app had before
        if path.name not in texts:
            path.unlink()
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
    return written


def _require_own(output: Path, apps: Collection[Path]) -> None:
    """Raise InvalidInput unless ``output`` may be written, without harm to the apps that are copied there."""
    target = output.resolve()
    for app in apps:
        if target.is_relative_to(app.resolve()):
            raise InvalidInput.of("output", f"{output} must not be in {app}, which is copied there")
        if app.resolve().is_relative_to(target):
            raise InvalidInput.of("output", f"{output} must not hold {app}, because what it holds is replaced")
    if not output.exists():
        return
    if not output.is_dir():
        raise InvalidInput.of("output", f"{output} must be a folder")
    dockerfile = output / "Dockerfile"
    if any(output.iterdir()) and not (dockerfile.is_file() and _MARK in dockerfile.read_text(errors="replace")):
        raise InvalidInput.of("output", f"{output} holds other files than this command writes; name a new folder")


def _copy_apps(folders: Collection[Path], target: Path) -> Path:
    """Copy folders of apps in place of earlier copies, which stay if that fails."""
    with TemporaryDirectory(dir=target.parent, prefix=".apps-") as temporary:
        copies = Path(temporary) / "apps"
        for app in folders:
            shutil.copytree(app, copies / app.name, ignore=shutil.ignore_patterns("__pycache__", ".*", "tests"))
        shutil.rmtree(target, ignore_errors=True)
        copies.rename(target)
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
    return json.dumps(value, ensure_ascii=False)


def _reference(name: str, value: str) -> str:
    """Return a reference to a variable with its default; ``.env`` alone has one that Compose could misread."""
    return f"${{{name}:-{value}}}" if _UNQUOTED.fullmatch(value) else f"${{{name}-}}"


def _quoted(value: str) -> str:
    """Return the value of a line of ``.env``, in quotes where it needs them."""
    if _UNQUOTED.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
