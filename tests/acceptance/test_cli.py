"""The command line, as people and scripts use it: real processes and a real gateway."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port
from penstock.supervisor.serve import is_ready
from tests.support.command_line import run_command, run_on_terminal
from tests.support.processes import PENSTOCK, clean_environment, penstock
from tests.support.waiting import until

TOKEN = "a-token-that-must-not-be-shown"


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Start a gateway with a token and yield the variables that let commands find it."""
    folder, port = tmp_path_factory.mktemp("gateway"), free_port()
    variables = {"AI_SERVICE_TOKEN": TOKEN, "HTTP_PORT": str(port), "PENSTOCK_URL": f"http://127.0.0.1:{port}"}
    environment = clean_environment(DATABASE_URL=module_database_url, HTTP_HOST="127.0.0.1", **variables)
    log = folder / "log"
    async with penstock("gateway", environment=environment, folder=folder, log=log):
        try:
            await until(lambda: is_ready("127.0.0.1", port), "the gateway is ready", seconds=15)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield variables


async def test_help_names_every_command(tmp_path: Path) -> None:
    done = await run_command(tmp_path, "--help")
    assert done.status == 0
    for command in (
        "serve",
        "gateway",
        "worker",
        "housekeeper",
        "sidecar",
        "job",
        "blob",
        "stats",
        "compare",
        "top",
        "tenant",
        "key",
        "quota",
        "ticket",
        "audit",
        "secret",
        "config",
        "db",
    ):
        assert f"  {command} " in done.out


async def test_a_misspelt_setting_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AI_SERVICE_TOKN=x\nUNRELATED=1\n")
    done = await run_command(tmp_path, "config", "show", PENSTOCK_WORKRS="3", PENSTOCK_SOMETHING_ELSE_ENTIRELY="1")
    assert sorted(done.err.splitlines()) == [
        "penstock: AI_SERVICE_TOKN is set but is not a setting; did you mean AI_SERVICE_TOKEN?",
        "penstock: PENSTOCK_WORKRS is set but is not a setting; did you mean PENSTOCK_WORKERS?",
    ]


async def test_the_version_and_the_short_help(tmp_path: Path) -> None:
    assert re.fullmatch(r"penstock \d+\.\d+.*\n", (await run_command(tmp_path, "--version")).out)
    assert (await run_command(tmp_path, "job", "-h")).out.startswith("Usage: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported_in_a_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [*PENSTOCK, "config", "show", "--json"]
        done = subprocess.run(
            command, env=clean_environment(), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "penstock: No space left on device\n")


async def test_a_gateway_whose_port_is_taken_names_the_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "MIGRATE_ON_START": "false"}
        done = await run_command(tmp_path, "gateway", HTTP_PORT=port, **nowhere)
    assert done.status == 2
    assert [json.loads(line)["event"] for line in done.out.splitlines()] == ["open_files_limit"]
    assert f"HTTP_PORT: cannot listen on 127.0.0.1 port {port}: Address already in use" in done.err


async def test_an_invalid_database_url_is_reported_without_its_password(tmp_path: Path) -> None:
    for role in (("gateway",), ("worker",), ("db", "migrate"), ("db", "url"), ("config", "show")):
        done = await run_command(tmp_path, *role, DATABASE_URL="postgresql://u:hunter22@[bad/db")
        assert done.status == 2, done.err
        assert "DATABASE_URL: must name its host" in done.err
        assert "hunter22" not in done.err + done.out


async def test_a_gateway_without_a_database_logs_once_what_to_do_and_waits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = clean_environment(PENSTOCK_DATA_DIR=str(tmp_path / "data"), HTTP_PORT=str(free_port()))
    async with penstock("gateway", environment=environment, folder=tmp_path, log=log) as process:
        await until(lambda: "database_away" in log.read_text(), "the gateway reports that there is no database")
        # A server that starts in the same folder ends the wait; by then the gateway has tried several times.
        server = EmbeddedServer(tmp_path / "data")
        await server.start()
        try:
            await until(lambda: "gateway_started" in log.read_text(), "the gateway has found the database", seconds=20)
        finally:
            process.kill()
            await process.wait()
            await server.stop()
    messages = [line for line in log.read_text().splitlines() if "database_away" in line]
    assert len(messages) == 1
    assert "Set DATABASE_URL, or run `penstock serve`" in messages[0]


