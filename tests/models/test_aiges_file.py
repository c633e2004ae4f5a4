"""``aiges.toml``: the file of Athena's loader describes models, and what becomes of each of its keys is known."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.models.aiges_file import AigesFile, convert
from penstock.models.aiges_keys import ANY, KEYS, SERVICE, Effect
from penstock.models.folder import ManifestFiles, ModelsFolder
from scripts.aiges_keys_table import CHINESE_DOCUMENT, DOCUMENT, PLACE, chinese_table, table
from scripts.chinese import AIGES_KEYS

_FILE = """
[ocr]
port = 5090

[aiges]
sessMode = true
asyncMode = true
realTimeRlt = false
headerPass = "uid; did;;sid"

[wrapper]
model = "tiny"
beams = 4
rate = 0.00001
deep.er = true

[fc]
max = 8
ttl = 2500
best = 4
"""


def _convert(text: str, files: Mapping[str, str] | None = None, name: str = "folder") -> AigesFile:
    known = {"wrapper.py": ""} if files is None else files

    def text_of(file: str) -> str:
        if file not in known:
            raise FileNotFoundError(2, "No such file or directory", file)
        return known[file]

    return convert(tomllib.loads(text), name=name, has=known.__contains__, text_of=text_of)


def _problems(text: str, files: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(InvalidInput) as raised:
        _convert(text, files)
    return [one.field for one in raised.value.problems]


def test_a_wrapper_in_python_becomes_a_model() -> None:
    """Its configuration is text, as the original's engines get it."""
    (found,) = _convert(_FILE).manifests
    assert found == {
        "name": "ocr",
        "runtime": "aiges",
        "timeout": "2m",
        "concurrency": 8,
        "session_timeout": 2.5,
        "aiges": {
            "config": {"model": "tiny", "beams": "4", "rate": "0.00001", "deep.er": "true"},
            "header_pass": ["uid", "did"],
        },
    }


def test_a_library_and_a_program_become_models() -> None:
    """The files beside it, and its command, decide which runtime it is."""
    (native,) = _convert(_FILE, {"libwrapper.so": ""}).manifests
    assert native["runtime"] == "aiges-native"
    assert (native["aiges-native"]["callbacks"], native["aiges-native"]["realtime"]) == (True, False)
    assert native["aiges-native"]["sessions"] is True
    command = '[aiges]\npythonPluginCmd = "java -jar engine.jar"\n'
    (plugin,) = _convert(command, {}).manifests
    assert plugin["aiges-plugin"] == {"command": "java -jar engine.jar", "sessions": False}
    assert _convert(command).manifests[0]["runtime"] == "aiges"


def test_several_services_share_what_they_do_not_state_themselves() -> None:
    """Tables inside the section of a service override those of the file."""
    text = _FILE + '[asr]\n[asr.wrapper]\nmodel = "large"\n[asr.fc]\nmax = 2\n'
    ocr, asr = _convert(text).manifests
    assert (ocr["concurrency"], asr["concurrency"]) == (8, 2)
    assert asr["session_timeout"] == 2.5
    assert asr["aiges"]["config"] == {**ocr["aiges"]["config"], "model": "large"}
    notes = {note.key: note.effect for note in _convert(text).notes}
    assert notes["asr.fc.max"] is Effect.HONOURED
    assert notes["ocr.port"] is Effect.NOT_NEEDED


@pytest.mark.parametrize("text", ["", "[svcName]\nport = 5090\n"])
def test_without_a_service_the_model_has_the_name_of_its_folder(text: str) -> None:
    """The original's own template names none."""
    assert [one["name"] for one in _convert(text).manifests] == ["folder"]


def test_the_file_of_usr_cfg_replaces_the_table_wrapper() -> None:
    """Its keys are named with their sections."""
    text = '[aiges]\nusrCfg = "user.toml"\n[wrapper]\na = 1\n'
    files = {"wrapper.py": "", "user.toml": "[net]\nsize = 3\n", "headerPass.wrapper": "uid\n\ndid\n"}
    (found,) = _convert(text, files).manifests
    assert found["aiges"] == {"config": {"net.size": "3"}, "header_pass": ["uid", "did"]}
    assert _problems(text) == ["aiges.usrCfg"]
    assert _problems(text, {"wrapper.py": "", "user.toml": "[net"}) == ["aiges.usrCfg"]
    assert _problems(text.replace("user.toml", "../user.toml")) == ["aiges.usrCfg"]


