"""Sessions over WebSocket in the ledger and within quotas."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.masking import Secret
from tests.support.athena_streams import ECHO, client, frame
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.quotas import TOKEN, TenantCaller, new_tenant
from tests.support.waiting import until

PATH = "/v1/private/echo"
SOUND = """
    from collections.abc import AsyncIterator
    from penstock import Audio

    class Model:
        async def predict(self, audio: Audio) -> int:
            return len(audio.data)

        async def session(self, parts: AsyncIterator[Audio]) -> AsyncIterator[int]:
            async for part in parts:
                yield len(part.data)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models")
    put_python(found, "echo", ECHO, extra="concurrency = 4")
    put_python(found, "sound", SOUND)
    return found


@pytest.fixture(scope="module")
async def caller(module_database_url: str, folder: Path) -> AsyncIterator[HttpCaller]:
    async with running_gateway(module_database_url, models_folder=folder, ai_service_token=Secret(TOKEN)) as caller:
        yield caller


@pytest.fixture
async def tenant(caller: HttpCaller) -> TenantCaller:
    return await new_tenant(caller)


def authorized(tenant: TenantCaller) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant.key}"}


async def test_the_sessions_of_one_connection_are_accounted_to_their_users(
    caller: HttpCaller, tenant: TenantCaller
) -> None:
    async with client(caller, PATH + "?stream_mode=multiplex", headers=authorized(tenant)) as socket:
        for number, user in enumerate(["ada", "grace", "ada"]):
            await socket.send(frame("one", 0, cid=str(number), app_id="a", uid=user))
            await socket.send(frame("two", 2, cid=str(number)))
            while (await socket.next())["header"]["status"] != 2:
                pass

    async def counted() -> bool:
        rows = (await tenant.call("GET", "/usage?by=user")).json["groups"]
        found = {row["user"]: (row["calls"], row["sessions"], row["failures"]) for row in rows}
        return found == {"ada": (2, 2, 0), "grace": (1, 1, 0)}

    await until(counted, "the sessions are in the ledger")


async def test_the_sound_and_bytes_of_all_parts_are_accounted(caller: HttpCaller, tenant: TenantCaller) -> None:
    sound = {"audio": base64.b64encode(bytes(16_000)).decode(), "encoding": "raw", "sample_rate": 16_000}
    async with client(caller, "/v1/private/sound", headers=authorized(tenant)) as socket:
        for status in (0, 1, 2):
            await socket.send({"payload": {"audio": sound | {"status": status}}})
        while (await socket.next())["header"]["status"] != 2:
            pass

    async def counted() -> bool:
        rows = (await tenant.call("GET", "/usage?by=model")).json["groups"]
        return [(row["audio_seconds"], row["bytes_in"] > 48_000) for row in rows] == [(1.5, True)]

    await until(counted, "the sound is in the ledger")


async def test_a_session_holds_its_place_in_the_quotas_until_it_ends(caller: HttpCaller, tenant: TenantCaller) -> None:
    await tenant.set_quota("calls_at_once", 1)
    async with client(caller, PATH, headers=authorized(tenant)) as first:
        await first.send(frame("one", 0))
        assert (await first.next())["header"]["status"] == 0
        async with client(caller, PATH, headers=authorized(tenant)) as second:
            await second.send(frame("one", 0))
            assert (await second.failure())[0] == 10110
        await first.cut()

    async def admitted() -> bool:
        async with client(caller, PATH, headers=authorized(tenant)) as socket:
            await socket.send(frame("one", 3))
            return bool((await socket.next())["header"]["code"] == 0)

    await until(admitted, "the place is free again")