async def test_profiles_are_shown_without_secrets_and_checked_by_every_role_at_once(tmp_path: Path) -> None:
    known = {"LLM_BASE_URL": "http://someone:hunter22@h/v1?key=in-the-query", "LLM_API_KEY": "sk-hidden"}
    done = await run_command(tmp_path, "config", "profiles", "--json", **known)
    (profile,) = json.loads(done.out)
    assert (profile["profile"], profile["providers"][0]["url"]) == ("qwen2.5-14b", "http://h/v1")
    for secret in ("hunter22", "in-the-query", "sk-hidden"):
        assert secret not in done.out
    (tmp_path / "profiles.toml").write_text("[providers.a]\nkind = 'telnet'\n[profiles.b]\nproviders = []")
    for role in (("config", "profiles"), ("serve",), ("gateway",), ("worker",)):
        done = await run_command(tmp_path, *role, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
        assert done.status == 2
        assert "providers.a.kind" in done.err
        assert "profiles.b.providers" in done.err


async def test_wrong_usage_is_status_2(tmp_path: Path) -> None:
    assert (await run_command(tmp_path, "sevre")).status == 2
    assert (await run_command(tmp_path, "job", "get", "not-an-id")).status == 2
    assert (await run_command(tmp_path, "job", "cancel")).status == 2
    assert (await run_command(tmp_path, "job", "submit", "t", "m", "--input", "{oops")).status == 2


async def test_wrong_settings_are_listed_together_with_status_2(tmp_path: Path) -> None:
    for command in (("config", "show"), ("serve",), ("gateway",), ("worker",), ("stats",)):
        done = await run_command(
            tmp_path, *command, HTTP_PORT="x", LLM_TIMEOUT="soon", AI_SERVICE_TOKEN="bad token here"
        )
        assert done.status == 2
        assert all(name in done.err for name in ("HTTP_PORT", "LLM_TIMEOUT", "AI_SERVICE_TOKEN"))
        assert "bad token here" not in done.err


async def test_serving_other_machines_without_a_token_is_refused_with_both_remedies(tmp_path: Path) -> None:
    done = await run_command(tmp_path, "serve", HTTP_HOST="0.0.0.0")
    assert done.status == 2
    assert "set AI_SERVICE_TOKEN, or listen on 127.0.0.1" in done.err


async def test_config_show_masks_secrets_and_reads_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"AI_SERVICE_TOKEN={TOKEN}\nDATABASE_URL=postgres://me:{TOKEN}@db/x\nHTTP_PORT=9999\n"
    )
    done = await run_command(tmp_path, "config", "show")
    assert TOKEN not in done.out
    assert done.json["HTTP_PORT"] == 9999
    assert done.json["LLM_TIMEOUT"] == "5m"
    assert done.json["DATABASE_URL"] == "postgres://me:******@db/x"
    shown = await run_on_terminal(tmp_path, "config", "show")
    assert TOKEN not in shown
    assert "WORKER_LEASE_TIMEOUT" in shown
    assert "15m" in shown
    assert not shown.lstrip().startswith("{")


