"""The http runtime: its requests, the meaning of each response, and the secrets that it keeps."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import html
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from penstock.failures import CallFailed, Category
from penstock.masking import MASK, Masker
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Call, Output, Schema, Segment, Spec
from penstock.models.replica.runtimes.http import HttpRuntime
from tests.support.http_servers import closed_port, hanging, raw_server, responding, sending, serving, streaming
from tests.support.runtimes import CollectingWire, call_with, data_of, read
from tests.support.waiting import until

MEDIA: dict[str, Any] = {"type": "object", "properties": {"image": {"type": "string", "format": "media"}}}


@asynccontextmanager
async def runtime(url: str, *, schema: Schema | None = None, **options: Any) -> AsyncIterator[HttpRuntime]:
    """Yield the runtime of a manifest with these options."""
    stated = {"url": url} | options
    assert not HttpRuntime.check(stated, Path("/"))
    made = HttpRuntime(
        Spec(name="m", version="1", folder=Path("/"), options=stated, schema=schema or Schema(), timeout=5)
    )
    try:
        yield made
    finally:
        await made.unload()


async def test_media_are_sent_as_files_of_a_form(tmp_path: Path) -> None:
    """They are read from their files as they are sent, and so are those that the caller wrote into the JSON."""
    (tmp_path / "talk").write_bytes(b"talk" * 2**19)
    big = Segment(FileBytes(str(tmp_path / "talk"), 2**21), "audio/wav", ("deep", 0), "talk.wav")
    async with serving(responding({"answer": 42})) as seen:
        given = {"deep": [None], "image": "data:image/png;base64,AAAA"}
        assert read(await ask(seen.address, given, big, media="form", schema=Schema(input=MEDIA))) == {"answer": 42}
        kind, body = seen.headers[0]["Content-Type"], seen.bodies[0]
    assert kind.startswith("multipart/form-data; boundary=")
    parsed = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
    parts = [(part.get_param("name", header="content-disposition"), part.get_filename(), part.get_content_type(),
              part.get_payload(decode=True)) for part in parsed.iter_parts()]  # fmt: skip
    assert parts == [
        ("input", None, "application/json", b'{"deep":[null],"image":null}'),
        ("deep[0]", "talk.wav", "audio/wav", b"talk" * 2**19),
        ("image", "image", "image/png", b"\0\0\0"),
    ]


async def test_a_large_response_is_a_file_of_the_call(tmp_path: Path) -> None:
    """It never is in memory as a whole; ``max_bytes`` bounds it."""
    film = bytes(range(256)) * 2**14

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=film, content_type="video/mp4")

    async with serving(answer) as seen, runtime(seen.address) as made:
        call = call_with(CollectingWire(tmp_path / "files"), {"text": "hi"})
        output = await made.predict(call)
        assert output is not None
        (segment,) = output.segments
        assert isinstance(segment.data, FileBytes)
        assert (segment.media_type, segment.data.whole()) == ("video/mp4", film)
        assert Path(segment.data.path).parent == call.folder()
    async with serving(answer) as seen, runtime(seen.address, max_bytes=2**20) as made:
        with pytest.raises(CallFailed, match="response exceeds 1048576 bytes"):
            await made.predict(call_with(CollectingWire(tmp_path / "others"), {"text": "hi"}))


async def ask(url: str, value: Any = None, *segments: Segment, **options: Any) -> Output:
    async with runtime(url, **options) as made:
        output = await made.predict(call_with(CollectingWire(), value or {"text": "hi"}, *segments))
        assert output is not None
        return output


async def test_the_input_is_posted_as_it_is() -> None:
    """The manifest has only an address. The call's id lets the server recognise a repetition."""
    async with serving(responding({"answer": 42})) as seen:
        assert read(await ask(seen.address, {"text": "hi"})) == {"answer": 42}
        assert seen.json == {"text": "hi"}
        assert seen.headers[0]["Content-Type"] == "application/json"
        assert seen.headers[0]["Idempotency-Key"] == "request-1"


