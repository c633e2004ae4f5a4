"""``app.toml``: what it may state, and every mistake at once."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.apps import skeleton
from penstock.apps.folder import AppsFolder
from penstock.apps.manifest import BrokenApp, read

WHOLE = """
name = "audiocraft"
version = "0.1.4"
title = "AudioCraft"
flow = "audio@2"
[limits]
max_input_bytes = 4096
ttl = "1h"
timeout = "2h"
result_retention = "7d"
[price]
unit = "second"
units = "/usage/a~1b"
[[services]]
name = "audio-gen"
model = "audiogen"
port = 8081
port_variable = "AUDIO_GEN_PORT"
[[services]]
name = "music-gen"
model = "musicgen"
port = 8082
[variables]
MAX_DURATION = 30
CACHED = true
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "app.toml"
    path.write_text(text)
    return path


def test_an_empty_manifest_is_an_app_named_after_its_folder(tmp_path: Path) -> None:
    app = read(write(tmp_path / "hello", ""))
    assert (app.name, app.version, app.flow_name, app.flow_version) == ("hello", "1", "hello", None)
    assert (app.price.unit, app.price.path, app.ttl) == ("request", None, None)


def test_all_keys_are_read(tmp_path: Path) -> None:
    app = read(write(tmp_path / "x", WHOLE))
    assert (app.name, app.flow_name, app.flow_version) == ("audiocraft", "audio", "2")
    assert app.ttl is not None
    assert app.ttl.total_seconds() == 3600
    assert app.timeout == 2 * app.ttl
    assert app.result_retention == timedelta(days=7)
    assert app.price.path == ["usage", "a/b"]
    assert [(one.name, one.port) for one in app.services] == [("audio-gen", 8081), ("music-gen", 8082)]
    assert app.defaults() == {"MAX_DURATION": "30", "CACHED": "true"}


def test_every_mistake_is_reported_at_once_with_its_key(tmp_path: Path) -> None:
    text = """
nam = "x"
version = ""
flow = "a b"
[limits]
max_input_bytes = 0
ttl = "soon"
[price]
units = "seconds"
unitt = "x"
[[services]]
name = "one"
model = "m"
port = 99999
[[services]]
name = "two"
port = 1
[variables]
"2x" = 1
Y = []
"""
    with pytest.raises(BrokenApp) as caught:
        read(write(tmp_path / "x", text))
    found = {problem.field: problem.detail for problem in caught.value.problems}
    assert set(found) == {
        "nam", "version", "flow", "limits.max_input_bytes", "limits.ttl", "price.unitt", "price.units",
        "services[0].port", "services[1].model", "variables[]", "variables.2x",
    }  # fmt: skip
    assert found["nam"] == "is not known here; did you mean name?"


@pytest.mark.parametrize("key", ["name", "port"])
def test_services_share_no_name_and_no_port(tmp_path: Path, key: str) -> None:
    ones = {"name": '"one"', "port": "1", "model": '"m"'}
    twos = {"name": '"two"', "port": "2", "model": '"m"', key: ones[key]}
    text = "".join("[[services]]\n" + "".join(f"{k} = {v}\n" for k, v in one.items()) for one in (ones, twos))
    with pytest.raises(BrokenApp) as caught:
        read(write(tmp_path / "x", text))
    assert [problem.field for problem in caught.value.problems] == [f"services[1].{key}"]


SERVICES = """
[[services]]
name = "a-b"
model = "m"
port = 1
[[services]]
name = "{second}"
model = "m"
port = 2
{more}
"""


@pytest.mark.parametrize(
    ("second", "more", "field"),
    [
        ("c", '[variables]\nAWS_REGION_NAME = "eu-west-1"', "variables.AWS_REGION_NAME"),
        ("c", '[variables]\nREDIS_HOST = "here"', "variables.REDIS_HOST"),
        ("c", "[variables]\nGPU_ID = 1", "variables.GPU_ID"),
        ("c", "[variables]\nA_B_PORT = 1", "variables.A_B_PORT"),
        ("c", 'port_variable = "APP_API_PORT"', "services[1].port_variable"),
        ("c", 'port_variable = "API_VERSION"', "services[1].port_variable"),
        ("c", 'port_variable = "A_B_PORT"', "services[1].port_variable"),
        ("a_b", "", "services[1].port_variable"),
        ("redis", "", "services[1].port_variable"),
        ("2nd", "", "services[1].port_variable"),
        ("redis", 'port_variable = "MINE_PORT"\n[variables]\nAPI_NAME = "x"\nAPI_VERSION = "1"', None),
    ],
)
def test_variables_have_names_of_their_own(tmp_path: Path, second: str, more: str, field: str | None) -> None:
    path = write(tmp_path / "x", SERVICES.format(second=second, more=more))
    if field is None:
        assert [one.variable for one in read(path).services] == ["A_B_PORT", "MINE_PORT"]
        return
    with pytest.raises(BrokenApp) as caught:
        read(path)
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize("text", ["[", "a = 1\na = 2", "x = " + "[" * 5000])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BrokenApp):
        read(write(tmp_path / "x", text))