def test_flow_control_that_is_off_limits_nothing() -> None:
    """As in the original."""
    (found,) = _convert("[fc]\nable = 0\nmax = 1\n").manifests
    assert "concurrency" not in found


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("x = 1", "x"),
        ("[fc]\nmax = 0", "fc.max"),
        ("[fc]\nttl = true", "fc.ttl"),
        ('[fc]\nable = "yes"', "fc.able"),
        ("[aiges]\nheaderPass = 1", "aiges.headerPass"),
        ("[a.fc]\nmax = -1", "fc.max"),
    ],
)
def test_mistakes_are_named_by_their_keys(text: str, field: str) -> None:
    """A value of another type is not guessed at."""
    assert _problems(text) == [field]


def test_a_folder_without_an_engine_is_refused() -> None:
    """A command that runs the original's loader needs a wrapper."""
    assert _problems('[aiges]\npythonPluginCmd = "python -m aiges.serve"', {}) == ["aiges"]


def test_every_key_of_the_original_has_an_effect_or_a_reason() -> None:
    """Keys that the original does not know are reported with a suggestion."""
    text = (
        '[aiges]\nnumaNode = 1\nsessMod = true\n[lbv2]\nable = 0\ntaddrs = "x"\n[trace]\nhost = "h"\n[o]\nfinder = 0\n'
    )
    notes = {note.key: note for note in _convert(text).notes}
    assert "lbv2.taddrs" not in notes
    assert {key: (note.effect, note.matters) for key, note in notes.items()} == {
        "aiges.numaNode": (Effect.UNSUPPORTED, True),
        "aiges.sessMod": (Effect.UNKNOWN, True),
        "trace.host": (Effect.UNSUPPORTED, True),
        "o.finder": (Effect.UNSUPPORTED, False),
    }
    assert "sessMode" in notes["aiges.sessMod"].reason


@given(
    st.dictionaries(
        st.sampled_from([*{one.section for one in KEYS if one.section != SERVICE}, "ocr"]),
        st.recursive(
            st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.floats(), st.lists(st.integers())),
            lambda inner: st.dictionaries(
                st.sampled_from([one.name for one in KEYS if one.name != ANY] + ["fc", "wrapper"]), inner, max_size=4
            ),
        ),
    )
)
def test_any_tables_are_converted_or_refused(tables: dict[str, Any]) -> None:
    """Without an error of its own."""
    with contextlib.suppress(InvalidInput):
        convert(tables, name="x", has=lambda name: name == "wrapper.py", text_of=lambda _: "")


def test_a_folder_of_models_reads_such_files(tmp_path: Path) -> None:
    """Each section is a model; a model.toml beside the file takes its place; a mistake keeps the last valid form."""
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "wrapper.py").write_text("")
    (engine / "aiges.toml").write_text("[a]\n[b]\n[fc]\nmax = 3\n")
    folder = ModelsFolder(ManifestFiles(root=tmp_path))
    folder.scan()
    assert {name: folder.files[None, name, "1"] for name in "ab"} == dict.fromkeys("ab", "engine/aiges.toml")
    assert folder.models[None, "a", "1"].concurrency == 3
    before = dict(folder.models)
    (engine / "aiges.toml").write_text("[a]\n[b]\n[fc]\nmax = 0\n")
    folder.scan()
    assert (folder.models, set(folder.problems)) == (before, {"engine/aiges.toml"})
    (engine / "model.toml").write_text('name = "c"\nruntime = "aiges"\n')
    folder.scan()
    assert [name for _, name, _ in folder.models] == ["c"]


def test_the_documented_keys_are_those_of_the_code() -> None:
    """`make fix` writes the table; run it after changing a key."""
    assert DOCUMENT.read_text() == PLACE.replaced(DOCUMENT.read_text(), table())


def test_every_key_is_documented_in_chinese() -> None:
    """A new or changed meaning needs a Chinese one in `scripts/chinese.py`."""
    texts = {one.meaning for one in KEYS} | {one.effect.value for one in KEYS} | {"all others"}
    assert texts == set(AIGES_KEYS)
    assert CHINESE_DOCUMENT.read_text() == PLACE.replaced(CHINESE_DOCUMENT.read_text(), chinese_table())
