"""The images of an app, without Docker: every component of the compose file runs with its command and variables."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from penstock.postgres.embedded import EmbeddedServer, embedded_url
from penstock.supervisor.ports import free_port
from tests.support.app_serve import port_variables, ports
from tests.support.brokers import Server, needs_rabbitmq, needs_redis, rabbitmq_server, run_rabbitmqctl
from tests.support.callbacks import Receiver, receiver
from tests.support.command_line import run_command
from tests.support.compose import environment_of_image, interpolated, last_stage, load, values
from tests.support.images import Container, all_healthy, container, tcp_to
from tests.support.postgres_servers import own_server
from tests.support.sounds import write_app
from tests.support.waiting import succeeds, until

pytestmark = [needs_rabbitmq(), needs_redis(), pytest.mark.timeout(420)]

TOKEN = "the-operator's-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
OWN = ["app-api", "audio-gen-api", "audio-gen-worker", "music-gen-api", "music-gen-worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The eight components."""

    containers: Mapping[str, Container]
    ports: Mapping[str, int]
    marketplace: Receiver

    async def call(self, port: str, path: str, body: Any = None) -> Any:
        """Send a request, again while its container starts; POST if it has a body."""
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        method = "GET" if body is None else "POST"

        async def once() -> Any:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, url, json=body, headers=HEADERS) as response,
            ):
                if response.status >= 500:
                    response.raise_for_status()
                assert response.status < 300, await response.text()
                return await response.json()

        return await succeeds(once, unless=aiohttp.ClientError)

    async def ended(self, task_id: str) -> bool:
        return bool((await self.call("app", f"/result/{task_id}"))["status"] == "completed")


async def test_the_components_of_the_compose_file_serve_the_app_and_may_be_killed(tmp_path: Path) -> None:
    async with deployed(tmp_path) as app:
        await until(lambda: _accepts(app), "the app accepts requests")
        first = await app.call("app", "/call", {"user_id": "ada", "input": {"text": "rain"}})
        await until(lambda: app.ended(first["task_id"]), "the request has ended")
        for port, kind in (("audio-gen", "sound"), ("music-gen", "music")):
            task = await app.call(port, "/", {"input": {"text": "a cat"}})
            done = await app.call(port, f"/tasks/{task['task_id']}?wait=60")
            assert (done["status"], done["result"]["seconds"]) == ("completed", 1.0), kind
        tasks = [first["task_id"]]
        for name in OWN:
            tasks += [await request(app, number) for number in range(3)]
            await app.containers[name].kill()
            tasks += [await request(app, number) for number in range(3)] if name != "app-api" else []
            await app.containers[name].start()
        for task_id in tasks:
            await until(lambda task_id=task_id: app.ended(task_id), f"request {task_id} has ended", seconds=120)  # type: ignore[misc]
        await until(lambda: sent(app) >= set(tasks), "the marketplace has every result")
        assert sent(app) == set(tasks)
        ids = {message.id: message.event["task_id"] for message in app.marketplace.messages}
        assert len(ids) == len(tasks), "one message for each, whose id is the same if it is sent again"
        await all_healthy(list(app.containers.values()))
        assert [await one.stop() for one in app.containers.values()] == [0] * len(OWN)


async def request(app: Deployed, number: int) -> str:
    body = {"user_id": f"user {number}", "input": {"text": f"{number}", "kind": "music" if number % 2 else "sound"}}
    task_id: str = (await app.call("app", "/call", body))["task_id"]
    return task_id


async def _accepts(app: Deployed) -> bool:
    url = f"http://127.0.0.1:{app.ports['app']}/health"
    async with aiohttp.ClientSession() as session, session.get(url, headers=HEADERS) as response:
        return bool(response.status == 200 and (await response.json())["status"] == "ok")


def sent(app: Deployed) -> set[str]:
    return {message.event["task_id"] for message in app.marketplace.messages}


