"""The operator's folder: its manifests, and the effect of a mistake in one."""

from __future__ import annotations

import threading
from pathlib import Path

from penstock.models.folder import ManifestFiles, ModelsFolder

GOOD = 'name = "x"\nruntime = "http"\n[http]\nurl = "http://127.0.0.1:1"\n'


def test_an_invalid_manifest_leaves_its_model_in_use_until_it_is_fixed_or_removed(tmp_path: Path) -> None:
    folder, file = ModelsFolder(ManifestFiles(root=tmp_path)), tmp_path / "a.toml"
    file.write_text(GOOD)
    folder.scan()
    good = folder.models[None, "x", "1"]
    file.write_text(GOOD + "oops")
    folder.scan()
    assert (folder.models[None, "x", "1"], set(folder.problems)) == (good, {"a.toml"})
    assert folder.find("x", "1") is None
    file.write_text(GOOD + "[schema.input]\n")
    folder.scan()
    assert (folder.find("x", "1") is not None, folder.problems) == (True, {})
    file.unlink()
    folder.scan()
    assert folder.models == {}


def test_a_valid_file_takes_precedence_over_one_that_became_invalid(tmp_path: Path) -> None:
    folder = ModelsFolder(ManifestFiles(root=tmp_path))
    (tmp_path / "a.toml").write_text(GOOD)
    folder.scan()
    (tmp_path / "a.toml").write_text("oops")
    (tmp_path / "b.toml").write_text(GOOD + "[schema.input]\n")
    folder.scan()
    assert folder.files == {(None, "x", "1"): "b.toml"}
    assert folder.find("x", "1") is not None


def test_scans_in_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    folder = ModelsFolder(ManifestFiles(root=tmp_path))
    errors: list[BaseException] = []

    def look() -> None:
        try:
            for number in range(40):
                (tmp_path / f"m{number % 3}.toml").write_text(GOOD.replace('"x"', f'"m{number % 3}"'))
                folder.scan()
        except BaseException as error:  # noqa: BLE001 - what the test looks for
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(folder.models) == 3


def test_models_of_apps_are_read_beside_those_of_the_folder_of_models(tmp_path: Path) -> None:
    models, apps = tmp_path / "models", tmp_path / "apps"
    folder = ModelsFolder(ManifestFiles(root=models), ManifestFiles.of_apps(apps))
    for file in ("models/x.toml", "apps/one/models/y/model.toml", "apps/two/models/z.toml", "apps/two/app.toml"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent.name if path.stem == "model" else path.stem
        path.write_text(GOOD.replace('"x"', f'"{name}"'))
    (apps / "two" / "models" / "broken.toml").write_text("oops")
    folder.scan()
    assert folder.files == {
        (None, "x", "1"): "x.toml",
        (None, "y", "1"): "one/models/y/model.toml",
        (None, "z", "1"): "two/models/z.toml",
    }
    assert set(folder.problems) == {"two/models/broken.toml"}


def test_only_changes_that_may_concern_a_manifest_read_the_folder_again(tmp_path: Path) -> None:
    folder = ModelsFolder(ManifestFiles(root=tmp_path / "models"), ManifestFiles.of_apps(tmp_path / "apps"))
    concern = ["models/a", "models/a/model.toml", "apps/one/models/a", "apps/one/models/a/model.toml"]
    assert all(folder.concerns_manifests(tmp_path / path) for path in concern)
    others = ["models/a/model.py", "apps/one/models/a/model.py", "elsewhere/a.toml"]
    assert not any(folder.concerns_manifests(tmp_path / path) for path in others)
