"""Secrets of endpoints are stored encrypted, follow the secret of the installation, and are never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from penstock.access.instance import Instance
from penstock.access.secret_file import SecretSource
from penstock.callbacks import sealing, signing
from penstock.callbacks.callback import Callback
from penstock.callbacks.endpoint import EndpointCreation, Rotation
from penstock.errors import WrongState
from penstock.postgres.pool import Database
from tests.support.callbacks import Callbacks, Receiver, managing
from tests.support.databases import execute, query
from tests.support.jobs import JobCaller, submission
from tests.support.waiting import until

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
EVERYTHING = """
SELECT string_agg(t::text, ' ') FROM (
    SELECT row_to_json(e)::text FROM callback_endpoint e UNION ALL SELECT row_to_json(j)::text FROM job j
    UNION ALL SELECT row_to_json(v)::text FROM event v UNION ALL SELECT row_to_json(a)::text FROM audit a
    UNION ALL SELECT row_to_json(d)::text FROM callback_ended d
) t
"""


async def test_a_secret_is_in_no_table_log_or_text(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created", secret=SECRET)
    callback = Callback(url=f"{hook.url}/mine", events=["job.created"], secret=SECRET)
    async with callbacks.running():
        await caller.submit(callback=callback)
        for message in await hook.got(2):
            message.verify(SECRET)

        async def recorded() -> bool:
            return await query(database, "SELECT count(*)::int FROM callback_ended") == [(2,)]

        await until(recorded, "both deliveries have ended")
    ((stored,),) = await query(database, EVERYTHING)
    bare = SECRET.removeprefix("whsec_")
    assert bare not in stored
    assert signing.parse(SECRET).hex() not in stored
    assert bare not in caplog.text
    creation = EndpointCreation(url=hook.url, secret=SECRET)
    for shown in (endpoint, callback, creation, Rotation(secret=SECRET), submission(callback=callback)):
        assert bare not in repr(shown)


async def test_the_secret_of_the_installation_rotates_under_the_secrets_of_endpoints(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, tmp_path: Path
) -> None:
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    rotated = await callbacks.service.rotate(managing(caller.tenant), endpoint.id, Rotation(overlap_seconds=3600))
    host = Instance(callbacks.database, SecretSource(None, tmp_path), reseal=[sealing.reseal])
    await host.rotate()
    await host.finish()
    async with callbacks.running():
        await caller.submit()
        (message,) = await hook.got(1)
    message.verify(endpoint.secret)
    message.verify(rotated.secret)


async def test_a_secret_that_cannot_be_decrypted_is_named_and_sends_nothing(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver, tmp_path: Path
) -> None:
    """It was copied from another row, or changed: nothing is sent without the signature that the receiver expects."""
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    other = await callbacks.add(caller.tenant, f"{hook.url}/other", "job.created")
    await execute(
        database,
        "UPDATE callback_endpoint SET sealed = (SELECT sealed FROM callback_endpoint WHERE id = $2) WHERE id = $1",
        endpoint.id,
        other.id,
    )
    async with callbacks.running():
        await caller.submit()

        async def rests() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).resting_until is not None

        await until(rests, "the endpoint rests")
        await hook.got(1)
    assert [message.path for message in hook.messages] == ["/other"]
    assert (await callbacks.endpoint(caller.tenant, endpoint)).waiting == 1
    host = Instance(database, SecretSource(None, tmp_path), reseal=[sealing.reseal])
    await host.rotate()
    with pytest.raises(WrongState, match=f"callback:{endpoint.id}"):
        await host.finish()


async def test_a_callback_without_a_secret_has_no_signature(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    async with callbacks.running():
        await caller.submit(callback=Callback(url=hook.url, events=["job.created"]))
        (message,) = await hook.got(1)
    assert "webhook-signature" not in message.headers
    assert message.id.startswith("msg_")


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_" + "A" * 200, "secret", SECRET[6:], "whsec_é"]
)
def test_a_text_that_is_not_a_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be whsec_ and 24 to 64 bytes"):
        signing.parse(text)