@asynccontextmanager
async def deployed(folder: Path) -> AsyncIterator[Deployed]:
    """Build the app's files, and run what they describe."""
    write_app(folder / "apps")
    done = await run_command(folder, "app", "build", "sounds", "-o", "out", PENSTOCK_APPS_DIR=str(folder / "apps"))
    assert done.status == 0, done.err
    out = folder / "out"
    image = environment_of_image(out / "Dockerfile")
    copied = [rest.split() for what, rest in last_stage(out / "Dockerfile") if what == "COPY"]
    (target,) = [words[-1] for words in copied if words[0] == "apps"]
    shutil.copytree(out / "apps", folder / target.lstrip("/"))
    found = ports()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(own_server(folder / "postgres", migrated=False))
        rabbitmq = await stack.enter_async_context(rabbitmq_server(folder / "rabbitmq"))
        marketplace = await stack.enter_async_context(receiver())
        stated = values(out / ".env") | {
            "AI_SERVICE_TOKEN": TOKEN,
            "PENSTOCK_SECRET_KEY": "0" * 64,
            "MARKETPLACE_CALLBACK": f"{marketplace.url}/results",
            "MARKETPLACE_TOKEN": "the-token-of-the-marketplace",
            "RABBITMQ_PORT": str(rabbitmq.port),
            "WORKER_LEASE_TIMEOUT": "3s",
            **port_variables(found),
        }
        services = load(out / "docker-compose.yml")["services"]
        cache = await stack.enter_async_context(redis_of(services["aimarket_redis"], folder / "redis"))
        services = interpolated(services, stated | {"REDIS_PORT": str(cache.port)})
        await make_rabbitmq(rabbitmq, services["aimarket_rabbitmq"]["environment"])
        url = await make_postgres(server, services["aimarket_postgres"]["environment"])
        address = f"127.0.0.1:{await stack.enter_async_context(tcp_to(url))}"
        hosts = {"aimarket_postgres": address, "aimarket_rabbitmq": "127.0.0.1", "aimarket_redis": "127.0.0.1"}
        containers = {name: container(name, services[name], image, folder, hosts=hosts) for name in OWN}
        assert services.keys() == containers.keys() | hosts.keys()
        default = json.loads(next(rest for what, rest in last_stage(out / "Dockerfile") if what == "CMD"))
        assert default == containers["app-api"].command
        for one in containers.values():
            stack.push_async_callback(one.kill)
            await one.start()
        await all_healthy(list(containers.values()))
        yield Deployed(containers=containers, ports=found, marketplace=marketplace)


@asynccontextmanager
async def redis_of(service: Mapping[str, Any], folder: Path) -> AsyncIterator[Server]:
    """Run the command of the compose file on a port of its own."""
    folder.mkdir()
    port = free_port()
    command = [*service["command"], "--port", str(port), "--bind", "127.0.0.1"]
    server = Server(
        command=command, port=port, folder=folder, environment={"PATH": "/usr/bin"}, ready="Ready to accept"
    )
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


async def make_rabbitmq(server: Server, stated: Mapping[str, str]) -> None:
    """Make the virtual host and the user, as the image does with these variables."""
    host, user = stated["RABBITMQ_DEFAULT_VHOST"], stated["RABBITMQ_DEFAULT_USER"]
    await run_rabbitmqctl(server, "add_vhost", host)
    await run_rabbitmqctl(server, "add_user", user, stated["RABBITMQ_DEFAULT_PASS"])
    await run_rabbitmqctl(server, "set_permissions", "-p", host, user, ".*", ".*", ".*")


async def make_postgres(server: EmbeddedServer, stated: Mapping[str, str]) -> str:
    """Make the user and the database, as the image does with these variables; return the server's URL."""
    url = embedded_url(server.data_dir, "postgres")
    admin = await asyncpg.connect(url)
    user, password, name = (stated[f"POSTGRES_{part}"] for part in ("USER", "PASSWORD", "DB"))
    await admin.execute(f"CREATE ROLE \"{user}\" LOGIN SUPERUSER PASSWORD '{password}'")
    await admin.execute(f'CREATE DATABASE "{name}" OWNER "{user}"')
    await admin.close()
    return url
