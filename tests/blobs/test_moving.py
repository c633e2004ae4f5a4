"""Moving blobs between stores while others read, delete and move them; and comparing stores with the database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from penstock.assembly.shared import blob_service
from penstock.blobs.blob import POSTGRES
from penstock.blobs.moving import Mover
from penstock.blobs.objects.contract import MARK, Description
from penstock.blobs.reconciler import Comparison, Findings
from penstock.blobs.service import BlobService
from penstock.errors import BlobStoreUnavailable, NotFound
from penstock.postgres.pool import Database
from tests.support.databases import query
from tests.support.gateways import settings_for
from tests.support.s3 import S3Server, s3_settings

INLINE = 100_000
DATA = random.Random(6).randbytes(2**20)
WAV = Description(media_type="audio/wav", disposition="attachment")


def service(database: Database, **settings: Any) -> BlobService:
    return blob_service(settings_for(database.url, penstock_blob_inline_bytes=INLINE, **settings), database)


@pytest.fixture
def urls(tmp_path: Path, bucket: str) -> dict[str, str]:
    return {"folder": (tmp_path / "blobs").as_uri(), "s3": f"s3://{bucket}", "postgres": "postgres"}


def s3_of(server: S3Server, *stores: str) -> dict[str, Any]:
    return s3_settings(server.address) if "s3" in stores else {}


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]


async def put(blobs: BlobService, tenant: int, data: bytes) -> UUID:
    return (await blobs.put(tenant, pieces(data), media_type="audio/wav", filename="a.wav")).id


async def whole(blobs: BlobService, tenant: int, blob_id: UUID) -> bytes:
    return b"".join([piece async for piece in blobs.read(tenant, blob_id)])


async def move(database: Database, blobs: BlobService) -> Mover:
    mover = Mover(database, blobs, report=lambda _: None)
    await mover.run()
    return mover


async def objects_of(blobs: BlobService) -> list[str]:
    return [one.key for objects in blobs.stores.outside() for one in await objects.listed(after="", limit=100)]


async def leftovers(database: Database) -> int:
    ((count,),) = await query(database, "SELECT count(*) FROM blob_leftover")
    return int(count)


@pytest.mark.parametrize(
    ("old", "new"), [("folder", "s3"), ("s3", "folder"), ("postgres", "folder"), ("s3", "postgres")]
)
async def test_all_blobs_move(
    fresh: Database, tenant: int, urls: dict[str, str], s3: S3Server, old: str, new: str
) -> None:
    before = service(fresh, penstock_blob_url=urls[old], **s3_of(s3, old))
    data = {await put(before, tenant, DATA[:size]): DATA[:size] for size in (10, INLINE + 1, 2**20, 2**20 - 1)}
    after = service(fresh, penstock_blob_url=urls[new], penstock_blob_previous_urls=(urls[old],), **s3_of(s3, old, new))
    mover = await move(fresh, after)
    assert (mover.tally.moved, mover.unmoved) == (3, [])
    for blob, content in data.items():
        assert await whole(after, tenant, blob) == content
    alone = service(fresh, penstock_blob_url=urls[new], **s3_of(s3, new))
    assert [await whole(alone, tenant, blob) for blob in data] == list(data.values())
    assert len(await objects_of(after)) == (0 if new == "postgres" else 3)
    assert await leftovers(fresh) == 0
    assert (await move(fresh, after)).tally.moved == 0, "there is nothing left to move"
    kept = await query(fresh, "SELECT count(DISTINCT key) FROM blob_part")
    assert kept == [(4 if new == "postgres" else 1,)]


async def test_reading_a_blob_continues_from_its_new_store(fresh: Database, tenant: int, urls: dict[str, str]) -> None:
    before = service(fresh, penstock_blob_url="postgres")
    blob = await put(before, tenant, DATA)
    after = service(fresh, penstock_blob_url=urls["folder"])
    reading = after.read(tenant, blob)
    begin = await anext(reading)
    assert (await move(fresh, after)).tally.moved == 1
    assert begin + b"".join([piece async for piece in reading]) == DATA


async def test_several_movers_move_each_blob_once(fresh: Database, tenant: int, urls: dict[str, str]) -> None:
    before = service(fresh, penstock_blob_url="postgres")
    data = [await put(before, tenant, DATA[: INLINE + number]) for number in range(1, 13)]
    movers = await asyncio.gather(*(move(fresh, service(fresh, penstock_blob_url=urls["folder"])) for _ in range(3)))
    assert sum(mover.tally.moved for mover in movers) == 12
    after = service(fresh, penstock_blob_url=urls["folder"])
    assert [await whole(after, tenant, blob) for blob in data] == [DATA[: INLINE + number] for number in range(1, 13)]
    assert len(await objects_of(after)) == 12
    assert await leftovers(fresh) == 0


async def test_a_blob_deleted_while_it_is_copied_stays_deleted(
    fresh: Database, tenant: int, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = service(fresh, penstock_blob_url="postgres")
    blob = await put(before, tenant, DATA)
    after = service(fresh, penstock_blob_url=urls["folder"])
    write = after.write

    async def deleting(*arguments: Any) -> None:
        await write(*arguments)
        await query(fresh, "UPDATE blob SET expires_at = clock() + '1 microsecond' WHERE id = $1", blob)
        await query(fresh, "DELETE FROM blob WHERE id = $1", blob)

    monkeypatch.setattr(after, "write", deleting)
    mover = await move(fresh, after)
    assert (mover.tally.moved, mover.tally.gone) == (0, 1)
    assert await objects_of(after) == []
    assert await leftovers(fresh) == 0


async def test_changed_bytes_are_not_moved(fresh: Database, tenant: int, urls: dict[str, str], tmp_path: Path) -> None:
    before = service(fresh, penstock_blob_url=urls["folder"])
    wrong, gone, right = [await put(before, tenant, DATA) for _ in range(3)]
    paths = {blob: tmp_path / "blobs" / (await before.find(tenant, blob)).place.key for blob in (wrong, gone)}
    paths[wrong].write_bytes(b"x" * len(DATA))
    paths[gone].unlink()
    after = service(fresh, penstock_blob_url="postgres", penstock_blob_previous_urls=(urls["folder"],))
    mover = await move(fresh, after)
    assert mover.tally.moved == 1
    assert {one.id: one.reason for one in mover.unmoved} == {
        wrong: "its bytes do not have its SHA-256",
        gone: "its bytes are missing",
    }
    assert await whole(after, tenant, right) == DATA
    assert paths[wrong].exists()
    assert await query(fresh, "SELECT count(DISTINCT key) FROM blob_part") == [(1,)]
    assert await leftovers(fresh) == 0


@pytest.fixture
def blobs(fresh: Database, store_settings: dict[str, Any]) -> BlobService:
    return service(fresh, **store_settings)


async def compare(database: Database, blobs: BlobService, *, orphan_age: timedelta = timedelta(0)) -> Findings:
    comparison = Comparison(database, blobs.stores, blobs.stores.current, orphan_age=orphan_age)
    while await comparison.step():
        pass
    return comparison.found


async def test_objects_without_a_blob_are_removed_once_they_are_old(
    fresh: Database, blobs: BlobService, tenant: int
) -> None:
    kept = await put(blobs, tenant, DATA)
    orphans = [f"{tenant}/uploads/{uuid7()}" for _ in range(2)]
    for key in (*orphans, "not-ours"):
        await blobs.stores.current.write(key, pieces(DATA), WAV)
    found = await compare(fresh, blobs, orphan_age=timedelta(hours=1))
    assert (found.objects, found.orphans, found.foreign, found.missing) == (4, 0, 1, [])
    found = await compare(fresh, blobs)
    assert (found.objects, found.orphans) == (4, 2)
    assert await query(fresh, "SELECT key FROM blob_leftover ORDER BY key") == [(key,) for key in sorted(orphans)]
    assert (await compare(fresh, blobs)).orphans == 0, "they are known now"
    from penstock.housekeeping.sweeper import Sweeper

    while await Sweeper(fresh, blobs).once():
        pass
    assert sorted(await objects_of(blobs)) == sorted(["not-ours", (await blobs.find(tenant, kept)).place.key])
    assert await leftovers(fresh) == 0


async def test_blobs_without_an_object_are_marked_until_it_is_back(
    fresh: Database, blobs: BlobService, tenant: int
) -> None:
    data = [await put(blobs, tenant, DATA) for _ in range(3)]
    place = (await blobs.find(tenant, data[1])).place
    await blobs.stores.current.remove(place.key)
    assert (await compare(fresh, blobs)).missing == [data[1]]
    assert await query(fresh, "SELECT id FROM blob WHERE missing_at IS NOT NULL") == [(data[1],)]
    assert (await blobs.find(tenant, data[1])).missing_at is not None
    await blobs.stores.current.write(place.key, pieces(DATA), WAV)
    assert (await compare(fresh, blobs)).missing == []
    assert await query(fresh, "SELECT id FROM blob WHERE missing_at IS NOT NULL") == []
    assert await whole(blobs, tenant, data[1]) == DATA


async def test_nothing_is_marked_while_the_store_is_unavailable(fresh: Database, tmp_path: Path, tenant: int) -> None:
    blobs = service(fresh, penstock_blob_url=(tmp_path / "blobs").as_uri())
    blob = await put(blobs, tenant, DATA)
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    with pytest.raises(BlobStoreUnavailable):
        await compare(fresh, blobs)
    assert await query(fresh, "SELECT id FROM blob WHERE missing_at IS NOT NULL") == []
    (tmp_path / "unmounted").rename(tmp_path / "blobs")
    assert (await compare(fresh, blobs)).missing == []
    assert MARK not in await objects_of(blobs)
    await blobs.delete(tenant, blob)
    with pytest.raises(NotFound):
        await whole(blobs, tenant, blob)
    assert (await blobs.stores.current_id()) != POSTGRES
