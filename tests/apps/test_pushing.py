"""Pushing images: what is missing is named first, and no password is on a command line or in a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.apps.packaging.pushing import push
from penstock.errors import CannotStart

REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
PASSWORD = "hush-password-of-the-registry"
# Programs that record how they were called and with what on standard input; a file with their name makes them fail.
PROGRAM = """#!/bin/sh
here={folder}
echo "{name} $*" >> $here/calls
case "$*" in *--password-stdin*) cat >> $here/stdin;; esac
for word in "$@"; do
    if [ -e "$here/fail-{name}-$word" ]; then echo "{name}: $word failed" >&2; exit 1; fi
done
case "{name} $*" in "aws ecr get-login-password"*) echo {password};; esac
env | grep ^AWS_ >> $here/environment
exit 0
"""


class Programs:
    """The programs ``docker`` and ``aws`` of a test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("docker", "aws"):
            path = self.bin / name
            path.write_text(PROGRAM.format(folder=folder, name=name, password=PASSWORD))
            path.chmod(0o755)
        for name in ("grep", "env", "cat", "sh"):
            (self.bin / name).symlink_to(Path("/usr/bin") / name)
        monkeypatch.setenv("PATH", str(self.bin))

    def fail(self, name: str, word: str) -> None:
        (self.folder / f"fail-{name}-{word}").touch()

    @property
    def calls(self) -> list[str]:
        return self._text("calls").splitlines()

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    @property
    def stdin(self) -> str:
        return self._text("stdin")

    @property
    def environment(self) -> str:
        return self._text("environment")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "out"
    found.mkdir()
    state(found)
    for name in ("Dockerfile", "Dockerfile.audio-gen"):
        (found / name).touch()
    return found


def state(folder: Path, **changes: str) -> None:
    stated = {"name": "sounds", "version": "0.1.4", "registry": REGISTRY, "repository": "team/sounds"} | changes
    (folder / "version.json").write_text(json.dumps(stated))


def refusal(folder: Path, lines: list[str] | None = None, **environment: str) -> str:
    with pytest.raises(CannotStart) as caught:
        push(folder, environment=environment, report=(lines if lines is not None else []).append)
    assert PASSWORD not in caught.value.message
    return caught.value.message


def test_images_are_pushed_after_a_login_by_standard_input(programs: Programs, folder: Path) -> None:
    lines: list[str] = []
    environment = {"AWS_ACCESS_KEY": "AKIA", "AWS_SECRET_KEY": "hush-key"}
    image = f"{REGISTRY}/team/sounds:0.1.4"
    assert push(folder, environment=environment, report=lines.append) == [image, f"{image}-audio-gen"]
    assert programs.calls == [
        f"docker image inspect --format {{{{.Id}}}} {image}",
        f"docker image inspect --format {{{{.Id}}}} {image}-audio-gen",
        "aws ecr get-login-password --region eu-west-1",
        f"docker login --username AWS --password-stdin {REGISTRY}",
        "aws ecr describe-repositories --region eu-west-1 --repository-names team/sounds",
        f"docker push {image}",
        f"docker push {image}-audio-gen",
    ]
    assert programs.stdin.strip() == PASSWORD
    assert "hush" not in "\n".join([*programs.calls, *lines])
    assert {"AWS_ACCESS_KEY_ID=AKIA", "AWS_SECRET_ACCESS_KEY=hush-key", "AWS_DEFAULT_REGION=eu-west-1"} <= set(
        programs.environment.splitlines()
    )


@pytest.mark.parametrize("name", ["docker", "aws"])
def test_a_missing_program_is_named_before_anything_is_done(programs: Programs, folder: Path, name: str) -> None:
    (programs.bin / name).unlink()
    assert f"{name} is not installed; install it" in refusal(folder)
    assert programs.calls == []


@pytest.mark.parametrize(
    ("program", "word", "expected"),
    [
        ("docker", "inspect", "build it with"),
        ("aws", "get-login-password", "run aws configure"),
        ("docker", "login", f"docker cannot log in to {REGISTRY}"),
        ("aws", "describe-repositories", "aws ecr create-repository --region eu-west-1 --repository-name team/sounds"),
    ],
)
def test_what_fails_says_what_to_do(programs: Programs, folder: Path, program: str, word: str, expected: str) -> None:
    programs.fail(program, word)
    message = refusal(folder)
    assert expected in message
    assert f"{program}: {word} failed" in message, "what the program said is shown"
    assert not any(call.startswith("docker push") for call in programs.calls)


def test_a_push_that_fails_stops_there(programs: Programs, folder: Path) -> None:
    programs.fail("docker", "push")
    assert "was not pushed" in refusal(folder)
    assert sum(call.startswith("docker push") for call in programs.calls) == 1


def test_another_registry_needs_no_aws(programs: Programs, folder: Path) -> None:
    (programs.bin / "aws").unlink()
    state(folder, registry="registry.example:5000")
    image = "registry.example:5000/team/sounds:0.1.4"
    assert push(folder, environment={}, report=print) == [image, f"{image}-audio-gen"]
    programs.fail("docker", "push")
    assert "docker login registry.example:5000" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"registry": "your_registry_url"},
        {"repository": "your_repo"},
        {"repository": "Not Allowed"},
        {"version": "--all"},
        {"registry": "-x"},
        {"version": ""},
    ],
)
def test_settings_that_cannot_be_pushed_to_are_refused(
    programs: Programs, folder: Path, changes: dict[str, str]
) -> None:
    state(folder, **changes)
    assert f"{next(iter(changes))} must be that of your registry" in refusal(folder)
    assert programs.calls == []


def test_a_missing_or_broken_version_file_is_named(programs: Programs, folder: Path) -> None:
    (folder / "version.json").write_text("{")
    assert "cannot be read" in refusal(folder)
    (folder / "version.json").unlink()
    assert "write it with penstock app build" in refusal(folder)
    assert programs.calls == []
