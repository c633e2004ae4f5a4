"""Blobs over HTTP: uploaded in any way, downloaded unchanged, and never shown as a page of this service."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from penstock import BlockingClient, Client, NotFound, Unreachable, errors
from penstock.blobs.blob import PART_BYTES
from penstock.blobs.ranges import UNSATISFIABLE, wanted
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from tests.support.databases import open_database
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

MOST = 3 * 2**20 + 1000
CONTENT = random.Random(2).randbytes(3 * 2**20 + 7)


@pytest.fixture(scope="module")
async def caller(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with running_gateway(
        module_database_url, penstock_max_blob_bytes=MOST, penstock_blob_inline_bytes=PART_BYTES
    ) as caller:
        yield caller


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    """The gateway's database, seen from outside."""
    async with open_database(module_database_url) as database:
        yield database


async def put(caller: HttpCaller, data: bytes, media_type: str = "audio/wav", *, filename: str = "") -> Reply:
    url = f"{caller.address}/api/v1/blobs"
    async with caller.session.post(
        url,
        data=io.BytesIO(data),
        headers={"Content-Type": media_type},
        params={"filename": filename} if filename else {},
    ) as response:
        return Reply(status=response.status, headers=response.headers.copy(), body=await response.read())


async def kept(caller: HttpCaller, data: bytes, media_type: str = "audio/wav", *, filename: str = "") -> dict[str, Any]:
    """Upload a blob and return it."""
    reply = await put(caller, data, media_type, filename=filename)
    assert reply.status == 201, reply.body
    blob: dict[str, Any] = reply.json
    assert reply.headers["Location"] == f"/api/v1/blobs/{blob['id']}"
    return blob


async def rows(database: Database) -> list[int]:
    """Return the numbers of blobs and parts in the database."""
    async with database.acquire() as connection:
        return [int(await connection.fetchval(f"SELECT count(*) FROM {table}")) for table in ("blob", "blob_part")]


@pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, len(CONTENT)])
async def test_a_round_trip(caller: HttpCaller, size: int) -> None:
    data = CONTENT[:size]
    blob = await kept(caller, data, filename="meeting.wav")
    assert blob["sha256"] == hashlib.sha256(data).hexdigest()
    assert (blob["size_bytes"], blob["media_type"], blob["filename"]) == (size, "audio/wav", "meeting.wav")
    assert (await caller.get(f"/blobs/{blob['id']}/info")).json == blob
    reply = await caller.get(f"/blobs/{blob['id']}")
    assert (reply.status, reply.body) == (200, data)
    assert reply.headers["Content-Type"] == "audio/wav"
    assert reply.headers["Content-Length"] == str(size)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Disposition"] == "attachment; filename=\"meeting.wav\"; filename*=UTF-8''meeting.wav"
    head = await caller.call("HEAD", f"/blobs/{blob['id']}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(size), b"")


async def test_ranges(caller: HttpCaller) -> None:
    path = f"/blobs/{(await kept(caller, CONTENT))['id']}"
    size = len(CONTENT)
    for requested, span in {
        "bytes=0-0": slice(0, 1),
        "bytes=524287-524288": slice(PART_BYTES - 1, PART_BYTES + 1),
        "bytes=3000000-": slice(3_000_000, size),
        "bytes=-7": slice(size - 7, size),
        "bytes=100-99999999999": slice(100, size),
    }.items():
        reply = await caller.get(path, Range=requested)
        assert (reply.status, reply.body) == (206, CONTENT[span]), requested
        assert reply.headers["Content-Range"] == f"bytes {span.start}-{span.stop - 1}/{size}"
        assert reply.headers["Content-Length"] == str(span.stop - span.start)
    behind = await caller.get(path, Range=f"bytes={size}-")
    assert (behind.status, behind.headers["Content-Range"], behind.body) == (416, f"bytes */{size}", b"")
    for requested in ("bytes=0-1,4-5", "lines=1-2", "bytes=5-1", "bytes=-", "nonsense"):
        assert (await caller.get(path, Range=requested)).status == 200, requested
    etag = (await caller.get(path)).headers["ETag"]
    assert (await caller.get(path, Range="bytes=0-0", If_Range=etag)).status == 206
    assert (await caller.get(path, Range="bytes=0-0", If_Range='"other"')).status == 200
    assert (await caller.call("HEAD", path, headers={"Range": "bytes=0-0"})).headers["Content-Length"] == str(size)


def test_ranges_are_cut_to_the_size_of_the_blob() -> None:
    assert wanted("bytes=-100", 10) == range(10)
    assert wanted("bytes=-0", 10) is UNSATISFIABLE
    assert wanted("bytes=10-", 10) is UNSATISFIABLE
    assert wanted("bytes=9-", 10) == range(9, 10)
    assert wanted(None, 10) is None


async def test_a_form_with_one_file(caller: HttpCaller, database: Database) -> None:
    before = await rows(database)
    form = aiohttp.FormData(quote_fields=False)  # as browsers do
    form.add_field("file", io.BytesIO(CONTENT), filename="dir/söng.mp3", content_type="audio/mpeg")
    async with caller.session.post(f"{caller.address}/api/v1/blobs", data=form) as response:
        assert response.status == 201
        blob = await response.json()
    assert (blob["media_type"], blob["filename"], blob["size_bytes"]) == ("audio/mpeg", "söng.mp3", len(CONTENT))
    assert (await caller.get(f"/blobs/{blob['id']}")).body == CONTENT
    after = await rows(database)
    for fields, status, blamed in (
        ({"file": b"a", "other": b"b"}, 422, "body"),
        ({"file": b"a", "note": "text"}, 422, "note"),
        ({"file": b""}, 422, "body"),
        ({"file": CONTENT + bytes(2000)}, 413, None),
    ):
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in fields.items():
            if isinstance(value, bytes):
                form.add_field(name, io.BytesIO(value), filename=name)
            else:
                form.add_field(name, value)
        async with caller.session.post(f"{caller.address}/api/v1/blobs", data=form) as response:
            content = await response.json()
            assert response.status == status, content
            assert blamed is None or [problem["field"] for problem in content["errors"]] == [blamed]
    nothing = await put(caller, b"--x--\r\n", "multipart/form-data; boundary=x")
    assert nothing.status in {400, 422}
    assert (await put(caller, b"--x", "multipart/form-data; boundary=x")).status == 400
    assert before != after == await rows(database)


async def test_the_file_of_a_form_is_stored_while_it_arrives(caller: HttpCaller, database: Database) -> None:
    """However large it is, it is never in memory as a whole."""
    before = await rows(database)
    boundary = b"--x\r\n"
    head = b'Content-Disposition: form-data; name="f"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'

    async def one_part() -> bool:
        return (await rows(database))[1] > before[1]

    async def form(ending: bytes) -> AsyncIterator[bytes]:
        yield boundary + head + CONTENT[: PART_BYTES + 5]
        await until(one_part, "the first part is stored before the form ends")
        yield CONTENT[PART_BYTES + 5 :] + ending

    async def upload(ending: bytes) -> tuple[int, Any]:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        url = f"{caller.address}/api/v1/blobs"
        async with caller.session.post(url, data=form(ending), headers=headers) as response:
            return response.status, await response.json()

    for ending, status in (
        (b"\r\n--x\r\n" + head + b"another\r\n--x--\r\n", 422),
        (b'\r\n--x\r\nContent-Disposition: form-data; name="note"\r\n\r\ntext\r\n--x--\r\n', 422),
        (b"", 400),
        (b"\r\n--x\r\n" + b"X-A: b\r\n" * 10 + b"\r\n\r\n--x--\r\n", 400),
    ):
        assert (await upload(ending))[0] == status
        assert await rows(database) == before, "a form that ends differently leaves nothing"
    status, blob = await upload(b"\r\n--x--\r\n")
    assert (status, blob["size_bytes"], blob["sha256"]) == (201, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


async def test_a_part_with_too_many_headers_is_refused(caller: HttpCaller) -> None:
    many = b"".join(b"X-%d: b\r\n" % number for number in range(40))
    reply = await put(caller, b"--x\r\n" + many + b"\r\na\r\n--x--\r\n", "multipart/form-data; boundary=x")
    assert reply.outcome == (400, "malformed_body")


async def test_too_large(caller: HttpCaller, database: Database) -> None:
    before = await rows(database)
    declared = await put(caller, bytes(MOST + 1))
    assert declared.outcome == (413, "too_large")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MOST // 2**16 + 2):
            yield bytes(2**16)

    async with caller.session.post(f"{caller.address}/api/v1/blobs", data=endless()) as response:
        assert response.status == 413
    assert await rows(database) == before
    assert (await put(caller, bytes(MOST))).status == 201


async def test_no_bytes_and_no_media_type(caller: HttpCaller) -> None:
    for body in (b"", None):
        reply = await caller.call("POST", "/blobs", body=body, headers={"Content-Type": "audio/wav"})
        assert (reply.status, reply.fields) == (422, ["body"])
    assert (await put(caller, b"x", "nonsense")).fields == ["media_type"]
    assert (await caller.post("/blobs?name=x")).fields == ["name"]
    assert (await caller.call("POST", "/blobs", body=b"x", headers={"Content-Encoding": "gzip"})).status == 415


async def test_an_interrupted_upload_leaves_nothing(caller: HttpCaller, database: Database) -> None:
    before = await rows(database)
    parts = urlsplit(caller.address)
    for framing in (b"Content-Length: 3000000", b"Transfer-Encoding: chunked"):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"POST /api/v1/blobs HTTP/1.1\r\nHost: 127.0.0.1\r\n" + framing + b"\r\n\r\n")
        data = CONTENT[: PART_BYTES + 5]
        writer.write(data if b"Length" in framing else b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()

        async def one_more() -> bool:
            return (await rows(database))[1] == before[1] + 1

        await until(one_more, "the first part has come")
        writer.close()
        await writer.wait_closed()
        await until(lambda: not caller.in_progress, "the gateway has detected it")
        assert await rows(database) == before


async def test_missing_blobs_are_not_found(caller: HttpCaller) -> None:
    missing = "01990000-0000-7000-8000-000000000001"
    for method, path in (("GET", ""), ("GET", "/info"), ("DELETE", "")):
        assert (await caller.call(method, f"/blobs/{missing}{path}")).outcome == (404, "not_found")
        assert (await caller.call(method, f"/blobs/x{path}")).fields == ["id"]
    assert (await caller.get("/blobs")).status == 405


async def test_deleting(caller: HttpCaller, database: Database) -> None:
    path = f"/blobs/{(await kept(caller, CONTENT))['id']}"
    before = await rows(database)
    reply = await caller.call("DELETE", path)
    assert (reply.status, reply.body) == (204, b"")
    assert await rows(database) == [before[0] - 1, before[1] - 7]
    for method in ("GET", "DELETE", "HEAD"):
        assert (await caller.call(method, path)).status == 404


@pytest.mark.parametrize(
    ("stated", "sent"),
    [
        ("../../etc/passwd", "attachment; filename=\"passwd\"; filename*=UTF-8''passwd"),
        ('a"; x="y.wav', "attachment; filename=\"a_; x=_y.wav\"; filename*=UTF-8''a%22%3B%20x%3D%22y.wav"),
        ("a\r\nX-Evil: 1", "attachment; filename=\"aX-Evil: 1\"; filename*=UTF-8''aX-Evil%3A%201"),
        ("söng €.mp3", "attachment; filename=\"s_ng _.mp3\"; filename*=UTF-8''s%C3%B6ng%20%E2%82%AC.mp3"),
        ("100%41.wav", "attachment; filename=\"100_41.wav\"; filename*=UTF-8''100%2541.wav"),
        ("..", "attachment"),
    ],
)
async def test_hostile_filenames(caller: HttpCaller, stated: str, sent: str) -> None:
    blob = await kept(caller, b"<script>", "text/html", filename=stated)
    reply = await caller.get(f"/blobs/{blob['id']}")
    assert reply.headers["Content-Disposition"] == sent
    assert "X-Evil" not in reply.headers
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in reply.headers["Content-Security-Policy"]


async def test_a_blob_deleted_while_it_is_read_is_not_mistaken_for_complete(
    caller: HttpCaller, database: Database
) -> None:
    """The connection ends before the announced length."""
    blob = await kept(caller, CONTENT)
    async with database.acquire() as connection:
        await connection.execute(
            "DELETE FROM blob_part WHERE key = (SELECT key FROM blob WHERE id = $1) AND number = 3", blob["id"]
        )
    with pytest.raises(aiohttp.ClientPayloadError):
        await caller.get(f"/blobs/{blob['id']}")


async def test_a_reader_that_leaves_is_noticed(caller: HttpCaller) -> None:
    blob = await kept(caller, CONTENT)
    response = await caller.session.get(f"{caller.address}/api/v1/blobs/{blob['id']}")
    await response.content.read(1)
    response.close()
    await until(lambda: not caller.in_progress, "the gateway has detected it")


async def test_an_expired_blob_is_not_found(caller: HttpCaller, database: Database) -> None:
    blob = await kept(caller, b"old")
    async with database.acquire() as connection:
        await connection.execute(
            "UPDATE blob SET created_at = clock() - interval '2 days', expires_at = clock() WHERE id = $1", blob["id"]
        )
    assert (await caller.get(f"/blobs/{blob['id']}")).status == 404
    assert (await caller.get(f"/blobs/{blob['id']}/info")).status == 404


async def test_the_client(caller: HttpCaller, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(CONTENT)
    async with Client(caller.address) as client:
        blob = await client.upload(file)
        assert (blob.media_type, blob.filename, blob.size_bytes) == ("audio/x-wav", "a.wav", len(CONTENT))
        found = await client.download(blob.id)
        assert (found.data, found.media_type, found.name) == (CONTENT, blob.media_type, "a.wav")
        assert await client.blob(str(blob.id)) == blob
        await client.delete_blob(blob.id)
        for call in (client.download(blob.id), client.delete_blob(blob.id), anext(client.download_pieces(blob.id))):
            with pytest.raises(NotFound):
                await call
        small = await client.upload(b"abc", "audio/x-own")
        assert (small.media_type, small.filename) == ("audio/x-own", None)
        with pytest.raises(errors.TooLarge):
            await client.upload(bytes(MOST + 1))
        with pytest.raises(errors.InvalidInput):
            await client.upload(b"")
        with pytest.raises(FileNotFoundError):
            await client.upload(tmp_path / "none")
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unreachable):
            await client.upload(b"x")

    def work() -> bytes:
        with BlockingClient(caller.address) as client:
            found: bytes = client.download(client.upload(b"blocking").id).data
            return found

    assert await asyncio.to_thread(work) == b"blocking"


async def test_the_command_line(caller: HttpCaller, tmp_path: Path) -> None:
    environment = clean_environment(PENSTOCK_URL=caller.address)
    (tmp_path / "a.wav").write_bytes(CONTENT)

    async def run(*arguments: str) -> tuple[int | None, bytes]:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        async with penstock("blob", *arguments, environment=environment, folder=tmp_path, log=log) as process:
            status = await asyncio.wait_for(process.wait(), 20)
        return status, log.read_bytes()

    status, text = await run("put", "a.wav")
    blob = Reply(status=200, headers={}, body=text).json
    assert (status, blob["size_bytes"]) == (0, len(CONTENT))
    assert await run("get", blob["id"]) == (0, CONTENT)
    assert await run("get", blob["id"], "-o", "b.wav") == (0, b"")
    assert (tmp_path / "b.wav").read_bytes() == CONTENT
    assert (await run("delete", blob["id"]))[0] == 0
    status, text = await run("get", blob["id"], "-o", "c.wav")
    assert (status, b"there is no blob" in text) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "log"]
    assert (await run("put", "none"))[0] == 2
