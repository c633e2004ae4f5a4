"""Uploads in parts: resumed after interruptions, completed once, and gone if they are not completed."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from penstock import Client, NotFound
from penstock.blobs.blob import PART_BYTES
from penstock.blobs.service import BlobService
from penstock.housekeeping.sweeper import Sweeper
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import open_database, query
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import within

DATA = random.Random(9).randbytes(3 * PART_BYTES + 17)
MOST = 4 * PART_BYTES
PIECES = [DATA[: PART_BYTES + 5], DATA[PART_BYTES + 5 : PART_BYTES + 10], DATA[PART_BYTES + 10 :]]
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    async with running_gateway(
        module_database_url,
        penstock_max_blob_bytes=MOST,
        penstock_blob_inline_bytes=PART_BYTES,
        penstock_blob_url=(tmp_path_factory.mktemp("files") / "blobs").as_uri(),
    ) as caller:
        yield caller


@pytest.fixture
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as database:
        yield database


async def begun(caller: HttpCaller) -> str:
    reply = await caller.post("/uploads", {"media_type": "audio/wav", "filename": "a.wav"})
    assert reply.status == 201, reply.body
    assert reply.headers["Location"] == f"/api/v1/uploads/{reply.json['id']}"
    upload_id: str = reply.json["id"]
    return upload_id


async def send(caller: HttpCaller, upload_id: str, number: int | str, data: bytes) -> Reply:
    return await caller.call("PUT", f"/uploads/{upload_id}/parts/{number}", body=data)


async def sent(caller: HttpCaller) -> str:
    """An upload all of whose parts have arrived, in another order."""
    upload_id = await begun(caller)
    for number in (3, 1, 2):
        reply = await send(caller, upload_id, number, PIECES[number - 1])
        assert reply.json == {
            "number": number,
            "size_bytes": len(PIECES[number - 1]),
            "sha256": hashlib.sha256(PIECES[number - 1]).hexdigest(),
        }
    return upload_id


async def complete(caller: HttpCaller, upload_id: str, **wanted: Any) -> Reply:
    return await caller.post(f"/uploads/{upload_id}/complete", wanted)


async def rows(database: Database) -> tuple[Any, ...]:
    """Return the numbers of uploads, their parts, and leftovers that are not due."""
    (found,) = await query(
        database,
        "SELECT (SELECT count(*) FROM blob_upload), (SELECT count(*) FROM blob_upload_part),"
        " (SELECT count(*) FROM blob_leftover)",
    )
    return found


async def test_the_parts_become_a_file(caller: HttpCaller, database: Database) -> None:
    before = await rows(database)
    upload_id = await sent(caller)
    listed = (await caller.get(f"/uploads/{upload_id}")).json
    assert [part["number"] for part in listed["parts"]] == [1, 2, 3]
    assert (await caller.get(f"/blobs/{upload_id}")).status == 404, "it is not a file yet"
    blob = await complete(caller, upload_id, sha256=SHA256)
    assert blob.status == 201, blob.body
    assert (blob.json["id"], blob.json["size_bytes"], blob.json["sha256"]) == (upload_id, len(DATA), SHA256)
    assert (blob.json["filename"], blob.json["media_type"]) == ("a.wav", "audio/wav")
    assert (await caller.get(f"/blobs/{upload_id}")).body == DATA
    assert await rows(database) == before, "the parts are gone"
    again = await complete(caller, upload_id)
    assert (again.status, again.json) == (201, blob.json)
    assert (await caller.get(f"/uploads/{upload_id}")).status == 404


async def test_a_part_that_is_sent_again_replaces_the_earlier_one(caller: HttpCaller) -> None:
    upload_id = await sent(caller)
    assert (await send(caller, upload_id, 2, b"other")).status == 200
    blob = await complete(caller, upload_id)
    assert (await caller.get(f"/blobs/{upload_id}")).body == PIECES[0] + b"other" + PIECES[2]
    assert blob.json["size_bytes"] == len(DATA)


async def test_an_interrupted_part_leaves_the_others(caller: HttpCaller, database: Database) -> None:
    upload_id = await begun(caller)
    await send(caller, upload_id, 1, PIECES[0])
    before = await rows(database)

    async def breaking() -> AsyncIterator[bytes]:
        yield PIECES[2]
        raise ConnectionResetError

    with pytest.raises(Exception):  # noqa: B017, PT011 - aiohttp's, or the generator's own
        await caller.session.put(f"{caller.address}/api/v1/uploads/{upload_id}/parts/2", data=breaking())
    listed = (await caller.get(f"/uploads/{upload_id}")).json
    assert [part["number"] for part in listed["parts"]] == [1]
    assert (await send(caller, upload_id, 2, DATA[len(PIECES[0]) :])).status == 200
    assert (await complete(caller, upload_id, sha256=SHA256)).status == 201
    assert (await rows(database))[0] == before[0] - 1


async def test_concurrent_requests_complete_it_once(caller: HttpCaller, database: Database) -> None:
    upload_id = await sent(caller)
    replies = await within(asyncio.gather(*(complete(caller, upload_id) for _ in range(5))), 60)
    statuses = {reply.status for reply in replies}
    assert 201 in statuses
    assert statuses <= {201, 404, 409}, "others may have seen its parts go"
    assert (await caller.get(f"/blobs/{upload_id}")).body == DATA
    assert (await complete(caller, upload_id)).status == 201
    assert await query(database, "SELECT count(*) FROM blob WHERE id = $1", upload_id) == [(1,)]


async def test_what_is_wrong_is_named(caller: HttpCaller) -> None:
    upload_id = await begun(caller)
    assert (await complete(caller, upload_id)).outcome == (409, "wrong_state")
    for number in ("0", "10001", "-1", "x", "1.5", "٣"):
        assert (await send(caller, upload_id, number, b"x")).fields == ["number"], number
    assert (await send(caller, upload_id, 1, b"")).fields == ["body"]
    await send(caller, upload_id, 1, b"first")
    await send(caller, upload_id, 3, b"third")
    missing = await complete(caller, upload_id)
    assert missing.outcome == (409, "wrong_state")
    assert "part 2 is missing" in missing.json["detail"]
    await send(caller, upload_id, 2, b"second")
    wrong = await complete(caller, upload_id, sha256=SHA256)
    assert (wrong.outcome, wrong.fields) == ((422, "invalid_input"), ["sha256"])
    assert (await complete(caller, upload_id, sha256="x")).fields == ["sha256"]
    assert (await complete(caller, upload_id)).status == 201, "it can still be completed"
    unknown = str(uuid7())
    for reply in (
        await send(caller, unknown, 1, b"x"),
        await complete(caller, unknown),
        await caller.get(f"/uploads/{unknown}"),
        await caller.call("DELETE", f"/uploads/{unknown}"),
    ):
        assert reply.outcome == (404, "not_found")
    assert (await caller.post("/uploads", {"media_type": "nonsense"})).fields == ["media_type"]


async def test_a_file_that_is_too_large_is_refused(caller: HttpCaller) -> None:
    upload_id = await begun(caller)
    assert (await send(caller, upload_id, 1, DATA)).status == 200
    assert (await send(caller, upload_id, 2, DATA)).status == 413, "a part that does not fit"
    assert (await send(caller, upload_id, 2, bytes(MOST - len(DATA)))).status == 200
    assert (await send(caller, upload_id, 3, b"x")).outcome == (413, "too_large")
    assert (await send(caller, upload_id, 1, DATA)).status == 200, "in place of itself"
    assert (await send(caller, upload_id, 3, DATA + DATA)).status == 413
    assert (await caller.call("DELETE", f"/uploads/{upload_id}")).status == 204


async def test_an_aborted_upload_leaves_nothing(caller: HttpCaller, database: Database) -> None:
    before = await rows(database)
    upload_id = await sent(caller)
    assert (await caller.call("DELETE", f"/uploads/{upload_id}")).status == 204
    assert (await send(caller, upload_id, 1, b"x")).outcome == (404, "not_found")
    assert await rows(database) == before


async def test_an_upload_that_is_not_completed_is_swept(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("swept") / "blobs"
    async with (
        open_database(database_url) as fresh,
        running_gateway(
            database_url, penstock_blob_inline_bytes=PART_BYTES, penstock_blob_url=folder.as_uri()
        ) as caller,
    ):
        blobs: BlobService = caller.parts.blobs
        upload_id = await sent(caller)
        clock = Clock(fresh)

        async def sweep() -> None:
            while await Sweeper(fresh, blobs).once():
                pass

        await clock.advance(timedelta(hours=23))
        await sweep()
        assert (await rows(fresh))[:2] == (1, 3)
        await clock.advance(timedelta(hours=2))
        await sweep()
        assert (await rows(fresh))[:2] == (0, 0)
        assert (await complete(caller, upload_id)).outcome == (404, "not_found")
        await clock.advance(timedelta(hours=13))
        await sweep()
        assert await rows(fresh) == (0, 0, 0)
        assert [path.name for path in folder.rglob("*")] == ["penstock-store"]


async def test_unfinished_uploads_are_bounded(database_url: str) -> None:
    async with running_gateway(database_url) as caller:
        for _ in range(100):
            await begun(caller)
        assert (await caller.post("/uploads", {})).outcome == (409, "wrong_state")


async def test_the_client_resumes_an_upload(caller: HttpCaller, tmp_path: Path) -> None:
    """It sends only the parts that have not arrived, or that arrived with other bytes."""
    path = tmp_path / "song.wav"
    path.write_bytes(DATA)
    ids: list[UUID] = []
    async with Client(caller.address) as client:
        blob = await client.upload_in_parts(path, part_bytes=PART_BYTES, on_begin=ids.append)
        assert (blob.id, blob.sha256, blob.filename) == (ids[0], SHA256, "song.wav")
        upload_id = await begun(caller)
        assert (await send(caller, upload_id, 1, DATA[:PART_BYTES])).status == 200
        assert (await send(caller, upload_id, 2, b"other bytes")).status == 200
        blob = await client.upload_in_parts(path, part_bytes=PART_BYTES, upload_id=upload_id)
        assert (str(blob.id), blob.sha256) == (upload_id, SHA256)
        with pytest.raises(NotFound):
            await client.upload_in_parts(path, upload_id=upload_id)


async def test_the_command_line_resumes_an_upload(caller: HttpCaller, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(DATA)
    upload_id = await begun(caller)
    environment = clean_environment(PENSTOCK_URL=caller.address)
    log = tmp_path / "log"
    async with penstock(
        "blob", "put", "song.wav", "--resume", upload_id, environment=environment, folder=tmp_path, log=log
    ) as process:
        assert await within(process.wait(), 60) == 0, log.read_text()
    assert (await caller.get(f"/blobs/{upload_id}")).body == DATA
