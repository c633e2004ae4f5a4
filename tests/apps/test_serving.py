"""The layout of an app: components of its manifest, ports of the environment, and routes at the root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.apps import manifest
from penstock.apps.layout import Layout
from penstock.apps.manifest import BrokenApp
from penstock.apps.serving.served import ServedApp
from penstock.assembly.app import AppGatewayAssembly, ServiceGatewayAssembly, ServiceWorkerAssembly
from penstock.errors import SettingsError
from penstock.part import started
from penstock.settings import load_settings
from tests.support.gateways import HttpCaller, serving, settings_for
from tests.support.sounds import write_app
from tests.support.waiting import until


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path / "apps")


def layout_of(app: Path) -> Layout:
    return Layout.of(manifest.read(app / "app.toml"), app)


def served(app: Path, **environment: str) -> ServedApp:
    return ServedApp.of(layout_of(app), app, environment)


def test_the_components_are_those_of_the_manifest(app: Path) -> None:
    names = [one.name for one in layout_of(app).components]
    assert names == ["app-api", "audio-gen-api", "audio-gen-worker", "music-gen-api", "music-gen-worker"]
    assert layout_of(app).variables == {"MAX_DURATION": "30"}


def test_a_service_without_a_model_is_named(app: Path) -> None:
    (app / "models" / "audiogen" / "model.toml").unlink()
    with pytest.raises(BrokenApp) as caught:
        layout_of(app)
    assert [problem.field for problem in caught.value.problems] == ["services[0].model"]


def test_a_service_cannot_take_the_name_of_the_apps_own_api(app: Path) -> None:
    text = (app / "app.toml").read_text().replace('name = "audio-gen"', 'name = "app"')
    (app / "app.toml").write_text(text)
    with pytest.raises(BrokenApp) as caught:
        layout_of(app)
    assert [problem.field for problem in caught.value.problems] == ["services[0].name"]


def test_a_model_with_packages_of_its_own_has_an_image_of_its_own(app: Path) -> None:
    folder = app / "models" / "audiogen"
    with (folder / "model.toml").open("a") as file:
        file.write('environment = "requirements.lock"\n')
    (folder / "requirements.lock").write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    suffixes = {one.name: one.image_suffix for one in layout_of(app).components if one.image_suffix}
    assert suffixes == {"audio-gen-worker": "-audio-gen"}


def test_a_port_without_a_variable_gets_one_of_the_services_name(app: Path) -> None:
    text = (app / "app.toml").read_text().replace('port_variable = "AUDIO_GEN_PORT"\n', "")
    (app / "app.toml").write_text(text)
    assert layout_of(app).services[0].port_variable == "AUDIO_GEN_PORT"


def test_ports_come_from_the_environment(app: Path) -> None:
    assert served(app).ports == {"app-api": 8007, "audio-gen-api": 8081, "music-gen-api": 8082}
    assert served(app, AUDIO_GEN_PORT="9000", MUSIC_GEN_PORT="").ports["audio-gen-api"] == 9000


def test_every_wrong_port_is_named(app: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        served(app, APP_API_PORT="0", AUDIO_GEN_PORT="x", MUSIC_GEN_PORT="99999")
    assert [problem.field for problem in caught.value.problems] == ["APP_API_PORT", "AUDIO_GEN_PORT", "MUSIC_GEN_PORT"]
    with pytest.raises(SettingsError, match="must differ from the port of app-api"):
        served(app, AUDIO_GEN_PORT="8007")


def test_a_worker_loads_the_model_of_its_service_alone(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("PENSTOCK_APPS_DIR", str(app.parent))
    folders = ServiceWorkerAssembly(load_settings(None), served(app), "music-gen-worker").model_folders
    assert [path.relative_to(app).as_posix() for one in folders for path in one.paths()] == [
        "models/musicgen/model.toml"
    ]


def test_a_service_may_name_a_model_of_an_app_beside_it(app: Path) -> None:
    other = app.parent / "other"
    other.mkdir()
    (app / "models" / "audiogen").rename(other / "models")
    (other / "app.toml").write_text("")
    (other / "models" / "model.toml").rename(other / "models" / "audio.toml")
    services = layout_of(app).services
    assert [one.manifest for one in services] == ["other/models/audio.toml", "sounds/models/musicgen/model.toml"]
    assert [one.app_folder for one in services] == ["other", "sounds"]


def test_the_routes_of_the_app_are_at_the_root_and_all_others_stay(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("PENSTOCK_APPS_DIR", str(app.parent))
    routes = AppGatewayAssembly(load_settings(None), served(app), "app-api").gateway.routes
    paths = {f"{one.method} {one.path}" for one in routes}
    assert {"POST /call", "GET /result/{task_id}", "GET /health"} <= paths
    assert {"POST /api/v1/apps/{app}/call", "POST /api/v1/jobs", "GET /healthz", "GET /readyz"} <= paths
    assert len({one.name for one in routes}) == len(routes)
    assert not any("{app}" in one.path for one in routes if one.name.endswith("AtRoot"))


def test_the_api_of_a_service_has_its_tasks_and_files_only(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assembly = ServiceGatewayAssembly(load_settings(None), served(app), "audio-gen-api")
    paths = {one.path for one in assembly.gateway.routes}
    assert {"/", "/tasks", "/tasks/{id}", "/health", "/healthz", "/readyz", "/metrics"} <= paths
    others = {path for path in paths if path.startswith("/api/v1/") and not path.startswith("/api/v1/blobs")}
    assert not {path for path in others if "/jobs" in path or "/flows" in path or "/apps" in path}
    assert assembly.settings.http_port == 8081


async def test_an_app_that_no_worker_has_yet_is_unavailable_and_not_unknown(app: Path, database_url: str) -> None:
    parts = AppGatewayAssembly(settings_for(database_url, penstock_apps_dir=app.parent), served(app), "app-api")
    async with (
        serving(parts) as caller,
        caller.session.post(f"{caller.address}/call", json={"user_id": "ada"}) as response,
    ):
        assert (response.status, (await response.json())["code"]) == (503, "app_unavailable")
        assert (await caller.get("/apps/sounds/health")).status == 404


async def test_tasks_are_checked_by_the_schema_that_the_worker_of_the_service_has(app: Path, database_url: str) -> None:
    settings = settings_for(database_url, penstock_apps_dir=app.parent)
    api = ServiceGatewayAssembly(settings, served(app), "audio-gen-api")
    worker = ServiceWorkerAssembly(settings, served(app), "audio-gen-worker")
    early = {"input": {"txt": "rain"}, "idempotency_key": "before the worker"}
    wrong = {"input": {"text": "rain", "seconds": "long"}}
    async with serving(api) as caller:
        status, first = await _send(caller, early)
        assert status == 202
        async with started(worker.parts):

            async def checked() -> bool:
                return (await _send(caller, wrong))[0] == 422

            await until(checked, "the schema is published")
            _, problem = await _send(caller, wrong)
            assert [one["field"] for one in problem["errors"]] == ["input.seconds"]
            assert (await _send(caller, {"input": {"text": "rain"}}))[0] == 202
            assert (await _send(caller, {"input": {"text": "rain"} | {"second": 1}}))[0] == 422
            again, same = await _send(caller, early)
            assert (again, same["task_id"]) == (202, first["task_id"])
        await worker.close()


async def _send(caller: HttpCaller, task: dict[str, Any]) -> tuple[int, Any]:
    async with caller.session.post(f"{caller.address}/tasks", json=task) as response:
        return response.status, await response.json()
