"""Manifests: reading them, and the errors about invalid ones."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock.models import manifest, manifest_keys
from penstock.models.manifest import BrokenManifest
from penstock.models.replica import runtimes


def problems(stated: dict[str, Any], folder: Path, source: str = "folder") -> dict[str, str]:
    """Return every mistake of a manifest, by field."""
    with pytest.raises(InvalidInput) as caught:
        manifest.check(stated, folder=folder, source=source)
    return {problem.field: problem.detail for problem in caught.value.problems}


def test_every_mistake_of_a_manifest_is_reported_at_once(tmp_path: Path) -> None:
    stated = {
        "name": "mood",
        "runtime": "python",
        "replikas": 2,
        "concurrency": 0,
        "timeout": "soon",
        "unload_after": "-3s",
        "memory_limit": "much",
        "batching": {"max_size": 0, "wait": 3},
        "schema": {"inputs": {}, "output": {"type": "nmber"}},
        "python": {"clas": "mood:Mood"},
    }
    assert problems(stated, tmp_path) == {
        "replikas": "is not known here; did you mean replicas?",
        "concurrency": "expected `int` >= 1",
        "timeout": "must be a duration such as 250ms, 2s, 5m or 1h30m",
        "unload_after": "must be a duration such as 250ms, 2s, 5m or 1h30m",
        "memory_limit": 'must be a number of bytes, or a size such as "512MiB" or "8GiB"',
        "batching.wait": "is not known here; there are: max_size, max_wait_ms",
        "batching.max_size": "expected `int` >= 1",
        "schema.inputs": "is not known here; did you mean input?",
        "python.class": 'is required, as "module:Class"',
        "python.clas": "is not an option of the python runtime; did you mean class?",
    }


def test_a_session_is_checked_and_needs_a_runtime_that_takes_them(tmp_path: Path) -> None:
    schema = {"session": {"part": {"type": "nmber"}}}
    stated: dict[str, Any] = {"name": "mood", "runtime": "python", "schema": schema, "python": {"class": "mood:Mood"}}
    assert problems(stated, tmp_path).keys() == {"schema.session.part"}
    of_sessions: dict[str, Any] = {"schema": {"session": {}}, "session_timeout": 3, "session_examples": [{}]}
    stated = {"name": "mood", "runtime": "http", **of_sessions, "http": {"url": "http://127.0.0.1:1"}}
    detail = "models of the runtime http take no sessions"
    named = ("schema.session", "session_timeout", "session_examples")
    assert problems(stated, tmp_path) == dict.fromkeys(named, detail)
    stated |= dict.fromkeys(of_sessions)
    assert problems(stated, tmp_path).keys() == {"session_examples"}  # which may be empty, and not null


def test_mistakes_are_reported_although_the_runtime_is_unknown(tmp_path: Path) -> None:
    stated = {"name": "mood", "runtime": "pyton", "replicas": 0, "python": {"class": "mood:Mood"}}
    found = problems(stated, tmp_path)
    assert found.keys() == {"runtime", "replicas"}
    assert found["runtime"].endswith("did you mean python?")


def test_a_missing_runtime_is_suggested_by_its_table(tmp_path: Path) -> None:
    assert problems({"name": "mood", "python": {"class": "mood:Mood"}}, tmp_path) == {
        "runtime": 'is required; the table [python] suggests runtime = "python"'
    }


def test_options_is_neither_accepted_nor_suggested(tmp_path: Path) -> None:
    stated = {"name": "mood", "runtime": "python", "options": {"class": "mood:Mood"}, "python": {"class": "a:A"}}
    found = problems(stated, tmp_path)
    assert found.keys() == {"options"}
    assert found["options"] == "is not known here; the runtime's options are in the table [python]"
    unknown = problems({"name": "mood", "runtime": "python", "zzz": 1, "python": {"class": "a:A"}}, tmp_path)
    assert "options" not in unknown["zzz"]
    assert "replicas" in unknown["zzz"]


def test_the_table_of_another_runtime_is_a_mistake(tmp_path: Path) -> None:
    stated = {"name": "mood", "runtime": "python", "python": {"class": "a:A"}, "http": {"url": "http://127.0.0.1:1"}}
    assert problems(stated, tmp_path) == {"http": "belongs to the runtime http, and this model's runtime is python"}


def test_a_mistyped_table_is_suggested(tmp_path: Path) -> None:
    found = problems({"name": "mood", "runtime": "python", "pyton": {"class": "a:A"}}, tmp_path)
    assert found["pyton"] == "is not known here; did you mean python?"


def test_a_mistake_names_no_path_of_the_operator(tmp_path: Path) -> None:
    stated = {"name": "mood", "runtime": "python", "python": {"class": "a:A", "interpreter": "no-venv"}}
    assert str(tmp_path) not in str(problems(stated, tmp_path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mood.toml"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    with pytest.raises(BrokenManifest) as caught:
        manifest.read(path)
    assert "must be a regular file" in caught.value.message
    assert caught.value.model == "mood"


def test_the_size_of_a_manifest_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "mood.toml"
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(BrokenManifest, match=f"{2**20} bytes"):
        manifest.read(path)


def test_a_broken_manifest_names_its_model(tmp_path: Path) -> None:
    (tmp_path / "mood").mkdir()
    path = tmp_path / "mood" / "model.toml"
    path.write_text('version = "3"\nruntime = "python"\nreplikas = 1\n[python]\nclass = "a:A"\n')
    with pytest.raises(BrokenManifest) as caught:
        manifest.read(path)
    assert (caught.value.model, caught.value.version) == ("mood", "3")
    path.write_text("oops")
    with pytest.raises(BrokenManifest) as caught:
        manifest.read(path)
    assert (caught.value.model, caught.value.version) == ("mood", None)


DOCUMENT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def documented(section: str, table: str) -> set[str]:
    """Return the names in the first column of a table in the guide."""
    rows = DOCUMENT.partition(f"## {section}\n")[2].partition("\n## ")[0].partition(f"\n| {table} |")[2]
    rows = rows.partition("\n\n")[0]
    cells = [line.split("|")[1] for line in rows.splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_key_of_a_manifest_is_documented() -> None:
    assert documented("The manifest", "key") - {"[RUNTIME]"} == set(manifest_keys.Stated.__struct_fields__)


@pytest.mark.parametrize("runtime", runtimes.NAMES)
def test_every_option_of_a_runtime_is_documented(runtime: str) -> None:
    """The options are those that the runtime lists where it refuses another one."""
    refused = dict(runtimes.find(runtime).check({"no such option": 1}, Path("/")))["no such option"]
    assert documented("Runtimes", f"`[{runtime}]`") == set(refused.partition("it has ")[2].split(", "))
