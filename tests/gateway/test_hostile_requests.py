"""Invalid and hostile requests: none may end in a 500, and the gateway keeps serving."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.support.gateways import SUBMISSION, HttpCaller

_BEGIN = msgspec.json.encode(SUBMISSION)[:-1]


def with_input(raw: bytes) -> bytes:
    return _BEGIN + b',"input":' + raw + b"}"


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"{", b"\x00", b"\xff\xfe{}", b'{"\xff":1}', b"[" * 600 + b"]" * 600, b'{"a":' * 600, b"[" * 60_000],
)
async def test_a_body_that_is_not_json_is_400_on_every_route(caller: HttpCaller, body: bytes) -> None:
    for path in ("/jobs", "/jobs/batch", "/jobs/claim", "/jobs/complete", "/jobs/heartbeat", "/jobs/retry"):
        reply = await caller.call("POST", path, body=body)
        assert reply.outcome == (400, "malformed_body"), path
        assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"NaN",
        b"-Infinity",
        b"01",
        b"1.",
        b"'x'",
        b'"a\nb"',
        b'"\\x"',
        b"[1,]",
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a":' * 600 + b"1" + b"}" * 600,
        b'"\\"' + b"[" * 600 + b"]" * 600,
        b"1}{",
    ],
)
async def test_an_input_that_is_not_json_is_400(caller: HttpCaller, raw: bytes) -> None:
    reply = await caller.call("POST", "/jobs", body=with_input(raw))
    assert reply.outcome == (400, "malformed_body")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"', b"true"])
async def test_json_that_is_not_an_object_is_422(caller: HttpCaller, body: bytes) -> None:
    for path in ("/jobs", "/jobs/batch", "/jobs/claim", "/jobs/complete", "/jobs/retry"):
        assert (await caller.call("POST", path, body=body)).outcome == (422, "invalid_input")


@pytest.mark.parametrize(
    "raw",
    [
        b"1e400",
        b"123456789012345678901234567890",
        b'{"a":1,"a":2}',
        b"[" * 400 + b"]" * 400,
        b'"' + b"[" * 3000 + b'"',
        b'"\\"[[\\\\"',
        b'"\\ud83d\\ude00 \xf0\x9f\x98\x80"',
        b"-0.0",
        b'{"":""}',
    ],
)
async def test_unusual_but_valid_input_is_stored_unchanged(caller: HttpCaller, raw: bytes) -> None:
    created = await caller.call("POST", "/jobs", body=with_input(raw))
    assert created.status == 201
    read = await caller.get(created.headers["location"])
    assert b'"input":' + raw + b"," in read.body


@pytest.mark.parametrize("raw", [b'"\\u0000"', b'{"\\u0000":1}', b'{"deep":["a\\u0000b"]}'])
async def test_nul_characters_are_refused_or_stored(caller: HttpCaller, raw: bytes) -> None:
    created = await caller.call("POST", "/jobs", body=with_input(raw))
    if created.status == 201:
        assert raw in (await caller.get(created.headers["location"])).body
    else:
        assert (created.outcome, created.fields) == ((422, "invalid_input"), ["input"])


@pytest.mark.parametrize("field", ["owner_service", "owner_ref", "task_type", "idempotency_key"])
async def test_control_characters_in_names_are_refused(caller: HttpCaller, field: str) -> None:
    for text in ("a\x00b", "a\nb", "a\n", "\x7f"):
        assert (await caller.post("/jobs", SUBMISSION | {field: text})).fields == [field]


async def test_sizes_are_limited_per_field_and_per_body(caller: HttpCaller) -> None:
    fits = b'"' + b"x" * (4096 - 2) + b'"'
    assert (await caller.call("POST", "/jobs", body=with_input(fits))).status == 201
    reply = await caller.call("POST", "/jobs", body=with_input(b" " + fits[:-1] + b'x"'))
    assert reply.outcome == (413, "too_large")
    assert "input" in reply.json["detail"]
    assert (await caller.call("POST", "/jobs", body=with_input(fits * 100))).outcome == (413, "too_large")
    assert (await caller.call("POST", "/jobs/claim", body=b" " * 70_000)).outcome == (413, "too_large")
    job = await caller.running(task_type="large-result")
    result = {"epoch": job["epoch"], "result": "x" * 8191}
    assert (await caller.post(f"/jobs/{job['id']}/complete", result)).outcome == (413, "too_large")
    result["result"] = "x" * 8190
    assert (await caller.post(f"/jobs/{job['id']}/complete", result)).status == 200


async def test_progress_and_messages_are_limited_too(caller: HttpCaller) -> None:
    job = await caller.running(task_type="large-reports")
    beat = await caller.post(f"/jobs/{job['id']}/heartbeat", {"epoch": job["epoch"], "progress": "x" * 70_000})
    assert beat.outcome == (413, "too_large")
    failure = {"epoch": job["epoch"], "message": "x" * 10_001}
    assert (await caller.post(f"/jobs/{job['id']}/fail", failure)).fields == ["message"]


async def test_a_chunked_body_is_bounded_while_it_arrives(caller: HttpCaller) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _ = await raw(caller, head + chunk * 3)
    assert status == 413
    pieces = [b"%x\r\n%b\r\n" % (1, byte.to_bytes(1, "big")) for byte in msgspec.json.encode(SUBMISSION)]
    status, _ = await raw(caller, head + b"".join(pieces) + b"0\r\n\r\n")
    assert status == 201


async def test_a_declared_length_beyond_the_limit_is_refused_before_the_body_arrives(caller: HttpCaller) -> None:
    status, _ = await raw(
        caller, b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n"
    )
    assert status == 413


async def test_compressed_bodies_and_other_media_types_are_415(caller: HttpCaller) -> None:
    for headers in (
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "text/plain"},
    ):
        reply = await caller.call("POST", "/jobs", SUBMISSION, headers=headers)
        assert reply.outcome == (415, "unsupported"), headers
    curls_default = "application/x-www-form-urlencoded"
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/x+json", "", curls_default):
        assert (await caller.call("POST", "/jobs", SUBMISSION, headers={"Content-Type": kind})).status == 201


async def test_invalid_http_is_400_and_other_requests_are_served(caller: HttpCaller) -> None:
    assert (await raw(caller, b"HELLO\r\n\r\n"))[0] == 400
    assert (await caller.get("/healthz")).status == 200


async def test_the_gateway_survives_clients_that_leave_during_their_body(caller: HttpCaller) -> None:
    parts = urlsplit(caller.address)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await caller.get("/healthz")).status == 200


async def raw(caller: HttpCaller, request: bytes) -> tuple[int, bytes]:
    """Send exactly these bytes; returns status and head of the response."""
    parts = urlsplit(caller.address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    writer.close()
    return int(head[9:12]), head
