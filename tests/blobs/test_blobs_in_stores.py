"""Blobs whose bytes are outside of PostgreSQL: stored whole or not at all, and removed with their rows."""

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

from penstock.assembly.shared import blob_service
from penstock.blobs import store
from penstock.blobs.blob import POSTGRES, Place
from penstock.blobs.objects.contract import MARK
from penstock.blobs.service import BlobService
from penstock.errors import BlobStoreUnavailable, InvalidInput, NotFound, TooLarge
from penstock.housekeeping.sweeper import Sweeper
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import own_tenant, query
from tests.support.gateways import settings_for
from tests.support.s3 import S3Server
from tests.support.waiting import within

INLINE = 100_000
MOST = 8 * 2**20
LARGE = random.Random(5).randbytes(6 * 2**20 + 3)
KEEP = timedelta(days=30)


def service(database: Database, **settings: Any) -> BlobService:
    stated = {"penstock_blob_inline_bytes": INLINE, "penstock_max_blob_bytes": MOST} | settings
    return blob_service(settings_for(database.url, **stated), database)


@pytest.fixture
def blobs(fresh: Database, store_settings: dict[str, Any]) -> BlobService:
    return service(fresh, **store_settings)


async def pieces(data: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def put(blobs: BlobService, tenant: int, data: bytes) -> UUID:
    return (await blobs.put(tenant, pieces(data), media_type="audio/wav", filename="a.wav")).id


async def whole(blobs: BlobService, tenant: int, blob_id: UUID, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in blobs.read(tenant, blob_id, start, end)])


async def objects_of(blobs: BlobService) -> list[str]:
    return [one.key for one in await blobs.stores.current.listed(after="", limit=100)]


async def rows(database: Database) -> tuple[int, int, int]:
    """Return the numbers of blobs, parts and leftovers."""
    ((blobs, parts, leftovers),) = await query(
        database,
        "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_part), (SELECT count(*) FROM blob_leftover)",
    )
    return blobs, parts, leftovers


async def sweep(database: Database, blobs: BlobService) -> None:
    while await Sweeper(database, blobs).once():
        pass


async def test_large_blobs_are_in_the_store_and_small_ones_in_postgresql(
    fresh: Database, blobs: BlobService, tenant: int
) -> None:
    for size, expected in [(1, True), (INLINE, True), (INLINE + 1, False), (len(LARGE), False)]:
        blob = await blobs.put(tenant, pieces(LARGE[:size]), media_type="audio/wav", filename="a.wav")
        assert (blob.size_bytes, blob.sha256) == (size, hashlib.sha256(LARGE[:size]).hexdigest())
        assert ((await blobs.find(tenant, blob.id)).place.store_id == POSTGRES) is expected
        assert await whole(blobs, tenant, blob.id) == LARGE[:size]
        assert await whole(blobs, tenant, blob.id, size // 3, size // 2) == LARGE[size // 3 : size // 2]
    keys = await objects_of(blobs)
    assert len(keys) == 2
    assert all(key.startswith(f"{tenant}/uploads/") for key in keys)
    assert await rows(fresh) == (4, 2, 0)


async def test_an_upload_that_fails_leaves_nothing(fresh: Database, blobs: BlobService, tenant: int) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(tenant, breaking(), media_type=None, filename=None)
    with pytest.raises(TooLarge):
        await put(blobs, tenant, LARGE + LARGE)
    assert await rows(fresh) == (0, 0, 0)
    assert await objects_of(blobs) == []


async def test_a_cancelled_upload_is_removed_at_the_latest_by_the_housekeeper(
    fresh: Database, blobs: BlobService, tenant: int, s3: S3Server, bucket: str
) -> None:
    waiting = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE):
            yield piece
        waiting.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(blobs.put(tenant, hanging(), media_type=None, filename=None))
    await within(waiting.wait())
    assert await rows(fresh) == (0, 0, 1)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(upload)
    assert await s3.unfinished_uploads(bucket) == 0
    await sweep(fresh, blobs)
    assert await rows(fresh) == (0, 0, 0)
    assert await objects_of(blobs) == []


async def test_a_deleted_blob_leaves_no_object(fresh: Database, blobs: BlobService, tenant: int) -> None:
    kept, gone = await put(blobs, tenant, LARGE), await put(blobs, tenant, LARGE)
    await blobs.delete(tenant, gone)
    with pytest.raises(NotFound):
        await whole(blobs, tenant, gone)
    assert await rows(fresh) == (1, 0, 0)
    assert len(await objects_of(blobs)) == 1
    assert await whole(blobs, tenant, kept) == LARGE


