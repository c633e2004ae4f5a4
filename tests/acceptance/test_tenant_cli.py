"""Tenants, keys, tickets, the audit log and the secret from the command line, with a real ``penstock serve``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from penstock.access.key import CreatedKey
from penstock.access.secret import InstanceSecret
from penstock.client import Client
from penstock.supervisor.ports import free_port
from penstock.supervisor.serve import is_ready
from tests.support.command_line import CommandResult, run_command, run_on_terminal
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

TOKEN = "an-operators-token"


class Installation:
    """A running Penstock, and its command line."""

    def __init__(self, folder: Path, port: int, variables: dict[str, str]) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.variables = variables

    async def run(self, *arguments: str, **variables: str) -> CommandResult:
        """Run a command as the operator, or with the ``PENSTOCK_KEY`` that is given."""
        return await run_command(self.folder, *arguments, **{"PENSTOCK_URL": self.url, **self.variables, **variables})

    async def see(self, *arguments: str) -> str:
        return await run_on_terminal(self.folder, *arguments, PENSTOCK_URL=self.url, **self.variables)

    async def key(self, name: str, *scopes: str) -> CreatedKey:
        """Create a key of the tenant ``default``, not by the command line, which takes longer to start."""
        async with Client(self.url, token=TOKEN) as client:
            return await client.create_key(name, scopes)

    async def use(self, key: str) -> int:
        """Send a request with a key and return its status."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/identity", headers={"Authorization": f"Bearer {key}"}) as response,
        ):
            return response.status


