"""The compose files of the AI server: valid by the specification, gated by profiles, and free of secrets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from penstock.settings import Settings
from tests.support import compose
from tests.support.compose import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "ai-server"
BASE, AUDIO = FOLDER / "docker-compose.yml", FOLDER / "docker-compose.audio.yml"
FROM_BASE = {"vllm", "whisperx-1", "whisperx-2", "sidecar"}
GATED = {"qwen-audio": "8003", "voxtral-small": "8004"}
COMMANDS = (
    "docker compose -f docker-compose.yml -f docker-compose.audio.yml --profile qwen-audio up -d qwen-audio",
    "docker compose -f docker-compose.yml -f docker-compose.audio.yml --profile voxtral-small up -d voxtral-small",
)
_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")
_SECRET = re.compile(r"TOKEN|KEY|PASSWORD|SECRET")


def merged() -> dict[str, Any]:
    """Merge both files as Compose does; they share no service, so nothing is overridden."""
    base, audio = load(BASE), load(AUDIO)
    assert not base["services"].keys() & audio["services"].keys()
    both = base | {name: value for name, value in audio.items() if name.startswith("x-")}
    return both | {part: base[part] | audio[part] for part in ("services", "volumes")}


@pytest.fixture(scope="module")
def specification() -> Any:
    """The schema of the compose specification."""
    return compose.specification()


@pytest.mark.parametrize("content", [load(BASE), load(AUDIO), merged()], ids=["base", "audio", "merged"])
def test_compose_files_follow_the_specification(specification: Any, content: dict[str, Any]) -> None:
    assert [f"{error.instance_path}: {error.message}" for error in specification.iter_errors(content)] == []


def test_the_specification_refuses_invalid_files(specification: Any) -> None:
    assert not specification.is_valid({"services": {"vllm": {"imagee": "x"}}})
    assert not specification.is_valid({"services": {"vllm": {"image": "x", "ports": 8000}}})


def test_only_the_audio_models_need_a_profile_and_each_its_own() -> None:
    services = merged()["services"]
    assert {name for name, service in services.items() if "profiles" not in service} == FROM_BASE
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        name: [name] for name in GATED
    }
    assert not any(service.get("depends_on") or service.get("links") for service in services.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_documented_commands_name_existing_files_profiles_and_services(command: str) -> None:
    words = shlex.split(command)
    files = [words[at + 1] for at, word in enumerate(words) if word == "-f"]
    profile = words[words.index("--profile") + 1]
    assert all((FOLDER / name).is_file() for name in files)
    assert merged()["services"][words[-1]]["profiles"] == [profile]
    assert command in (FOLDER / "README.md").read_text()
    assert command in AUDIO.read_text()


@pytest.mark.parametrize("name", sorted(FROM_BASE | set(GATED)))
def test_every_service_has_its_gpu_a_health_check_and_restarts(name: str) -> None:
    service = merged()["services"][name]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_the_ports_are_those_of_the_document() -> None:
    ports = {
        name: [_VARIABLE.sub(r"\g<default>", port) for port in service["ports"]]
        for name, service in merged()["services"].items()
    }
    for name, port in GATED.items():
        assert ports[name] == [f"0.0.0.0:{port}:8000"]
    published = [port.split(":")[1] for one in ports.values() for port in one]
    assert len(published) == len(set(published))


def test_models_are_kept_in_volumes_that_are_declared() -> None:
    content = merged()
    for name in {*content["services"]} - {"sidecar"}:
        (volume,) = content["services"][name]["volumes"]
        assert volume.partition(":")[0] in content["volumes"]


def test_secrets_come_from_the_environment_alone() -> None:
    for service in merged()["services"].values():
        for name, value in service["environment"].items():
            if _SECRET.search(name):
                assert re.fullmatch(r"\$\{\w+:-\}", value), f"{name} has a value of its own"
    for line in (FOLDER / ".env.example").read_text().splitlines():
        name, assigned, value = line.partition("=")
        if assigned and _SECRET.search(name) and not name.startswith("# "):
            assert value == "", f"{name} has a value"


def test_every_variable_has_a_default_and_the_example_states_it() -> None:
    text = BASE.read_text() + AUDIO.read_text()
    used = {found["name"]: found["default"] for found in _VARIABLE.finditer(text)}
    assert len(re.findall(r"(?<!\$)\$\{", text)) == len(_VARIABLE.findall(text))
    assert all(default == used[name] for name, default in _VARIABLE.findall(text)), "one default each"
    example = re.findall(r"^#?(\w+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE)
    assert dict(example) == used


def test_the_sidecar_gets_settings_that_exist_and_only_reads() -> None:
    sidecar = merged()["services"]["sidecar"]
    assert sidecar["environment"].keys() <= Settings.descriptions().keys()
    assert (sidecar["read_only"], sidecar["cap_drop"]) == (True, ["ALL"])
    assert all(volume["read_only"] for volume in sidecar["volumes"])
    assert (ROOT / sidecar["build"]["dockerfile"]).is_file()


def test_the_image_is_built_from_existing_files_and_does_not_run_as_root() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    carried = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == carried
    assert "USER 10001" in lines
    assert lines[-1] == 'CMD ["penstock", "sidecar"]'