async def test_expired_blobs_are_swept_with_their_objects(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    old = await put(blobs, tenant, LARGE)
    await fresh_clock.advance(KEEP - timedelta(hours=1))
    young = await put(blobs, await own_tenant(fresh), LARGE)
    await fresh_clock.advance(timedelta(hours=2))
    with pytest.raises(NotFound):
        await blobs.get(tenant, old)
    await sweep(fresh, blobs)
    assert await query(fresh, "SELECT id FROM blob") == [(young,)]
    assert await rows(fresh) == (1, 0, 0)
    assert len(await objects_of(blobs)) == 1


async def test_what_a_dead_process_has_written_is_swept_after_a_day(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    kept = await put(blobs, tenant, LARGE)
    place = Place(await blobs.stores.current_id(), f"{tenant}/uploads/{uuid7()}")
    objects = await blobs.stores.holding(place.store_id)
    async with fresh.acquire() as connection:
        await store.begin(connection, tenant, place)
    await objects.write(place.key, pieces(LARGE), await description())
    await fresh_clock.advance(timedelta(hours=23))
    await sweep(fresh, blobs)
    assert len(await objects_of(blobs)) == 2
    await fresh_clock.advance(timedelta(hours=2))
    await sweep(fresh, blobs)
    assert len(await objects_of(blobs)) == 1
    assert await rows(fresh) == (1, 0, 0)
    assert await whole(blobs, tenant, kept) == LARGE


async def description() -> Any:
    from penstock.blobs.objects.contract import Description

    return Description(media_type="audio/wav", disposition="attachment")


async def test_an_object_that_is_due_for_removal_cannot_become_a_blob(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    async def lasting() -> AsyncIterator[bytes]:
        yield LARGE
        await fresh_clock.advance(timedelta(hours=13))
        yield b"end"

    with pytest.raises(InvalidInput, match="twelve hours"):
        await blobs.put(tenant, lasting(), media_type=None, filename=None)
    await fresh_clock.advance(timedelta(hours=12))
    await sweep(fresh, blobs)
    assert await rows(fresh) == (0, 0, 0)
    assert await objects_of(blobs) == []


async def test_another_tenants_blob_is_not_found(fresh: Database, blobs: BlobService, tenant: int) -> None:
    blob = await put(blobs, tenant, LARGE)
    stranger = await own_tenant(fresh)
    for call in (blobs.get(stranger, blob), whole(blobs, stranger, blob), blobs.delete(stranger, blob)):
        with pytest.raises(NotFound):
            await call
    assert await whole(blobs, tenant, blob) == LARGE


async def test_a_blob_whose_object_is_lost_is_reported_as_missing(blobs: BlobService, tenant: int) -> None:
    blob = await put(blobs, tenant, LARGE)
    (key,) = await objects_of(blobs)
    await blobs.stores.current.remove(key)
    with pytest.raises(NotFound, match="are missing from the store"):
        await whole(blobs, tenant, blob)


async def test_processes_agree_on_the_store(fresh: Database, store_settings: dict[str, Any], tenant: int) -> None:
    services = [service(fresh, **store_settings) for _ in range(5)]
    found = await asyncio.gather(*(put(one, tenant, LARGE[: INLINE + 1]) for one in services))
    assert len(set(await asyncio.gather(*(one.stores.current_id() for one in services)))) == 1
    for one in services:
        for blob in found:
            assert await whole(one, tenant, blob) == LARGE[: INLINE + 1]


async def test_a_store_whose_marking_was_interrupted_is_marked_by_the_next_process(
    fresh: Database, blobs: BlobService, tenant: int
) -> None:
    async with fresh.acquire() as connection:
        await store.add_store(connection, uuid7(), blobs.stores.current.url)
    assert await whole(blobs, tenant, await put(blobs, tenant, LARGE)) == LARGE
    assert await query(fresh, "SELECT bool_and(marked), count(*) FROM blob_store") == [(True, 2)]


async def test_the_store_of_another_installation_is_refused(
    fresh: Database, blobs: BlobService, store_settings: dict[str, Any], tenant: int
) -> None:
    await blobs.stores.current.write_mark(str(uuid7()).encode())
    with pytest.raises(BlobStoreUnavailable, match="belongs to another installation"):
        await put(blobs, tenant, LARGE)
    state = await blobs.stores.state()
    assert state.problem is not None
    assert await rows(fresh) == (0, 0, 0)
    assert await whole(blobs, tenant, await put(blobs, tenant, LARGE[:INLINE])) == LARGE[:INLINE]


async def test_a_host_that_does_not_see_the_folder_loses_nothing(fresh: Database, tmp_path: Path, tenant: int) -> None:
    url = (tmp_path / "blobs").as_uri()
    blob = await put(service(fresh, penstock_blob_url=url), tenant, LARGE)
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    away = service(fresh, penstock_blob_url=url)
    for call in (put(away, tenant, LARGE), whole(away, tenant, blob)):
        with pytest.raises(BlobStoreUnavailable, match="every host must see the same folder"):
            await call
    assert not (tmp_path / "blobs").exists()
    (tmp_path / "unmounted").rename(tmp_path / "blobs")
    assert await whole(away, tenant, blob) == LARGE, "without a restart"


async def test_a_host_with_another_folder_says_where_the_file_is(fresh: Database, tmp_path: Path, tenant: int) -> None:
    here, there = (service(fresh, penstock_blob_url=(tmp_path / name).as_uri()) for name in ("here", "there"))
    blob = await put(here, tenant, LARGE)
    with pytest.raises(BlobStoreUnavailable, match=f"{tmp_path}/here, which this process does not use"):
        await whole(there, tenant, blob)
    both = service(
        fresh,
        penstock_blob_url=(tmp_path / "there").as_uri(),
        penstock_blob_previous_urls=((tmp_path / "here").as_uri(),),
    )
    assert await whole(both, tenant, blob) == LARGE


async def test_a_deletion_while_the_store_is_unavailable_is_completed_later(
    fresh: Database, fresh_clock: Clock, tmp_path: Path, tenant: int
) -> None:
    blobs = service(fresh, penstock_blob_url=(tmp_path / "blobs").as_uri())
    blob = await put(blobs, tenant, LARGE)
    restarted = service(fresh, penstock_blob_url=(tmp_path / "blobs").as_uri())
    mark = (tmp_path / "blobs" / MARK).read_bytes()
    (tmp_path / "blobs" / MARK).unlink()
    await restarted.delete(tenant, blob)
    await sweep(fresh, restarted)
    assert await rows(fresh) == (0, 0, 1)
    (tmp_path / "blobs" / MARK).write_bytes(mark)
    await sweep(fresh, restarted)
    assert await rows(fresh) == (0, 0, 1), "it is not tried again at once"
    await fresh_clock.advance(timedelta(minutes=11))
    await sweep(fresh, restarted)
    assert await rows(fresh) == (0, 0, 0)
    assert await objects_of(restarted) == []


async def test_a_later_attempt_of_a_job_removes_the_media_of_earlier_ones(
    fresh: Database, blobs: BlobService, tenant: int
) -> None:
    """An attempt that has lost its lease has a key of its own, and removes nothing of a later one."""
    job, other = uuid7(), uuid7()

    async def kept(of: UUID, epoch: int, size: int) -> UUID:
        await blobs.supersede(tenant, str(of), epoch)
        under = f"{of}/{epoch}/0.png"
        return (await blobs.put(tenant, pieces(LARGE[:size]), media_type=None, filename=None, under=under)).id

    elsewhere = await kept(other, 5, INLINE + 1)
    first = [await kept(job, 9, size) for size in (10,)]
    second = await kept(job, 10, INLINE + 1)
    stale = await kept(job, 8, 20)
    assert [await whole(blobs, tenant, one) for one in (elsewhere, second)] == [LARGE[: INLINE + 1]] * 2
    assert await whole(blobs, tenant, stale) == LARGE[:20]
    for one in first:
        with pytest.raises(NotFound):
            await blobs.get(tenant, one)
    await sweep(fresh, blobs)
    assert await rows(fresh) == (3, 1, 0)


async def test_a_folder_that_is_unmounted_while_it_is_used_loses_nothing(
    fresh: Database, fresh_clock: Clock, tmp_path: Path, tenant: int
) -> None:
    """Its files are not taken for lost, and those that are deleted meanwhile are removed later."""
    blobs = service(fresh, penstock_blob_url=(tmp_path / "blobs").as_uri())
    kept, gone = await put(blobs, tenant, LARGE), await put(blobs, tenant, LARGE)
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    (tmp_path / "blobs").mkdir()
    for call in (whole(blobs, tenant, kept), put(blobs, tenant, LARGE)):
        with pytest.raises(BlobStoreUnavailable):
            await call
    await blobs.delete(tenant, gone)
    assert list((tmp_path / "blobs").iterdir()) == []
    (tmp_path / "blobs").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "blobs")
    assert await whole(blobs, tenant, kept) == LARGE
    assert len(await objects_of(blobs)) == 2
    await fresh_clock.advance(timedelta(days=2))
    await sweep(fresh, blobs)
    assert len(await objects_of(blobs)) == 1
    assert await rows(fresh) == (1, 0, 0)
