"""Push the images of an app to a registry, with the programs ``docker`` and, for Amazon ECR, ``aws``.

Passwords go from one program to the other by standard input: no command line, file or message of ours has them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from penstock.apps.packaging.writing import REGISTRY, REPOSITORY, VERSION_FILE
from penstock.errors import CannotStart

_ECR: Final = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_REGISTRY: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::\d{1,5})?(?:/[a-z0-9._/-]+)?", re.IGNORECASE)
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_INSTALL: Final = {
    "docker": "install it: https://docs.docker.com/engine/install/",
    "aws": "install it: pip install awscli",
}
_SECONDS: Final = 120  # of every command but a push, which is as long as the network takes
_LAST_LINES: Final = 5  # of what a program printed, in an error
_MAX_BYTES: Final = 2**16  # of version.json

Report = Callable[[str], None]


class Version(Struct, frozen=True, kw_only=True):
    """The content of ``version.json``."""

    name: str
    version: str
    registry: str
    repository: str

    @property
    def image(self) -> str:
        return f"{self.registry}/{self.repository}:{self.version}"

    @property
    def region(self) -> str | None:
        """The region of an ECR registry; None for another registry."""
        found = _ECR.fullmatch(self.registry)
        return None if found is None else found["region"]


def push(folder: Path, *, environment: Mapping[str, str], report: Report) -> list[str]:
    """Log in, and push the images that the files in ``folder`` build; returns their names.

    ``environment`` may have AWS_ACCESS_KEY and AWS_SECRET_KEY for ``aws``, which otherwise uses its own configuration.
    Raises CannotStart, which says what is missing and what to do.
    """
    version = read_version(folder / VERSION_FILE)
    images = [f"{version.image}{suffix}" for suffix in _suffixes(folder)]
    programs = _Programs(_variables(environment, version.region))
    for name in ("docker",) if version.region is None else ("docker", "aws"):
        programs.require(name)
    for image in images:
        programs.run(
            ["docker", "image", "inspect", "--format", "{{.Id}}", image],
            f"there is no image {image}: build it with {folder / 'scripts' / 'build_dockerfile.sh'}",
        )
    if version.region is not None:
        _log_in(programs, version, version.region, report)
    for image in images:
        report(f"Pushing {image}")
        remedy = f"log in first: docker login {version.registry}" if version.region is None else "the push failed"
        programs.run(["docker", "push", image], f"{image} was not pushed: {remedy}", shown=True, seconds=None)
    return images


def read_version(path: Path) -> Version:
    """Return what ``version.json`` states. Raises CannotStart."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(_MAX_BYTES), type=Version)
    except FileNotFoundError:
        raise CannotStart(f"there is no {path}: write it with penstock app build") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise CannotStart(f"{path} cannot be read: {error}") from None
    checks = (("registry", _REGISTRY, REGISTRY), ("repository", _REPOSITORY, REPOSITORY), ("version", _TAG, ""))
    for name, allowed, placeholder in checks:
        value = getattr(found, name)
        if value == placeholder or not allowed.fullmatch(value):
            raise CannotStart(f"{path}: {name} must be that of your registry, not {value[:100]!r}")
    return found


def _suffixes(folder: Path) -> list[str]:
    """Return what the images' tags have after the version: nothing, and the names of services with an image."""
    names = sorted(path.name.removeprefix("Dockerfile") for path in folder.glob("Dockerfile*"))
    return [name.replace(".", "-", 1) for name in names]


def _log_in(programs: _Programs, version: Version, region: str, report: Report) -> None:
    """Log in to ECR, and check that the repository exists."""
    report(f"Logging in to {version.registry}")
    password = programs.run(
        ["aws", "ecr", "get-login-password", "--region", region],
        "aws has no valid credentials: run aws configure, or set AWS_ACCESS_KEY and AWS_SECRET_KEY",
    )
    programs.run(
        ["docker", "login", "--username", "AWS", "--password-stdin", version.registry],
        f"docker cannot log in to {version.registry}",
        given=password,
    )
    programs.run(
        ["aws", "ecr", "describe-repositories", "--region", region, "--repository-names", version.repository],
        f"there is no repository {version.repository}, or it may not be read; "
        f"make it with: aws ecr create-repository --region {region} --repository-name {version.repository}",
    )


def _variables(environment: Mapping[str, str], region: str | None) -> dict[str, str]:
    """Return the environment of this process, with the credentials under the names that ``aws`` reads."""
    names = {"AWS_ACCESS_KEY": "AWS_ACCESS_KEY_ID", "AWS_SECRET_KEY": "AWS_SECRET_ACCESS_KEY"}
    stated = {theirs: environment[ours] for ours, theirs in names.items() if environment.get(ours)}
    return {**os.environ, **stated, **({} if region is None else {"AWS_DEFAULT_REGION": region})}


class _Programs:
    """Runs programs, and turns their failures into errors that say what to do."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def require(self, name: str) -> None:
        """Raise CannotStart unless a program is installed."""
        if shutil.which(name, path=self._environment.get("PATH")) is None:
            raise CannotStart(f"{name} is not installed; {_INSTALL[name]}")

    def run(
        self,
        command: Sequence[str],
        remedy: str,
        *,
        given: bytes = b"",
        shown: bool = False,
        seconds: float | None = _SECONDS,
    ) -> bytes:
        """Return what a program prints, or with ``shown`` let it print for the user. Raises CannotStart."""
        program = " ".join(command[:3])
        try:
            done = subprocess.run(  # noqa: S603 - a list of arguments, and never a shell
                list(command),
                env=dict(self._environment),
                input=given,
                stdout=None if shown else subprocess.PIPE,
                stderr=None if shown else subprocess.PIPE,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotStart(f"{remedy} ({program} took longer than {seconds:g} s)") from None
        except OSError as error:
            raise CannotStart(f"{program} cannot be run: {error.strerror or error}") from None
        if done.returncode:
            raise CannotStart(f"{remedy}{_last_lines(done.stderr or b'')}")
        return done.stdout or b""


def _last_lines(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
    return "".join(f"\n  {line[:300]}" for line in lines)
