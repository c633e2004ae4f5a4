"""Blobs in the database: stored whole or not at all, in parts, and deleted once they expire."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from penstock.assembly.housekeeper import HousekeeperAssembly
from penstock.blobs import store
from penstock.blobs.blob import PART_BYTES, POSTGRES, Blob, Place
from penstock.blobs.service import BlobService
from penstock.errors import InvalidInput, NotFound, TooLarge
from penstock.housekeeping.sweeper import Sweeper
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import own_tenant, query
from tests.support.gateways import settings_for
from tests.support.waiting import within

KEEP = timedelta(days=30)
MOST = 4 * PART_BYTES
CONTENT = random.Random(1).randbytes(MOST)


@pytest.fixture
def blobs(fresh: Database) -> BlobService:
    """A service on a database that only this test uses."""
    return BlobService(fresh, max_bytes=MOST, keep=KEEP)


@pytest.fixture
async def tenant(fresh: Database) -> int:
    return await own_tenant(fresh)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def put(blobs: BlobService, tenant: int, data: bytes, **said: Any) -> Blob:
    return await blobs.put(tenant, pieces(data), **({"media_type": "audio/wav", "filename": "a.wav"} | said))


async def whole(blobs: BlobService, tenant: int, blob_id: UUID, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in blobs.read(tenant, blob_id, start, end)])


async def counts(database: Database) -> tuple[int, int]:
    """Return the numbers of blobs and of parts."""
    rows = await query(database, "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_part)")
    return rows[0][0], rows[0][1]


async def sweep(database: Database) -> None:
    while await sweeper(database).once():
        pass


def sweeper(database: Database) -> Sweeper:
    return Sweeper(database, BlobService(database, max_bytes=MOST, keep=KEEP))


async def begun(database: Database, tenant: int, parts: int) -> Place:
    """Begin an upload in PostgreSQL that is never finished."""
    place = Place(POSTGRES, f"{tenant}/uploads/{uuid7()}")
    async with database.acquire() as connection:
        await store.begin(connection, tenant, place)
        for number in range(parts):
            assert await store.put_part(connection, tenant, place, number, b"x")
    return place


@pytest.mark.parametrize("size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, MOST])
async def test_a_blob_reads_back_as_it_was_stored(fresh: Database, blobs: BlobService, tenant: int, size: int) -> None:
    data = CONTENT[:size]
    blob = await put(blobs, tenant, data)
    assert (blob.size_bytes, blob.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert blob.expires_at - blob.created_at == KEEP
    assert await blobs.get(tenant, blob.id) == blob
    assert await whole(blobs, tenant, blob.id) == data
    assert await counts(fresh) == (1, -(-size // PART_BYTES))


async def test_any_range_can_be_read(blobs: BlobService, tenant: int) -> None:
    data = CONTENT[: 2 * PART_BYTES + 10]
    blob = await put(blobs, tenant, data)
    edges = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, len(data)]
    for start in edges:
        for end in edges:
            assert await whole(blobs, tenant, blob.id, start, end) == data[start:end]
    assert await whole(blobs, tenant, blob.id, 5, 10**12) == data[5:]


async def test_media_are_not_compressed_again(fresh: Database, blobs: BlobService, tenant: int) -> None:
    await put(blobs, tenant, bytes(PART_BYTES))
    ((stored,),) = await query(fresh, "SELECT pg_column_size(data) FROM blob_part")
    assert stored >= PART_BYTES


async def test_pieces_of_any_size_make_the_same_blob(blobs: BlobService, tenant: int) -> None:
    for size in (7_001, PART_BYTES, 3 * PART_BYTES, MOST):
        blob = await blobs.put(tenant, pieces(CONTENT, size), media_type=None, filename=None)
        assert await whole(blobs, tenant, blob.id) == CONTENT


async def test_too_many_bytes_are_refused_while_they_arrive(fresh: Database, blobs: BlobService, tenant: int) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += PART_BYTES
            yield bytes(PART_BYTES)

    with pytest.raises(TooLarge):
        await blobs.put(tenant, endless(), media_type=None, filename=None)
    assert taken == MOST + PART_BYTES
    assert await counts(fresh) == (0, 0)


async def test_an_empty_upload_is_refused(fresh: Database, blobs: BlobService, tenant: int) -> None:
    with pytest.raises(InvalidInput) as refused:
        await put(blobs, tenant, b"")
    assert [problem.field for problem in refused.value.problems] == ["body"]
    assert await counts(fresh) == (0, 0)


async def test_an_upload_that_breaks_leaves_nothing(fresh: Database, blobs: BlobService, tenant: int) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield CONTENT
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(tenant, breaking(), media_type=None, filename=None)
    assert await counts(fresh) == (0, 0)


async def test_a_cancelled_upload_leaves_nothing(fresh: Database, blobs: BlobService, tenant: int) -> None:
    waiting = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield CONTENT[: PART_BYTES + 1]
        waiting.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(blobs.put(tenant, hanging(), media_type=None, filename=None))
    await within(waiting.wait())
    assert await counts(fresh) == (0, 1)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await counts(fresh) == (0, 0)


async def test_an_upload_in_progress_holds_no_transaction(fresh: Database, blobs: BlobService, tenant: int) -> None:
    """Readers of events wait for the oldest transaction that writes."""
    waiting, resumed = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CONTENT[:PART_BYTES]
        waiting.set()
        await resumed.wait()
        yield b"end"

    upload = asyncio.create_task(blobs.put(tenant, slow(), media_type=None, filename=None))
    await within(waiting.wait())
    open_ones = await query(
        fresh,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_xid IS NOT NULL",
    )
    assert open_ones == []
    resumed.set()
    assert (await within(upload)).size_bytes == PART_BYTES + 3


async def test_another_tenants_blob_is_not_found(fresh: Database, blobs: BlobService, tenant: int) -> None:
    blob = await put(blobs, tenant, b"secret")
    stranger = await own_tenant(fresh)
    with pytest.raises(NotFound):
        await blobs.get(stranger, blob.id)
    with pytest.raises(NotFound):
        await whole(blobs, stranger, blob.id)
    with pytest.raises(NotFound):
        await blobs.delete(stranger, blob.id)
    place = (await blobs.find(tenant, blob.id)).place
    async with fresh.acquire() as connection:
        assert await store.drop_parts(connection, stranger, place, limit=100) == 0
    assert await whole(blobs, tenant, blob.id) == b"secret"


async def test_a_deleted_blob_is_gone_with_its_parts(fresh: Database, blobs: BlobService, tenant: int) -> None:
    blob, other = await put(blobs, tenant, CONTENT), await put(blobs, tenant, b"other")
    reading = blobs.read(tenant, blob.id)
    assert await anext(reading) == CONTENT[:PART_BYTES]
    await blobs.delete(tenant, blob.id)
    with pytest.raises(NotFound, match="while it was read"):
        await anext(reading)
    for call in (blobs.get(tenant, blob.id), blobs.delete(tenant, blob.id), whole(blobs, tenant, uuid7())):
        with pytest.raises(NotFound):
            await call
    assert await counts(fresh) == (1, 1)
    assert await whole(blobs, tenant, other.id) == b"other"


async def test_parts_of_a_blob_cannot_be_dropped(fresh: Database, blobs: BlobService, tenant: int) -> None:
    blob = await put(blobs, tenant, CONTENT)
    place = (await blobs.find(tenant, blob.id)).place
    async with fresh.acquire() as connection:
        assert await store.drop_parts(connection, tenant, place, limit=100) == 0
    assert await whole(blobs, tenant, blob.id) == CONTENT


async def test_blobs_expire_and_are_swept(fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int) -> None:
    old = await put(blobs, tenant, CONTENT)
    await fresh_clock.advance(KEEP - timedelta(hours=1))
    young = await put(blobs, await own_tenant(fresh), CONTENT)
    assert await whole(blobs, tenant, old.id) == CONTENT
    await fresh_clock.advance(timedelta(hours=2))
    for call in (blobs.get(tenant, old.id), blobs.delete(tenant, old.id)):
        with pytest.raises(NotFound):
            await call
    assert await counts(fresh) == (2, 8)
    await sweep(fresh)
    assert await query(fresh, "SELECT id FROM blob") == [(young.id,)]
    assert await query(fresh, "SELECT count(*) FROM blob_part") == [(4,)]
    assert await query(fresh, "SELECT * FROM blob_leftover") == []


async def test_unfinished_uploads_are_swept_after_a_day(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    kept = await put(blobs, tenant, CONTENT[: 3 * PART_BYTES])
    for parts in (1, 2, 1):
        await begun(fresh, tenant, parts)
    await fresh_clock.advance(timedelta(hours=23))
    await sweep(fresh)
    assert await counts(fresh) == (1, 7)
    await fresh_clock.advance(timedelta(hours=2))
    await sweep(fresh)
    assert await counts(fresh) == (1, 3)
    assert await whole(blobs, tenant, kept.id) == CONTENT[: 3 * PART_BYTES]


async def test_parts_of_an_expired_blob_left_by_a_dead_process_are_swept(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    blob = await put(blobs, tenant, CONTENT)
    async with fresh.acquire() as connection:
        place = await store.remove(connection, tenant, blob.id)
        assert place is not None
        assert await store.drop_parts(connection, tenant, place, limit=1) == 1
    await sweep(fresh)
    assert await counts(fresh) == (0, 0)


async def test_an_upload_that_lasts_too_long_is_refused_before_its_parts_are_swept(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    async def lasting(last: bytes) -> AsyncIterator[bytes]:
        yield CONTENT[: PART_BYTES + 1]
        await fresh_clock.advance(timedelta(hours=13))
        yield last

    for last in (b"", CONTENT[:PART_BYTES]):  # the blob is refused, or already its next part
        with pytest.raises(InvalidInput, match="twelve hours"):
            await blobs.put(tenant, lasting(last), media_type=None, filename=None)
    await fresh_clock.advance(timedelta(hours=13))
    await sweep(fresh)
    assert await counts(fresh) == (0, 0)


def test_sweeping_is_a_duty_of_the_housekeeper(fresh: Database) -> None:
    duties = HousekeeperAssembly(settings_for(fresh.url)).housekeeper.duties
    assert any(isinstance(duty, Sweeper) for duty in duties)


async def test_two_housekeepers_may_sweep_at_once(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    await asyncio.gather(*(put(blobs, tenant, CONTENT[: 2 * PART_BYTES]) for _ in range(6)))
    await fresh_clock.advance(KEEP + timedelta(days=1))
    await within(asyncio.gather(sweep(fresh), sweep(fresh), sweep(fresh)))
    await sweep(fresh)
    assert await counts(fresh) == (0, 0)


async def test_a_sweep_covers_any_number_of_blobs(
    fresh: Database, fresh_clock: Clock, blobs: BlobService, tenant: int
) -> None:
    key = f"'{tenant}/uploads/' || n"
    async with fresh.acquire() as connection:
        await connection.execute(
            "INSERT INTO blob_part (tenant_id, key, number, data)"
            f" SELECT $1, {key}, 0, 'x' FROM generate_series(1, 250) n",
            tenant,
        )
        await connection.execute(
            "INSERT INTO blob (tenant_id, id, media_type, size_bytes, sha256, created_at, expires_at, store_id, key)"
            f" SELECT $1, gen_random_uuid(), 'a/b', 1, repeat('0', 64), clock(), clock() + '1 day', $2, {key}"
            " FROM generate_series(1, 120) n",
            tenant,
            POSTGRES,
        )
        await connection.execute(
            "INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)"
            f" SELECT $1, $2, {key}, clock() FROM generate_series(121, 250) n",
            tenant,
            POSTGRES,
        )
    await fresh_clock.advance(timedelta(days=2))
    assert await sweeper(fresh).once(), "there is more"
    await sweep(fresh)
    assert await counts(fresh) == (0, 0)


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\söng.mp3", "söng.mp3"),
        ('a"b;c\r\nX-Evil: 1.wav', 'a"b;cX-Evil: 1.wav'),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("nul\0l.wav", "null.wav"),
        ("\ud800.wav", ".wav"),
        ("..", None),
        ("a/", None),
        (" ", None),
        ("", None),
        (None, None),
        ("日本語.flac", "日本語.flac"),
        ("a" * 500 + ".wav", "a" * 196 + ".wav"),
        ("." + "a" * 500, "." + "a" * 199),
    ],
)
async def test_filenames_are_made_safe(blobs: BlobService, tenant: int, stated: str | None, kept: str | None) -> None:
    assert (await put(blobs, tenant, b"x", filename=stated)).filename == kept


@pytest.mark.parametrize(
    "stated", ["audio", "audio/", "a/b\r\nX: 1", "a/b; c", "a/b\0", "ä/b", "a/" + "b" * 300, "a b/c", 'a/b; c="\x7f"']
)
async def test_a_text_that_is_not_a_media_type_is_refused(blobs: BlobService, tenant: int, stated: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await put(blobs, tenant, b"x", media_type=stated)
    assert [problem.field for problem in refused.value.problems] == ["media_type"]


async def test_media_types_keep_their_parameters(blobs: BlobService, tenant: int) -> None:
    for stated in ("audio/ogg; codecs=opus", 'text/plain;charset="utf-8"'):
        assert (await put(blobs, tenant, b"x", media_type=stated)).media_type == stated
    for nothing in (None, "", "application/x-www-form-urlencoded"):
        assert (await put(blobs, tenant, b"x", media_type=nothing)).media_type == "application/octet-stream"
