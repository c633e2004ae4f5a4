"""Files from URLs that callers name: only from allowed addresses, complete, and bounded in size."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from penstock.failures import CallFailed, Category
from penstock.providers.fetching import Fetcher
from tests.support.http_servers import running

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HERE = ("127.0.0.0/8",)
MOST = 200_000
CONTENT = bytes(range(256)) * 500


async def fetch(url: str, to: Path, *, networks: tuple[str, ...] = HERE, seconds: float = 20) -> bytes:
    fetcher = Fetcher(networks, max_bytes=MOST, seconds=seconds)
    try:
        await fetcher.fetch(url, to, field="audio_url")
    finally:
        await fetcher.close()
    return to.read_bytes()


async def failure(
    handler: Handler, tmp_path: Path, *, seconds: float = 20, path: str = "/a?signature=s3cr3t"
) -> CallFailed:
    async with running(handler) as url:
        with pytest.raises(CallFailed) as caught:
            await fetch(url + path, tmp_path / "file", seconds=seconds)
    assert "s3cr3t" not in caught.value.message
    return caught.value


async def whole(_: web.Request) -> web.Response:
    return web.Response(body=CONTENT)


def status(code: int, **headers: str) -> Handler:
    async def respond(_: web.Request) -> web.Response:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return respond


async def test_a_file_arrives_whole(tmp_path: Path) -> None:
    async with running(whole) as url:
        assert await fetch(f"{url}/call.wav", tmp_path / "file") == CONTENT


async def test_redirects_are_followed(tmp_path: Path) -> None:
    async def moving(request: web.Request) -> web.Response:
        step = int(request.path.strip("/") or 0)
        return (
            web.Response(body=CONTENT) if step == 5 else web.Response(status=302, headers={"Location": f"/{step + 1}"})
        )

    async with running(moving) as url:
        assert await fetch(url, tmp_path / "file") == CONTENT


async def test_private_addresses_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    async with running(whole) as url:
        other_widths = "\uff11\uff12\uff17.0.0.1"
        for address in (url, url.replace("127.0.0.1", "localhost"), url.replace("127.0.0.1", other_widths)):
            with pytest.raises(CallFailed, match=r"input\.audio_url: .*is not on the public internet") as caught:
                await fetch(address, tmp_path / "file", networks=("10.0.0.0/8",))
            assert caught.value.category is Category.BAD_INPUT


@pytest.mark.parametrize(
    "target",
    [
        "http://[bad",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:1/",
        "file:///etc/passwd",
        "ftp://x/",
        "http://10.0.0.1/",
    ],
)
async def test_a_redirect_leads_nowhere_else(tmp_path: Path, target: str) -> None:
    error = await failure(status(302, Location=target), tmp_path)
    assert error.category is Category.BAD_INPUT


@pytest.mark.parametrize(
    "url",
    [
        "",
        "call.wav",
        f"http://{'a' * 70}.com/",
        "file:///etc/passwd",
        "http://",
        "http://u:p@127.0.0.1/",
        "http://a b/",
    ],
)
async def test_a_text_that_is_not_an_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(CallFailed, match=r"input\.audio_url") as caught:
        await fetch(url, tmp_path / "file")
    assert caught.value.category is Category.BAD_INPUT


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (404, Category.BAD_INPUT),
        (403, Category.BAD_INPUT),
        (408, Category.PROVIDER_ERROR),
        (500, Category.PROVIDER_ERROR),
        (304, Category.PROVIDER_ERROR),
        (429, Category.RATE_LIMITED),
        (503, Category.RATE_LIMITED),
    ],
)
async def test_statuses_decide_whose_fault_it_is(tmp_path: Path, code: int, category: Category) -> None:
    error = await failure(status(code, Retry_After="9"), tmp_path)
    assert error.category is category
    if category is Category.RATE_LIMITED:
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() == 9


async def test_a_host_that_is_busy_and_names_no_wait_uses_the_attempt(tmp_path: Path) -> None:
    """A URL that always responds so must not keep its job for ever."""
    assert (await failure(status(503), tmp_path)).category is Category.PROVIDER_ERROR


async def test_a_name_that_leads_to_a_private_address_is_refused(tmp_path: Path) -> None:
    class Leading(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            one = ResolveResult(
                hostname=host, host="10.0.0.7", port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            return [one]

        async def close(self) -> None:
            pass

    fetcher = Fetcher(HERE, max_bytes=MOST, resolver=Leading())
    with pytest.raises(CallFailed, match="not on the public internet"):
        await fetcher.fetch("http://calls.example/a.wav", tmp_path / "file", field="audio_url")
    await fetcher.close()


async def test_a_disk_of_ours_that_fails_is_our_fault(tmp_path: Path) -> None:
    async with running(whole) as url:
        with pytest.raises(CallFailed, match="cannot be kept here") as caught:
            await fetch(url, tmp_path / "absent" / "file")
    assert caught.value.category is Category.INTERNAL


async def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    assert "more than 5 times" in (await failure(status(302, Location="/a"), tmp_path)).message


async def test_too_much_is_refused_by_its_head_and_by_its_body(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(50_000))

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(MOST + 1))

    for handler in (endless, large):
        error = await failure(handler, tmp_path)
        assert (error.category, "more than 200000 bytes" in error.message) == (Category.BAD_INPUT, True)


async def test_a_body_that_ends_early_is_not_taken_for_the_file(tmp_path: Path) -> None:
    async def lying(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    assert (await failure(lying, tmp_path)).category is Category.PROVIDER_ERROR


@pytest.mark.parametrize("drips", [True, False])
async def test_a_slow_host_is_a_timeout(tmp_path: Path, drips: bool) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            if drips:
                await response.write(b".")
            await asyncio.sleep(0.01)

    assert (await failure(slow, tmp_path, seconds=0.2)).category is Category.TIMEOUT


async def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    async with running(whole) as url:
        pass
    with pytest.raises(CallFailed) as caught:
        await fetch(url, tmp_path / "file")
    assert caught.value.category is Category.PROVIDER_ERROR
