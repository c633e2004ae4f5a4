"""What every store of objects does alike, on a real folder and a real server of S3."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.blobs.objects.contract import MARK, Description, ObjectMissing, ObjectStore
from penstock.blobs.objects.folder import FolderObjects
from penstock.errors import BlobStoreUnavailable

LARGE = random.Random(4).randbytes(12 * 2**20 + 5)  # more than two parts of a multipart upload
WAV = Description(media_type="audio/wav", disposition='attachment; filename="a.wav"')


async def pieces(data: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def write(objects: ObjectStore, key: str, data: bytes) -> None:
    await objects.write(key, pieces(data), WAV)


async def read(objects: ObjectStore, key: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in objects.read(key, start, end)])


@pytest.mark.parametrize("size", [1, 5 * 2**20, 5 * 2**20 + 1, len(LARGE)])
async def test_an_object_reads_back_as_it_was_written(objects: ObjectStore, size: int) -> None:
    await write(objects, "1/uploads/a", LARGE[:size])
    assert await read(objects, "1/uploads/a", 0, size) == LARGE[:size]
    assert await objects.size("1/uploads/a") == size


async def test_any_range_can_be_read(objects: ObjectStore) -> None:
    await write(objects, "1/uploads/a", LARGE)
    for start, end in [(0, 1), (4 * 2**20 - 1, 4 * 2**20 + 1), (7, 9 * 2**20), (len(LARGE) - 1, len(LARGE)), (5, 5)]:
        assert await read(objects, "1/uploads/a", start, end) == LARGE[start:end]


async def test_a_failing_source_leaves_nothing_and_raises_its_own_error(objects: ObjectStore) -> None:
    class Broken(Exception):
        pass

    for after in (1, 40):  # before and after the first part of a multipart upload was sent

        async def breaking(after: int = after) -> AsyncIterator[bytes]:
            async for piece in pieces(LARGE[: after * 300_000]):
                yield piece
            raise Broken

        with pytest.raises(Broken):
            await objects.write("1/uploads/a", breaking(), WAV)
        assert await objects.size("1/uploads/a") is None
    assert await objects.listed(after="", limit=10) == []


async def test_a_missing_object_is_reported_as_missing(objects: ObjectStore) -> None:
    assert await objects.size("1/uploads/none") is None
    with pytest.raises(ObjectMissing):
        await read(objects, "1/uploads/none", 0, 1)
    await objects.remove("1/uploads/none")


async def test_a_removed_object_is_gone(objects: ObjectStore) -> None:
    await write(objects, "1/uploads/a", b"abc")
    await objects.remove("1/uploads/a")
    assert await objects.size("1/uploads/a") is None
    assert await objects.listed(after="", limit=10) == []


async def test_objects_are_listed_in_the_order_of_their_keys(objects: ObjectStore) -> None:
    keys = ["1/a", "1/a-b/c", "1/a/b", "1/a.b", "10/x", "2/job/7/image.png", "2/job/70/image.png"]
    for key in keys if not isinstance(objects, FolderObjects) else [key for key in keys if key != "1/a"]:
        await write(objects, key, key.encode())
    expected = sorted(key for key in keys if key != "1/a" or not isinstance(objects, FolderObjects))
    listed = await objects.listed(after="", limit=100)
    assert [one.key for one in listed] == expected
    assert [one.size for one in listed] == [len(key) for key in expected]
    assert all(abs(one.modified_at - datetime.now(UTC)) < timedelta(minutes=5) for one in listed)
    found, after = [], ""
    while page := await objects.listed(after=after, limit=2):
        found += [one.key for one in page]
        after = page[-1].key
    assert found == expected
    assert [one.key for one in await objects.listed(after="1/a-", limit=1)] == ["1/a-b/c"]


async def test_the_mark_is_written_once(objects: ObjectStore) -> None:
    await objects.write_mark(b"another id")
    assert await objects.read_mark() == b"some id"


@pytest.mark.parametrize(
    "key",
    [
        *("../x", "1/../../x", "/etc/passwd", "1//x", "1/", "", ".", "1/.hidden"),
        *("1/a\0b", "1/a%2f..", "1/ä", "1/a~", "a" * 600, "1/" + "a" * 201),
    ],
)
async def test_a_key_that_could_lead_elsewhere_is_refused(objects: ObjectStore, key: str) -> None:
    for call in (write(objects, key, b"x"), read(objects, key, 0, 1), objects.remove(key), objects.size(key)):
        with pytest.raises(ValueError, match="not the key of an object"):
            await call


async def test_a_folder_follows_no_links(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "blobs")
    await objects.write_mark(b"id")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "blobs/1").mkdir()
    (tmp_path / "blobs/1/link").symlink_to(tmp_path / "secret")
    with pytest.raises(BlobStoreUnavailable):
        await read(objects, "1/link", 0, 6)
    assert await objects.listed(after="", limit=10) == []


async def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "blobs")
    await objects.write_mark(b"id")
    seen: list[list[str]] = []

    async def watched() -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE[:900_000]):
            seen.append(sorted(path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()))
            yield piece

    await objects.write("1/uploads/a", watched(), WAV)
    assert seen == [["a~", MARK]] * 3
    assert sorted(path.name for path in (tmp_path / "blobs/1/uploads").iterdir()) == ["a"]
    assert (tmp_path / "blobs/1/uploads/a").stat().st_mode & 0o077 == 0


async def test_the_remains_of_a_file_of_a_dead_process_are_listed_and_removed(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "blobs")
    await objects.write_mark(b"id")
    (tmp_path / "blobs/1/uploads").mkdir(parents=True)
    (tmp_path / "blobs/1/uploads/a~").write_bytes(b"half")
    assert [one.key for one in await objects.listed(after="", limit=10)] == ["1/uploads/a"]
    assert await objects.size("1/uploads/a") is None
    await objects.remove("1/uploads/a")
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [MARK]


async def test_a_folder_that_is_not_mounted_takes_no_files(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "blobs")
    await objects.write_mark(b"id")
    (tmp_path / "blobs" / MARK).unlink()
    with pytest.raises(BlobStoreUnavailable, match=MARK):
        await write(objects, "1/uploads/a", b"x")


@pytest.mark.parametrize("store_settings", ["s3"], indirect=True)
async def test_a_failed_upload_leaves_no_parts_at_s3(objects: ObjectStore, s3: Any, bucket: str) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await objects.write("1/uploads/a", breaking(), WAV)
    assert await s3.unfinished_uploads(bucket) == 0