@asynccontextmanager
async def running(role: str, folder: Path, **variables: str) -> AsyncIterator[Installation]:
    port = free_port()
    variables = {
        "AI_SERVICE_TOKEN": TOKEN,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "WORKER_HTTP_PORT": str(free_port()),
        "PENSTOCK_DATA_DIR": str(folder / "data"),
        "PENSTOCK_SHUTDOWN_GRACE": "5s",
        **variables,
    }
    log = folder / "log"
    async with penstock(role, environment=clean_environment(**variables), folder=folder, log=log) as process:
        try:
            await until(lambda: is_ready("127.0.0.1", port), "the gateway is ready", seconds=60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield Installation(folder, port, variables)
        process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("gateway")
    async with running("gateway", folder, DATABASE_URL=module_database_url) as installation:
        yield installation


@pytest.mark.usefixtures("prepared_data")
async def test_a_tenant_from_its_creation_to_its_suspension(tmp_path: Path) -> None:
    async with running("serve", tmp_path) as served:
        created = await served.run("tenant", "create", "acme", "--time-zone", "Europe/Berlin")
        assert (created.json["name"], created.json["time_zone"]) == ("acme", "Europe/Berlin")
        assert [tenant["name"] for tenant in (await served.run("tenant", "list")).json] == ["acme", "default"]

        made = await served.run("key", "create", "web shop", "--tenant", "acme", "--scopes", "all")
        assert "cannot be shown again" in made.err
        key = made.json["key"]
        assert "operator" not in made.json["scopes"]
        job = (await served.run("job", "submit", "echo", "small", PENSTOCK_KEY=key)).json
        assert (await served.run("job", "get", job["id"])).status == 1, "the operator's own tenant does not have it"
        assert (await served.run("job", "get", job["id"], "--tenant", "acme")).json["id"] == job["id"]
        assert (await served.run("job", "get", job["id"], PENSTOCK_TENANT="acme")).json["id"] == job["id"]
        assert (await served.run("stats", "--tenant", "acme")).json["totals"]["pending"] == 1
        assert (await served.run("stats")).json["totals"]["pending"] == 0

        await served.run("tenant", "suspend", "acme")
        await until(lambda: _is(served, key, 401), "the key is not valid")
        refused = await served.run("job", "list", PENSTOCK_KEY=key)
        assert (refused.status, refused.err) == (1, "penstock: this tenant is suspended\n")
        await served.run("tenant", "resume", "acme")
        await until(lambda: _is(served, key, 200), "the key is valid again")

        actions = (await served.run("audit", "--tenant", "acme")).json
        assert [one["action"] for one in actions] == ["tenant.change", "tenant.change", "key.create", "tenant.create"]
        assert actions[1]["after"] == {"suspended": True}

        refused = await served.run("tenant", "delete", "acme", "--yes")
        assert (refused.status, "suspend the tenant acme first" in refused.err) == (1, True)
        await served.run("tenant", "suspend", "acme")
        assert (await served.run("tenant", "delete", "acme")).status == 1, "its name was not typed"
        assert (await served.run("tenant", "show", "acme")).json["deleting_since"] is None
        assert (await served.run("tenant", "delete", "acme", "--yes")).json["deleting_since"] is not None


async def _is(installation: Installation, key: str, status: int) -> bool:
    return await installation.use(key) == status


async def test_a_key_is_shown_once_changed_rotated_and_revoked(gateway: Installation) -> None:
    scopes = ("--scopes", "jobs:read, jobs:submit", "--scope", "files")
    created = (await gateway.run("key", "create", "life", *scopes, "--expires", "90d")).json
    key_id, key = created["id"], created["key"]
    assert created["scopes"] == ["jobs:read", "jobs:submit", "files"]
    assert key not in (await gateway.run("key", "show", key_id)).out
    changed = await gateway.run(
        "key", "change", key_id, "--scopes", "jobs:read", "--queues", "echo/small", "--expires", "never"
    )
    assert changed.json["scopes"] == ["jobs:read"]
    assert (changed.json["queues"], changed.json["expires_at"]) == (["echo/small"], None)
    assert (await gateway.run("key", "change", key_id, "--queues", "all")).json["queues"] is None
    rotated = (await gateway.run("key", "rotate", key_id, "--overlap", "2h")).json
    assert (await gateway.run("key", "show", key_id)).json["replaced_by"] == rotated["id"]
    assert await gateway.use(key) == await gateway.use(rotated["key"]) == 200
    assert (await gateway.run("key", "revoke", key_id)).json["revoked_at"] is not None
    await until(lambda: _is(gateway, key, 401), "the key is not valid")
    assert {key_id, rotated["id"]} <= {one["id"] for one in (await gateway.run("key", "list")).json}


async def test_a_terminal_shows_tables_and_the_text_of_a_new_key_on_its_own_line(gateway: Installation) -> None:
    shown = await gateway.see("key", "create", "table", "--scopes", "jobs:read")
    first, _, sentence = shown.splitlines()[:3]
    assert first.startswith("ps_")
    assert sentence == "This key is shown only now, and cannot be shown again. Keep it in a safe place."
    listed = await gateway.see("key", "list")
    assert first not in listed
    assert "table" in listed
    assert "key.create" in await gateway.see("audit")
    assert "Europe" not in await gateway.see("tenant", "show", "default")
    assert "known to the database" in await gateway.see("secret", "status")
    ticket = await gateway.see("ticket", "--scopes", "jobs:read")
    assert ticket.startswith("v1.")


async def test_mistakes_are_reported_in_one_line(gateway: Installation) -> None:
    wrong = await gateway.run("key", "create", "x", "--scopes", "jobs:raed")
    assert wrong.status == 2
    assert "jobs:read" in wrong.err
    for arguments, said in (
        (("key", "show", "../audit"), "there is no key"),
        (("tenant", "show", "nobody"), "there is no tenant nobody"),
        (("tenant", "create", "default"), "there is a tenant default already"),
        (("job", "list", "--tenant", "nobody"), "there is no tenant nobody"),
        (("tenant", "change", "default", "--time-zone", "Europe/Berlni"), "Europe/Berlin"),
        (("secret", "rotate", "--finish"), "the secret is not being rotated"),
    ):
        done = await gateway.run(*arguments)
        assert (done.status, len(done.err.splitlines())) == (1, 1), done.err
        assert said in done.err
    key = (await gateway.key("reader", "jobs:read")).key
    refused = await gateway.run("key", "list", PENSTOCK_KEY=key)
    assert (refused.status, refused.err) == (1, "penstock: this needs a key with the scope tenant:admin\n")
    refused = await gateway.run("job", "list", "--tenant", "acme", PENSTOCK_KEY=key)
    assert "scope operator" in refused.err


async def test_the_audit_log_is_read_over_several_pages_and_filtered(gateway: Installation) -> None:
    names = [f"page-{uuid4().hex[:8]}" for _ in range(3)]
    ids = [(await gateway.key(name, "jobs:read")).id for name in names]
    newest = (await gateway.run("audit", "--action", "key.create", "--limit", "3")).json
    assert [one["subject"] for one in newest] == ids[::-1]
    older = (await gateway.run("audit", "--action", "key.create", "--before", str(newest[0]["id"]), "-n", "2")).json
    assert [one["subject"] for one in older] == ids[1::-1]
    (only,) = (await gateway.run("audit", "--subject", ids[0])).json
    assert only["after"]["name"] == names[0]


async def test_a_ticket_reads_the_events_of_its_job(gateway: Installation) -> None:
    job = (await gateway.run("job", "submit", "echo", "ticket")).json
    ticket = (await gateway.run("ticket", "--scopes", "jobs:read", "--job", job["id"], "--ttl", "5m")).json["ticket"]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{gateway.url}/api/v1/jobs/{job['id']}/events?ticket={ticket}") as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
        async with session.get(f"{gateway.url}/api/v1/jobs?ticket={ticket}") as response:
            assert response.status != 200


async def test_the_secret_in_the_file_is_rotated_while_the_gateway_runs(database_url: str, tmp_path: Path) -> None:
    async with running("gateway", tmp_path, DATABASE_URL=database_url) as gateway:
        used, unused = [await gateway.key(name, "jobs:read") for name in ("used", "unused")]
        assert await gateway.use(used.key) == await gateway.use(unused.key) == 200
        before = (await gateway.run("secret", "status")).json
        assert before["in_database"] == [before["id"]]

        assert (await gateway.run("secret", "rotate")).status == 0
        again = await gateway.run("secret", "rotate")
        assert (again.status, "being rotated already" in again.err) == (1, True)
        during = (await gateway.run("secret", "status")).json
        assert during["previous_id"] == before["id"]
        assert sorted(during["in_database"]) == sorted([before["id"], during["id"]])
        assert len(during["left"]) == 2

        await until(lambda: _moved(gateway, used), "the key has moved, by its use")
        refused = await gateway.run("secret", "rotate", "--finish")
        assert refused.status == 1
        assert f"default/unused ({unused.id})" in refused.err
        assert used.id not in refused.err
        created = await gateway.key("made during the rotation", "jobs:read")
        assert created.id not in str((await gateway.run("secret", "status")).json["left"])

        await until(lambda: _moved(gateway, unused), "the other key has moved")
        done = await gateway.run("secret", "rotate", "--finish")
        assert done.status == 0, done.err
        after = (await gateway.run("secret", "status")).json
        assert (after["previous_id"], after["in_database"], after["id"]) == (None, [during["id"]], during["id"])
        for key in (used, unused, created):
            assert await gateway.use(key.key) == 200
        assert (await gateway.key("made after it", "jobs:read")).id
        actions = [one["action"] for one in (await gateway.run("audit")).json]
        assert [one for one in actions if one.startswith("secret.")] == ["secret.finish", "secret.rotate"]


async def _moved(gateway: Installation, key: CreatedKey) -> bool:
    """Use a key and return whether it is under the new secret."""
    assert await gateway.use(key.key) == 200
    left = (await gateway.run("secret", "status")).json["left"]
    return not any(key.id in one for one in left)


async def test_the_secret_in_the_environment_is_rotated_by_restarts(database_url: str, tmp_path: Path) -> None:
    old, new = InstanceSecret.generate(), InstanceSecret.generate()
    settings = {"DATABASE_URL": database_url}
    async with running("gateway", tmp_path, **settings, PENSTOCK_SECRET_KEY=old.text()) as gateway:
        used, unused = [await gateway.key(name, "jobs:read") for name in ("used", "unused")]
        early = await gateway.run("secret", "rotate")
        assert early.status == 1
        assert "before the current one" in early.err
    async with running("gateway", tmp_path, **settings, PENSTOCK_SECRET_KEY=f"{new.text()},{old.text()}") as gateway:
        assert await gateway.use(used.key) == 200
        early = await gateway.run("secret", "rotate", "--finish")
        assert (early.status, "has not begun" in early.err) == (1, True)
        assert (await gateway.run("secret", "rotate")).status == 0
        await until(lambda: _moved(gateway, used), "the key has moved, by its use")
        refused = await gateway.run("secret", "rotate", "--finish")
        assert refused.status == 1
        assert f"default/unused ({unused.id})" in refused.err
        await until(lambda: _moved(gateway, unused), "the other key has moved")
        done = await gateway.run("secret", "rotate", "--finish")
        assert done.status == 0, done.err
        assert "Remove the previous secret" in done.out
    async with running("gateway", tmp_path, **settings, PENSTOCK_SECRET_KEY=new.text()) as gateway:
        assert await gateway.use(used.key) == await gateway.use(unused.key) == 200
        assert (await gateway.run("secret", "show")).out.strip() == new.text()
    assert not (tmp_path / "data" / "secret.key").exists()


async def test_a_rule_for_concurrency_keys_is_set_shown_and_removed(gateway: Installation) -> None:
    limit = ("queue", "limit", "keyed/small")
    queues = (await gateway.run(*limit, "--per-key", "2", "--key", "big=7")).json["queues"]
    (queue,) = [one for one in queues if one["task_type"] == "keyed"]
    assert queue["key_rule"] == {"max_running": 2, "exceptions": {"big": 7}}
    await gateway.run("job", "submit", "keyed", "small", "--input", "{}", "--concurrency-key", "big")
    assert [job["concurrency_key"] for job in (await gateway.run("job", "list", "--concurrency-key", "big")).json] == [
        "big"
    ]
    assert (await gateway.run("job", "list", "--concurrency-key", "small")).json == []
    assert "2, 1 exceptions" in await gateway.see("queue", "list")
    refused = await gateway.run(*limit)
    assert (refused.status, "--remove" in refused.err) == (2, True)
    refused = await gateway.run(*limit, "--per-key", "2", "--key", "big=none")
    assert (refused.status, "KEY=N" in refused.err) == (2, True)
    (queue,) = [one for one in (await gateway.run(*limit, "--remove")).json["queues"] if one["task_type"] == "keyed"]
    assert queue["key_rule"] is None


async def test_quotas_are_set_listed_and_removed(gateway: Installation) -> None:
    key = await gateway.key("limited", "usage:read")
    quota = (await gateway.run("quota", "set", "jobs", "5", "--per", "day", "--key", key.id)).json[0]
    assert (quota["limit"], quota["per"], quota["key"]) == (5, "day", key.id)
    shown = await gateway.see("quota", "set", "calls_at_once", "4", "--user", "*")
    assert "every user" in shown
    listed = (await gateway.run("quota", "list", PENSTOCK_KEY=key.key)).json
    assert [(one["measure"], one["limit"]) for one in listed] == [("calls_at_once", 4), ("jobs", 5)]
    refused = await gateway.run("quota", "set", "beer", "1", "--per", "day")
    assert (refused.status, "measure" in refused.err) == (1, True)
    for one in listed:
        assert (await gateway.run("quota", "remove", one["id"])).status == 0
    assert (await gateway.run("quota", "list")).json == []