async def test_path_headers_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request has the path, headers and key that the manifest states."""
    monkeypatch.setenv("MODEL_TOKEN", "sk-canary")
    async with serving(responding({"predictions": [1], "other": 2})) as seen:
        options: dict[str, Any] = {
            "path": "/v1/predict",
            "headers": {"X-Kind": "test", "Authorization": "env:MODEL_TOKEN"},
            "input_key": "instances",
            "output_key": "predictions",
        }
        assert read(await ask(seen.address, **options)) == [1]
        assert seen.paths == ["/v1/predict"]
        assert seen.json == {"instances": {"text": "hi"}}
        assert (seen.headers[0]["X-Kind"], seen.headers[0]["Authorization"]) == ("test", "sk-canary")
        with pytest.raises(CallFailed, match="has no member 'missing'"):
            await ask(seen.address, output_key="missing")


async def test_a_variable_that_is_not_set_is_named() -> None:
    """The error is raised when the model is loaded."""
    with pytest.raises(CallFailed, match="NO_SUCH_VARIABLE is not set") as caught:
        async with runtime("http://127.0.0.1:1", headers={"Authorization": "env:NO_SUCH_VARIABLE"}):
            pass
    assert caught.value.category == "unavailable"


@pytest.mark.parametrize(("media", "sent"), [("data_url", "data:image/png;base64,iVBO"), ("base64", "iVBO")])
@pytest.mark.parametrize("written", [False, True])
async def test_media_go_as_the_manifest_says(media: str, sent: str, written: bool) -> None:
    """It makes no difference whether the media arrived beside the JSON or inside it."""
    schema = Schema(input=MEDIA)
    async with serving(responding({})) as seen:
        if written:
            await ask(seen.address, {"image": "data:image/png;base64,iVBO"}, schema=schema, media=media)
        else:
            segment = Segment(base64.b64decode("iVBO"), "image/png", ("image",))
            await ask(seen.address, {"image": None}, segment, schema=schema, media=media)
        assert seen.json == {"image": sent}


async def test_media_as_urls_are_passed_on_and_bytes_are_refused() -> None:
    """The manifest says that the server fetches media itself."""
    schema = Schema(input=MEDIA)
    async with serving(responding({})) as seen:
        await ask(seen.address, {"image": "https://h/a.png"}, schema=schema, media="url")
        assert seen.json == {"image": "https://h/a.png"}
        with pytest.raises(CallFailed, match="must be a URL") as caught:
            await ask(seen.address, {"image": None}, Segment(b"x", "image/png", ("image",)), schema=schema, media="url")
    assert (caught.value.category, caught.value.field) == ("bad_input", "image")


async def test_media_come_back_as_bytes_or_inside_json() -> None:
    """A picture is the whole output; a data: URL is lifted where the schema says so."""
    async with serving(sending(b"PNG", "image/png")) as seen:
        output = await ask(seen.address)
        assert (data_of(output.segments), output.segments[0].media_type) == ([b"PNG"], "image/png")
    async with serving(responding({"image": "data:image/gif;base64,R0lG"})) as seen:
        output = await ask(seen.address, schema=Schema(output=MEDIA))
        assert (read(output), data_of(output.segments)) == ({"image": None}, [b"GIF"])


@pytest.mark.parametrize("stream", ["sse", "ndjson"])
async def test_responses_in_parts(stream: str) -> None:
    """The response may be cut anywhere, even inside a character."""
    text = {
        "sse": 'data: {"a": "ü"}\n\n: a comment\n\nevent: x\r\ndata: 2\r\n\r\ndata: [DONE]\n\ndata: 3\n\n',
        "ndjson": '{"a": "ü"}\n\n2\n',
    }[stream].encode()
    for size in (1, 3, 7, len(text)):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        async with serving(streaming(pieces)) as seen, runtime(seen.address, stream=stream) as made:
            wire = CollectingWire()
            assert await made.predict(call_with(wire, {}, streams=True)) is None
            assert wire.values == [{"a": "ü"}, 2]
            assert made.describe().streams


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, "bad_input", "refuses the input"),
        (422, "bad_input", "refuses the input"),
        (401, "provider_error", r"check \[http\] headers"),
        (404, "provider_error", r"check \[http\] url"),
        (408, "timeout", "timed out"),
        (504, "timeout", "timed out"),
        (500, "provider_error", "failed"),
        (503, "provider_error", "failed"),
        (418, "provider_error", "unexpectedly"),
        (301, "provider_error", "redirects"),
    ],
)
async def test_each_status_becomes_its_category_of_failure(status: int, kind: str, said: str) -> None:
    """The error has the server's own words."""
    async with serving(responding({"error": {"message": "the reason"}}, status=status)) as seen:
        with pytest.raises(CallFailed, match=said) as caught:
            await ask(seen.address)
    assert caught.value.category == kind
    assert status == 301 or "the reason" in caught.value.message


async def test_a_server_that_limits_us() -> None:
    """The server says for how long."""
    async with serving(responding({}, 429, **{"Retry-After": "7"})) as seen:
        with pytest.raises(CallFailed) as caught:
            await ask(seen.address)
    assert (caught.value.category, caught.value.retry_after) == (Category.RATE_LIMITED, timedelta(seconds=7))