async def test_db_commands_on_the_embedded_database(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    assert (await run_command(tmp_path, "db", "migrate", PENSTOCK_DATA_DIR=folder)).status == 0
    url = await run_command(tmp_path, "db", "url", PENSTOCK_DATA_DIR=folder)
    assert url.out.strip().startswith("postgresql://penstock@/penstock?host=")
    assert (tmp_path / "data" / "postgres" / "PG_VERSION").is_file()


async def test_psql_opens_on_the_jobs(tmp_path: Path, database_url: str) -> None:
    done = await run_command(tmp_path, "db", "psql", "-At", "-c", "SELECT name FROM tenant", DATABASE_URL=database_url)
    assert (done.status, done.out.strip()) == (0, "default"), done.err


async def test_an_unreachable_gateway_is_reported_in_one_clear_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = await run_command(tmp_path, "stats", PENSTOCK_URL=url)
    assert done.status == 1
    assert url in done.err
    assert len(done.err.strip().splitlines()) == 1


async def test_a_wrong_token_is_reported_in_one_clear_line(tmp_path: Path, gateway: dict[str, str]) -> None:
    done = await run_command(tmp_path, "stats", **{**gateway, "AI_SERVICE_TOKEN": "another-token"})
    assert done.status == 1
    assert len(done.err.strip().splitlines()) == 1
    assert "token" in done.err


async def test_a_job_from_submit_to_cancel_and_back(tmp_path: Path, gateway: dict[str, str]) -> None:
    owner = f"cli-{uuid4()}"
    file = tmp_path / "input.json"
    file.write_text('{"user": "grüß dich"}')
    submit = ("job", "submit", "llm_chat", "tiny", "--owner-service", owner)
    job = (
        await run_command(
            tmp_path, *submit, "--input", f"@{file}", "--priority", "-5", "--tag", "a", "--tag", "b", **gateway
        )
    ).json
    assert (job["status"], job["priority"], job["tags"]) == ("pending", -5, ["a", "b"])
    other = (await run_command(tmp_path, *submit, "-i", "-", stdin="[1, 2]", **gateway)).json

    got = (await run_command(tmp_path, "job", "get", job["id"], **gateway)).json
    assert got["input"] == {"user": "grüß dich"}
    listed = (await run_command(tmp_path, "job", "list", "--owner-service", owner, **gateway)).json
    assert [item["id"] for item in listed] == [other["id"], job["id"]]
    tagged = (await run_command(tmp_path, "job", "list", "--owner-service", owner, "--tag", "a", **gateway)).json
    assert [item["id"] for item in tagged] == [job["id"]]

    cancelled = (await run_command(tmp_path, "job", "cancel", job["id"], **gateway)).json
    assert [item["status"] for item in cancelled] == ["cancelled"]
    meant = (await run_command(tmp_path, "job", "cancel", "--owner-service", owner, "--dry-run", **gateway)).json
    assert meant == {"count": 1, "dry_run": True}
    changed = (await run_command(tmp_path, "job", "cancel", "--owner-service", owner, **gateway)).json
    assert changed == {"count": 1, "dry_run": False}
    again = await run_command(tmp_path, "job", "retry", job["id"], **gateway)
    watched = await run_command(tmp_path, "job", "watch", other["id"], **gateway)
    assert watched.status == 1, "a job that did not complete is a failure for scripts"
    assert again.status in (0, 1)


async def test_tables_on_a_terminal(tmp_path: Path, gateway: dict[str, str]) -> None:
    owner = f"table-{uuid4()}"
    await run_command(tmp_path, "job", "submit", "vision", "large", "--owner-service", owner, **gateway)
    listed = await run_on_terminal(tmp_path, "job", "list", "--owner-service", owner, **gateway)
    assert not any(line.endswith(" ") for line in listed.splitlines())  # they would wrap into empty lines
    assert "vision" in listed
    assert "pending" in listed
    assert not listed.lstrip().startswith("[")
    counted = await run_on_terminal(tmp_path, "stats", **gateway)
    assert "vision" in counted
    assert "oldest pending" in counted
    assert (await run_command(tmp_path, "stats", **gateway)).json["totals"]["pending"] >= 1


async def test_an_unknown_job_is_reported_in_one_clear_line(tmp_path: Path, gateway: dict[str, str]) -> None:
    done = await run_command(tmp_path, "job", "get", str(uuid4()), **gateway)
    assert done.status == 1
    assert len(done.err.strip().splitlines()) == 1
