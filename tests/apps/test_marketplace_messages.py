"""What the marketplace gets of requests that ended in any way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.apps.marketplace import MAX_RESULT_BYTES, MarketplaceMessages
from penstock.assembly.shared import blob_service
from penstock.blobs.links import BlobLinks
from penstock.callbacks.marketplace import POLICY, Marketplace
from penstock.callbacks.sender import Sender
from penstock.masking import Secret
from penstock.postgres.pool import Database
from tests.apps.conftest import Work, Write
from tests.support.callbacks import Callbacks, Receiver, receiver
from tests.support.databases import open_database
from tests.support.gateways import HttpCaller, running_gateway, settings_for
from tests.support.waiting import until

FLOW = '''
from typing import Any

from penstock.flows import flow, run


@flow(name="work", version="1")
async def work(result: Any = None, fails: bool = False, waits: bool = False) -> Any:
    """Returns what it is given."""
    await run.call("echo", {"text": "once"})
    if fails:
        raise ValueError("it is to fail")
    if waits:
        await run.wait_signal("never")
    return result
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A gateway, and the marketplace that gets the results of its requests."""

    gateway: HttpCaller
    marketplace: Receiver

    async def request(self, **given: Any) -> str:
        reply = await self.gateway.post("/apps/work/call", {"user_id": "ada", "input": given})
        assert reply.status == 202, reply.body
        return str(reply.json["task_id"])

    async def message(self, **given: Any) -> dict[str, Any]:
        """Make a request, and return the message about its end."""
        before = len(self.marketplace.messages)
        task_id = await self.request(**given)
        message = (await self.marketplace.got(before + 1))[before].event
        assert message["task_id"] == task_id
        return message


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the secret of the installation."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def world(module_database_url: str, database: Database, data: Path, write: Write, work: Work) -> Any:
    write("work/app.toml", '[price]\nunit = "piece"\nunits = "/pieces"\n')
    write("work/work.py", FLOW)
    async with started(module_database_url, database, data) as found, work():
        await until(lambda: _runs(found), "the app is published")
        yield found


async def _runs(world: World) -> bool:
    reply = await world.gateway.get("/apps/work/health")
    return reply.status == 200 and reply.json["status"] == "ok"


@asynccontextmanager
async def started(url: str, database: Database, folder: Path) -> AsyncIterator[World]:
    """Start a gateway, and a dispatcher that has a single connection."""
    async with (
        open_database(url, max_size=1) as small,
        running_gateway(
            url,
            penstock_data_dir=folder,
            ai_service_token=Secret("operators-token"),
            marketplace_callback=Secret("http://127.0.0.1:9/elsewhere"),
        ) as gateway,
        receiver() as hook,
    ):
        callbacks = Callbacks(database, folder)
        blobs = blob_service(settings_for(url), small)
        links = BlobLinks(blobs, gateway.parts.instance, presigns=False)
        bodies = MarketplaceMessages(small, links, "https://apps.example").bodies
        callbacks.marketplace = Marketplace(url=hook.url, token=None, sender=Sender(POLICY), bodies=bodies)
        async with callbacks.running(callbacks.dispatcher(database=small)):
            yield World(gateway=gateway, marketplace=hook)


async def test_completed_failed_and_cancelled_requests(world: World) -> None:
    done = await world.message(result={"pieces": 3})
    assert (done["app"], done["user_id"], done["status"]) == ("work", "ada", "completed")
    assert (done["result"], done["error"], done["media"]) == ({"pieces": 3}, None, [])
    assert (done["price_unit"], done["units"]) == ("piece", 3.0)
    assert (done["usage"]["attempts"], done["usage"]["calls"]) == (1, 1)
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]

    failed = await world.message(fails=True)
    assert (failed["status"], failed["result"], failed["units"]) == ("failed", None, 0.0)
    assert "it is to fail" in failed["error"]["message"]
    assert failed["usage"]["attempts"] == 1, "what it has used counts"

    before = len(world.marketplace.messages)
    task_id = await world.request(waits=True)
    assert (await world.gateway.post(f"/jobs/{task_id}/cancel", {})).status == 200
    cancelled = (await world.marketplace.got(before + 1))[before].event
    assert (cancelled["task_id"], cancelled["status"], cancelled["result"]) == (task_id, "cancelled", None)


async def test_a_rerun_of_a_request_is_a_request(world: World) -> None:
    first = await world.message(result={"pieces": 1})
    before = len(world.marketplace.messages)
    again = await world.gateway.post(f"/flows/runs/{first['task_id']}/rerun", {"step": 0})
    assert again.status == 201, again.body
    message = (await world.marketplace.got(before + 1))[before].event
    assert (message["task_id"], message["app"], message["status"]) == (again.json["id"], "work", "completed")


async def test_files_have_whole_urls(world: World) -> None:
    blob = (await world.gateway.call("POST", "/blobs?filename=a.wav", body=b"sound")).json
    message = await world.message(result={"audio": f"blob:{blob['id']}", "other": "/api/v1/not/a/file"})
    (media,) = message["media"]
    assert media["id"] == blob["id"]
    assert media["url"].startswith("https://apps.example/api/v1/blobs/signed/")
    assert message["result"] == {"audio": media["url"], "other": "/api/v1/not/a/file"}
    path = media["url"].removeprefix("https://apps.example/api/v1")
    assert (await world.gateway.get(path)).body == b"sound"


async def test_a_large_result_is_left_out_with_its_size(world: World) -> None:
    message = await world.message(result="x" * MAX_RESULT_BYTES)
    assert (message["status"], message["result"]) == ("completed", None)
    assert message["result_bytes"] == MAX_RESULT_BYTES + 2
