"""Hosts of one database have the same secret; a rotation moves its keys over as they are used."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from penstock.access.instance import Instance
from penstock.access.secret import InstanceSecret
from penstock.access.secret_file import SecretSource
from penstock.errors import CannotStart, WrongState
from penstock.masking import Secret
from penstock.settings import load_settings
from tests.support.databases import open_database
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

TOKEN = Secret("operators-token")


def stated(*secrets: InstanceSecret) -> Secret:
    return Secret(",".join(secret.text() for secret in secrets))


async def new_key(caller: HttpCaller) -> tuple[str, dict[str, str]]:
    created = (await caller.post("/keys", {"name": "test", "scopes": ["jobs:read"]})).json
    return created["id"], {"Authorization": f"Bearer {created['key']}"}


async def test_a_gateway_with_another_secret_does_not_start(database_url: str) -> None:
    first, other = InstanceSecret.generate(), InstanceSecret.generate()
    async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(first)) as caller:
        await new_key(caller)
    with pytest.raises(CannotStart, match="PENSTOCK_SECRET_KEY") as caught:
        async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(other)):
            pass
    assert other.text() not in str(caught.value)


async def test_a_gateway_that_started_without_its_database_refuses_to_use_another_secret(database_url: str) -> None:
    first, other = InstanceSecret.generate(), InstanceSecret.generate()
    async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(other)) as late:
        async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(first)) as caller:
            await new_key(caller)
        reply = await late.post("/keys", {"name": "test", "scopes": ["jobs:read"]})
        assert reply.outcome == (503, "database_unavailable")
        assert (await late.post("/tickets", {"scopes": ["jobs:read"]})).outcome == (503, "database_unavailable")
        assert (await late.get("/jobs")).status == 200


async def test_of_two_new_hosts_with_different_secrets_one_wins(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url) as database:
        hosts = [Instance(database, SecretSource(None, tmp_path / str(number))) for number in range(4)]
        found = await asyncio.gather(*(host.secret() for host in hosts), return_exceptions=True)
    assert len([one for one in found if isinstance(one, InstanceSecret)]) == 1
    assert len([one for one in found if isinstance(one, CannotStart)]) == 3


async def test_a_rotation_ends_when_every_valid_key_has_moved(database_url: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"ai_service_token": TOKEN, "penstock_secret_key": None, "penstock_data_dir": tmp_path}
    async with (
        running_gateway(database_url, **changes) as caller,
        open_database(database_url) as database,
    ):
        used, idle, gone = [await new_key(caller) for _ in range(3)]
        for key in (used, idle):
            assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200
        host = Instance(database, SecretSource(None, tmp_path))
        await host.rotate()
        with pytest.raises(WrongState, match="being rotated"):
            await host.rotate()
        await caller.post(f"/keys/{gone[0]}/revoke")

        async def left() -> str:
            """Use a key, and return what the end of the rotation waits for."""
            assert (await caller.call("GET", "/jobs", headers=used[1])).status == 200
            with pytest.raises(WrongState) as caught:
                await host.finish()
            return str(caught.value)

        async def moved() -> bool:
            return used[0] not in await left()

        await until(moved, "the used key is under the new secret")
        assert idle[0] in await left()
        assert gone[0] not in await left(), "a key that is not valid need not move"
        assert (await caller.call("GET", "/jobs", headers=idle[1])).status == 200
        await host.finish()
        assert len((tmp_path / "secret.key").read_text().split()) == 1
        for key in (used, idle):
            assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200
        await new_key(caller)
    async with running_gateway(database_url, **changes) as caller:
        for key in (used, idle):
            assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200


async def test_a_key_that_another_gateway_moved_stays_valid_after_the_rotation(
    database_url: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"ai_service_token": TOKEN, "penstock_secret_key": None, "penstock_data_dir": tmp_path}
    async with (
        running_gateway(database_url, **changes) as here,
        running_gateway(database_url, **changes) as there,
        open_database(database_url) as database,
    ):
        key = await new_key(here)
        for caller in (here, there):
            assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200
        host = Instance(database, SecretSource(None, tmp_path))
        await host.rotate()

        async def finished() -> bool:
            assert (await here.call("GET", "/jobs", headers=key[1])).status == 200
            with suppress(WrongState):
                await host.finish()
                return True
            return False

        await until(finished, "the rotation has ended")
        source = there.parts.access.instance.source
        await until(lambda: source.get().previous is None, "the other gateway has read the file")
        spaced = {"Authorization": key[1]["Authorization"].replace(" ", "  ")}
        for headers in (key[1], spaced):
            assert (await there.call("GET", "/jobs", headers=headers)).status == 200


def lose(file: Path, loss: str) -> None:
    if loss == "removed":
        file.unlink()
    elif loss == "readable":
        file.chmod(0o644)
    else:
        file.write_text("")


@pytest.mark.parametrize("loss", ["removed", "readable", "empty"])
async def test_a_gateway_whose_secret_file_is_lost_keeps_its_secret(
    database_url: str, tmp_path: Path, loss: str
) -> None:
    changes: dict[str, Any] = {"ai_service_token": TOKEN, "penstock_secret_key": None, "penstock_data_dir": tmp_path}
    async with running_gateway(database_url, **changes) as caller:
        revoked, kept = await new_key(caller), await new_key(caller)
        for key in (revoked, kept):
            assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200
        file = tmp_path / "secret.key"
        lose(file, loss)
        await caller.post(f"/keys/{revoked[0]}/revoke")

        async def refused() -> bool:
            return (await caller.call("GET", "/jobs", headers=revoked[1])).status == 401

        await until(refused, "the gateway refuses the key", seconds=2)
        spaced = {"Authorization": kept[1]["Authorization"].replace(" ", "  ")}
        for headers in (kept[1], spaced, (await new_key(caller))[1]):
            assert (await caller.call("GET", "/jobs", headers=headers)).status == 200
        assert file.exists() == (loss != "removed"), "no other secret is made"


async def test_a_rotation_of_a_stated_secret_needs_both(database_url: str) -> None:
    old, new = InstanceSecret.generate(), InstanceSecret.generate()
    async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(old)) as caller:
        key = await new_key(caller)
        with pytest.raises(WrongState, match="before the current one"):
            await caller.parts.access.instance.rotate()
    async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(new, old)) as caller:
        assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200, "before the rotation"
        await caller.parts.access.instance.rotate()
        late = await new_key(caller)
        assert (await caller.call("GET", "/jobs", headers=late[1])).status == 200
    async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(new, old)) as caller:
        assert (await caller.call("GET", "/jobs", headers=key[1])).status == 200
        await caller.parts.access.instance.finish()
    async with running_gateway(database_url, ai_service_token=TOKEN, penstock_secret_key=stated(new)) as caller:
        for one in (key, late):
            assert (await caller.call("GET", "/jobs", headers=one[1])).status == 200


@pytest.mark.parametrize("value", ["", "short", "A" * 42, "!" * 43, "A" * 43 + "," + "B"])
def test_a_wrong_setting_is_reported_without_its_value(value: str) -> None:
    from penstock.errors import SettingsError

    with pytest.raises(SettingsError, match="PENSTOCK_SECRET_KEY") as caught:
        load_settings(None).replace(penstock_secret_key=value or " ")
    assert not value or value not in str(caught.value)