@pytest.mark.parametrize(
    "reply",
    [
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"half": ',
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a"',
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_servers_that_lie_or_hang_up(reply: bytes) -> None:
    """Whatever such servers send, the failure is one of the provider."""
    async with raw_server(reply) as address:
        with pytest.raises(CallFailed) as caught:
            await ask(address)
    assert caught.value.category == "provider_error"


async def test_responses_that_cannot_be_used() -> None:
    """They are not JSON or too large, the port is closed, or the server is too slow."""
    async with serving(sending(b"<html>", "text/html")) as seen:
        with pytest.raises(CallFailed, match="is not JSON"):
            await ask(seen.address)
    async with serving(sending(b'"' + b"x" * 5000 + b'"', "application/json")) as seen:
        with pytest.raises(CallFailed, match="exceeds 2000 bytes"):
            await ask(seen.address, max_bytes=2000)
    with pytest.raises(CallFailed, match="connection to the server failed"):
        await ask(closed_port())
    async with serving(hanging) as seen:
        with pytest.raises(CallFailed, match=r"did not respond within 0\.2 s") as caught:
            await ask(seen.address, timeout="200ms")
    assert caught.value.category == "timeout"
    async with serving(streaming([b"data: 1\n\n"], cut=True)) as seen:
        with pytest.raises(CallFailed) as caught:
            async with runtime(seen.address, stream="sse") as made:
                await made.predict(call_with(CollectingWire(), {}, streams=True))
    assert caught.value.category == "provider_error"


async def test_a_cancelled_call_closes_its_request() -> None:
    """The server notices."""
    async with serving(hanging) as seen, runtime(seen.address) as made:
        calling = asyncio.create_task(_predict(made, call_with(CollectingWire(), {})))
        await until(lambda: bool(seen.bodies), "the request has arrived")
        calling.cancel()
        async with asyncio.timeout(5):
            await seen.left.wait()


async def _predict(made: HttpRuntime, call: Call) -> Output | None:
    return await made.predict(call)


async def test_many_calls_share_a_few_connections() -> None:
    """Calls that follow each other use one connection, even with large bodies."""
    async with serving(responding({})) as seen, runtime(seen.address) as made:
        for _ in range(5):
            await made.predict(call_with(CollectingWire(), {}))
        assert len(seen.ports) == 1
        await made.predict(call_with(CollectingWire(), {"text": "x" * (10 * 2**20)}))
        assert len(seen.bodies[-1]) > 10 * 2**20


async def test_secrets_leave_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server echoes the secrets."""
    monkeypatch.setenv("MODEL_TOKEN", "Bearer sk-canary/93")
    for said in ("sk-canary/93", "sk-canary%2F93", "Bearer sk-canary/93"):
        async with serving(responding({"error": f"wrong: {said}"}, status=401)) as seen:
            with pytest.raises(CallFailed) as caught:
                await ask(seen.address, headers={"Authorization": "env:MODEL_TOKEN", "X-Kind": "wrong"})
        assert "canary" not in caught.value.message
        assert "wrong" in caught.value.message


KEY = "sk-canary/93+q&x"
SPELLINGS = [KEY, quote(KEY, safe=""), html.escape(KEY)]


@pytest.mark.parametrize("said", [*SPELLINGS, f"Bearer {KEY}", f"x{KEY}y{KEY}"])
@pytest.mark.parametrize("escaped", [False, True])
async def test_no_output_shows_a_key_that_the_server_echoes(
    said: str, escaped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is masked in every spelling: plain, percent-encoded, with ``\\u`` escapes, and in names of members."""
    monkeypatch.setenv("MODEL_TOKEN", f"Bearer {KEY}")
    body = json.dumps({"headers": {"Authorization": said, said: 1}, "list": ["safe", said]}, ensure_ascii=False)
    sent = "".join(f"\\u{ord(one):04x}" if one in "sk-canary/93+q&x" else one for one in body) if escaped else body
    async with serving(sending(sent.encode(), "application/json")) as seen:
        output = await ask(seen.address, headers={"X-Kind": "EMPTY", "Authorization": "env:MODEL_TOKEN"})
    shown = json.dumps(read(output), ensure_ascii=False)
    assert "canary" not in shown
    assert MASK in shown
    assert read(output)["list"][0] == "safe"


@pytest.mark.parametrize("stream", ["sse", "ndjson"])
@pytest.mark.parametrize("seed", range(12))
async def test_no_stream_shows_a_key_wherever_it_is_cut(
    stream: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is masked even when it is divided among chunks; everything else arrives in order."""
    choose = random.Random(seed)
    monkeypatch.setenv("MODEL_TOKEN", f"Bearer {KEY}")
    text = "".join(choose.choice([KEY, "sk-", "sk-canary", "words ", "ä", f"Bearer {KEY}"]) for _ in range(30))
    pieces: list[dict[str, Any]] = []
    while text:
        step = choose.randrange(1, 9)
        pieces.append({"delta": text[:step], "n": len(pieces)} if choose.random() < 0.9 else {"n": len(pieces)})
        text = text[step:] if "delta" in pieces[-1] else text
    lines = [json.dumps(piece).encode() for piece in pieces]
    sent = [b"data: " + line + b"\n\n" if stream == "sse" else line + b"\n" for line in lines]
    async with serving(streaming(sent)) as seen:
        wire = CollectingWire()
        async with runtime(seen.address, stream=stream, headers={"Authorization": "env:MODEL_TOKEN"}) as made:
            await made.predict(call_with(wire, {}, streams=True))
    whole = "".join(piece.get("delta", "") for piece in pieces)
    assert "".join(value.get("delta", "") for value in wire.values) == Masker([KEY, f"Bearer {KEY}"]).text(whole)
    assert [value["n"] for value in wire.values] == list(range(len(pieces)))


async def test_binary_media_stay_byte_for_byte_and_text_media_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for media that are the whole response and for media inside its JSON."""
    monkeypatch.setenv("MODEL_TOKEN", KEY)
    options: dict[str, Any] = {"headers": {"Authorization": "env:MODEL_TOKEN"}}
    picture = b"\x89PNG" + KEY.encode() + b"\xff"
    async with serving(sending(picture, "image/png")) as seen:
        assert data_of((await ask(seen.address, **options)).segments) == [picture]
    for media_type, kept in (("image/png", True), ("text/plain", False), ("application/json", False)):
        url = f"data:{media_type};base64,{base64.b64encode(KEY.encode()).decode()}"
        async with serving(responding({"image": url})) as seen:
            output = await ask(seen.address, schema=Schema(output=MEDIA), **options)
        assert data_of(output.segments) == [KEY.encode() if kept else MASK.encode()]


async def test_a_key_in_the_address_is_masked_too() -> None:
    async with serving(responding({"asked": f"/p?api_key={KEY[:12]}"})) as seen:
        assert read(await ask(f"{seen.address}/p?api_key={KEY[:12]}")) == {"asked": f"/p?api_key={MASK}"}


async def test_a_word_that_is_a_key_garbles_no_output() -> None:
    """Many servers accept ``EMPTY`` as a key."""
    async with serving(responding({"text": "an EMPTY glass"})) as seen:
        output = await ask(seen.address, headers={"Authorization": "Bearer EMPTY"})
    assert read(output) == {"text": "an EMPTY glass"}


async def test_numbers_that_are_not_finite_are_named() -> None:
    """They are written as Python's servers write them."""
    for body, held in (
        (b'{"score": NaN}', "NaN or an infinity"),
        (b"[1, -Infinity]", "NaN or an infinity"),
        (b'{"score": [1e999]}', r"a number out of range at score\[0\]"),
    ):
        async with serving(sending(body, "application/json")) as seen:
            with pytest.raises(CallFailed, match=f"holds {held}") as caught:
                await ask(seen.address)
        assert caught.value.category == "provider_error"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "url"),
        ({"url": "ftp://h"}, "url"),
        ({"url": "http://169.254.169.254"}, "url"),
        ({"url": "http://10.0.0.1", "networks": ["192.168.0.0/16"]}, "url"),
        ({"url": "http://h", "networks": "10.0.0.0/8"}, "networks"),
        ({"url": "http://h", "path": "x"}, "path"),
        ({"url": "http://h", "timeout": "soon"}, "timeout"),
        ({"url": "http://h", "timeout": -1}, "timeout"),
        ({"url": "http://h", "timeout": []}, "timeout"),
        ({"url": "http://h", "media": "pigeon"}, "media"),
        ({"url": "http://h", "stream": "drip"}, "stream"),
        ({"url": "http://h", "input_key": 5}, "input_key"),
        ({"url": "http://h", "max_bytes": True}, "max_bytes"),
        ({"url": "http://h", "headers": []}, "headers"),
        ({"url": "http://h", "headers": {"Host": "x"}}, "headers.Host"),
        ({"url": "http://h", "headers": {"X": "a\r\nb: c"}}, "headers.X"),
        ({"url": "http://h", "headers": {"X Y": "z"}}, "headers.X Y"),
        ({"url": "http://h", "command": "sh"}, "command"),
    ],
)
def test_mistakes_in_a_manifest_are_named(options: dict[str, Any], field: str) -> None:
    """They are found before anything is started."""
    assert field in [name for name, _ in HttpRuntime.check(options, Path("/"))]
