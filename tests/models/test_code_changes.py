"""Models that are reloaded when their code changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock.models import manifest
from penstock.models.code_changes import Reloads, concerned
from penstock.models.folder import ManifestFiles
from penstock.models.host.host import ModelHost
from penstock.models.host.logbook import Wanted
from penstock.models.manifest import Key, Model
from penstock.models.service import ModelService
from tests.support.models import Models, read
from tests.support.waiting import until

FOLDER = Path("/models")
CODE = "class Model:\n    def predict(self) -> str:\n        return {!r}\n"


def model(name: str, folder: Path = FOLDER, **stated: Any) -> Model:
    whole = {"name": name, "runtime": "http", "http": {"url": "http://127.0.0.1:1"}} | stated
    return manifest.check(whole, folder=folder, source="folder")


@pytest.mark.parametrize(
    ("watch", "by_default", "changed", "reloaded"),
    [
        (True, False, "mood/mood.py", True),
        (True, False, "mood/parts/deep.py", True),
        (True, False, "mood/libmood.so", True),
        (True, False, "mood/answers.json", False),  # the model may have written it
        (True, False, "mood/model.toml", False),  # a changed manifest replaces its model in any case
        (True, False, "mood/__pycache__/mood.py", False),
        (True, False, "mood/.git/hooks/x.py", False),
        (True, False, "other/mood.py", False),
        (["prompts/*.txt", "*.json"], False, "mood/prompts/first.txt", True),
        (["prompts/*.txt", "*.json"], False, "mood/deep/answers.json", True),
        (["prompts/*.txt"], False, "mood/mood.py", False),
        (None, False, "mood/mood.py", False),
        (None, True, "mood/mood.py", True),
        (False, True, "mood/mood.py", False),
    ],
)
def test_which_changes_concern_a_model(watch: Any, by_default: bool, changed: str, reloaded: bool) -> None:
    stated = {} if watch is None else {"watch": watch}
    models = [model("mood", FOLDER / "mood", **stated)]
    assert concerned(models, [FOLDER / changed], by_default=by_default) == (
        {(None, "mood", "1")} if reloaded else set()
    )


def test_a_file_that_the_manifest_names_is_code(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("#!/bin/sh\n")
    (tmp_path / "words").chmod(0o755)
    stated = {"name": "words", "runtime": "subprocess", "subprocess": {"command": ["./words", "-x"]}, "watch": True}
    program = manifest.check(stated, folder=tmp_path, source="folder")
    assert concerned([program], [tmp_path / "words"], by_default=False) == {(None, "words", "1")}


def test_a_file_belongs_to_the_models_of_the_nearest_folder() -> None:
    models = [model("a"), model("b"), model("c", FOLDER / "c"), model("c", FOLDER / "c", version="2")]
    assert concerned(models, [FOLDER / "shared.py"], by_default=True) == {(None, "a", "1"), (None, "b", "1")}
    assert concerned(models, [FOLDER / "c" / "code.py"], by_default=True) == {(None, "c", "1"), (None, "c", "2")}


async def test_a_model_that_changes_during_its_reload_is_reloaded_again() -> None:
    reloaded: list[Key] = []
    free = asyncio.Event()

    async def reload(key: Key) -> None:
        reloaded.append(key)
        await free.wait()

    reloads = Reloads(reload)
    reloads.request([(None, "a", "1")])
    await until(lambda: len(reloaded) == 1, "it has begun")
    for _ in range(3):
        reloads.request([(None, "a", "1")])
    reloads.request([(None, "b", "1")])
    await until(lambda: (None, "b", "1") in reloaded, "others do not wait for it")
    free.set()
    await until(lambda: reloaded.count((None, "a", "1")) == 2, "it is reloaded again, once")
    await reloads.stop()
    assert reloaded.count((None, "a", "1")) == 2


async def test_an_edit_takes_effect_and_a_broken_one_keeps_the_old_code(tmp_path: Path) -> None:
    """The old version serves calls until the new one is ready; the list and the log say why an edit is not used."""
    home = tmp_path / "say"
    home.mkdir()
    (home / "say_code.py").write_text(CODE.format("one"))
    (home / "model.toml").write_text('runtime = "python"\nwatch = true\n[python]\nclass = "say_code:Model"\n')
    service = ModelService(ModelHost(), folders=[ManifestFiles(root=tmp_path)])
    await service.start()
    try:
        models = Models(service.host, tmp_path)

        async def said() -> Any:
            deployment = service.find("say")
            return read(await models.begin(deployment, {}).done)

        async def says(text: str) -> bool:
            return bool(await said() == text)

        await service.find("say").load()
        assert await said() == "one"
        (home / "say_code.py").write_text(CODE.format("two"))
        await until(lambda: says("two"), "the edit takes effect")
        (home / "say_code.py").write_text("class")
        await until(lambda: service.find("say").newer_problem is not None, "the broken edit is noticed")
        problem = str(service.find("say").newer_problem)
        assert problem.startswith("the changed code is not used: ")
        assert "SyntaxError" in problem
        assert await said() == "two"
        assert service.find("say").ready
        lines = service.entry("say").logbook.newest(Wanted(level="error"), 10)
        assert any("the changed code is not used" in line.message for line in lines)
        (home / "say_code.py").write_text(CODE.format("three"))
        await until(lambda: says("three"), "the corrected code is used")
        assert service.find("say").newer_problem is None
    finally:
        await service.stop()