def test_a_broken_manifest_keeps_its_last_valid_form_and_takes_no_other_down(tmp_path: Path) -> None:
    folder = AppsFolder(tmp_path)
    write(tmp_path / "one", 'version = "1"')
    write(tmp_path / "two", "version = 2")
    write(tmp_path / "_three", "")
    folder.scan()
    assert set(folder.apps) == {"one", "two"}
    assert folder.apps["two"].manifest is None
    write(tmp_path / "one", "version = 2")
    folder.scan()
    one = folder.apps["one"]
    assert one.manifest is not None
    assert (one.manifest.version, [problem.field for problem in one.problems]) == ("1", ["version"])
    write(tmp_path / "one", 'version = "2"')
    (tmp_path / "two" / "app.toml").unlink()
    folder.scan()
    assert set(folder.apps) == {"one"}
    assert (folder.apps["one"].problems, folder.variables()) == ((), {"one": {}})


def test_two_apps_cannot_have_one_name(tmp_path: Path) -> None:
    folder = AppsFolder(tmp_path)
    write(tmp_path / "a", 'name = "same"')
    write(tmp_path / "b", 'name = "same"')
    folder.scan()
    assert folder.apps["same"].folder.name == "a"
    (problem,) = folder.apps["b"].problems
    assert (problem.field, problem.detail) == ("name", "same is also the name of the app in a/")


def test_the_readme_of_a_new_app_names_the_folder_of_apps_beside_which_it_is_read(tmp_path: Path) -> None:
    skeleton.write("hello", tmp_path)
    stated = re.search(r"PENSTOCK_APPS_DIR=(\S+)", (tmp_path / "hello" / "README.md").read_text())
    assert stated is not None
    folder = AppsFolder(tmp_path / stated[1])
    folder.scan()
    assert set(folder.apps) == {"hello"}


@pytest.mark.parametrize("there", ["version = 2", 'name = "hi"', ""])
def test_an_app_cannot_have_the_name_of_another_app_s_folder(tmp_path: Path, there: str) -> None:
    folder = AppsFolder(tmp_path)
    write(tmp_path / "a", 'name = "copy"')
    write(tmp_path / "copy", 'name = "hello"')
    write(tmp_path / "hello", there)
    folder.scan()
    found = {app.folder.name: [problem.detail for problem in app.problems] for app in folder.apps.values()}
    assert found["a"] == ["copy is also the name of the app in copy/"]
    assert found["copy"] == ["hello is also the name of the app in hello/"]
    assert bool(found["hello"]) == (there == "version = 2")


def test_schemas_are_tables_or_files_of_the_app(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    manifest = write(folder, 'request_schema = "in.json"\n[result_schema]\ntype = "object"\nrequired = ["words"]\n')
    (folder / "in.json").write_text('{"properties": {"text": {"type": "string", "maxLength": 5}}}')
    app = read(manifest)
    assert app.request_schema == {"properties": {"text": {"type": "string", "maxLength": 5}}}
    assert app.result_schema == {"type": "object", "required": ["words"]}


@pytest.mark.parametrize(
    ("stated", "detail"),
    [
        ('"missing.json"', "missing.json cannot be read: No such file or directory"),
        ('"broken.json"', "broken.json is not valid JSON"),
        ('"../outside.json"', "must be a JSON Schema, or the name of a .json file in the folder of the app"),
        ('"link.json"', "must be a JSON Schema, or the name of a .json file in the folder of the app"),
        ('"app.toml"', "must be a JSON Schema, or the name of a .json file in the folder of the app"),
        ('"list.json"', "expected `object | null`, got `array`"),
        ("3", "expected `object | null`, got `int`"),
        ('{type = "nothing"}', "is not a JSON Schema (2020-12)"),
        ('{"$ref" = "http://127.0.0.1:1/schema"}', "is not a JSON Schema (2020-12)"),
        ('"large.json"', "must have at most 262144 bytes"),
        ('"huge.json"', "huge.json is not valid JSON: manifest: must have at most"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named(tmp_path: Path, stated: str, detail: str) -> None:
    folder = tmp_path / "x"
    manifest = write(folder, f"request_schema = {stated}\n")
    (folder / "broken.json").write_text("{")
    (folder / "list.json").write_text("[]")
    (tmp_path / "outside.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "outside.json")
    (folder / "large.json").write_text('{"title": "' + "x" * 2**18 + '"}')
    (folder / "huge.json").write_text('{"title": "' + "x" * 2**21 + '"}')
    with pytest.raises(BrokenApp) as caught:
        read(manifest)
    (problem,) = caught.value.problems
    assert problem.field == "request_schema"
    assert problem.detail.startswith(detail)
