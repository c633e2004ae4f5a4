"""The interpreter, folder, environment and device of a replica's process."""

from __future__ import annotations

import sys
import venv
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.errors import ModelUnavailable
from penstock.models import manifest
from penstock.models.host import environment
from penstock.models.manifest import Model
from tests.support.models import Models


def model(home: Path, source: str = "folder", **stated: Any) -> Model:
    """Return a model that is only read."""
    whole = {"name": "m", "runtime": "http", "http": {"url": "http://127.0.0.1:1"}} | stated
    return manifest.check(whole, folder=home, source=source)


def variables(of: Model, ours: dict[str, str]) -> dict[str, str]:
    return environment.variables(of, ours=ours, private=frozenset({"DATABASE_URL"}))


def test_a_registered_model_gets_nothing_of_the_hosts_environment(tmp_path: Path) -> None:
    """A tenant's code could send a secret anywhere. The operator's own models get all variables but our settings, and
    may refer to those."""
    ours = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "DATABASE_URL": "postgresql://x"}
    seen = variables(model(tmp_path, source="api"), ours)
    assert "s3cr3t" not in " ".join(seen.values())
    assert seen["PATH"] == "/bin"
    trusted = variables(model(tmp_path, environment={"NOTE": "${AWS_SECRET_ACCESS_KEY}"}), ours)
    assert trusted["NOTE"] == "s3cr3t"
    assert "DATABASE_URL" not in trusted


async def test_a_model_may_have_an_interpreter_of_its_own(models: Models, tmp_path: Path) -> None:
    """A virtual environment with msgspec and pydantic; Penstock need not be installed in it."""
    home = tmp_path / "own"
    venv.create(home, symlinks=True)
    packages = next((home / "lib").glob("python*/site-packages"))
    # Stands in for an installation: those two, and what pydantic needs, by links.
    ours = Path(msgspec.__file__).parents[1]
    for name in ("msgspec", "pydantic", "pydantic_core", "annotated_types", "typing_inspection"):
        (packages / name).symlink_to(ours / name)
    (packages / "typing_extensions.py").symlink_to(ours / "typing_extensions.py")
    code = """
    import importlib.util, sys

    class Model:
        def predict(self, word: str) -> list[str]:
            return [sys.prefix, word, str(importlib.util.find_spec("aiohttp"))]
    """
    one = await models.serve("elsewhere", code, python={"interpreter": str(home)})
    assert await models.call(one, {"word": "x"}) == [str(home), "x", "None"]
    assert str(home) != sys.prefix


async def test_an_interpreter_that_lacks_a_module_is_reported(models: Models, tmp_path: Path) -> None:
    """The error names the missing module."""
    home = tmp_path / "bare"
    venv.create(home, symlinks=True)
    with pytest.raises(ModelUnavailable, match="has no module 'msgspec'"):
        await models.serve("bare", "class Model: ...", python={"interpreter": str(home)})


def test_a_working_folder_that_is_not_there(tmp_path: Path) -> None:
    """The error says that it is missing, before a process is started."""
    with pytest.raises(ModelUnavailable, match="'nowhere' does not exist"):
        environment.working_folder(model(tmp_path, folder="nowhere"))
