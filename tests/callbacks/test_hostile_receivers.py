"""Receivers that are slow, endless or malicious do no harm, neither to this machine nor to other endpoints."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from penstock.callbacks.callback import Callback
from penstock.callbacks.endpoint import DeliveryView, Endpoint
from penstock.callbacks.rules import Response
from penstock.callbacks.sender import Sender
from penstock.outbound.policy import Policy
from penstock.postgres.pool import Database
from tests.support.callbacks import LOOPBACK, Callbacks, Message, Receiver
from tests.support.databases import own_tenant
from tests.support.http_servers import closed_port, raw_server
from tests.support.jobs import JobCaller, submission
from tests.support.waiting import until, within


@asynccontextmanager
async def sender(
    *, seconds: float = 10, policy: Policy = LOOPBACK, resolver: AbstractResolver | None = None
) -> AsyncIterator[Sender]:
    found = Sender(policy, timeout=timedelta(seconds=seconds), resolver=resolver)
    yield found
    await found.close()


async def send(url: str, *, seconds: float = 10, policy: Policy = LOOPBACK) -> Response:
    async with sender(seconds=seconds, policy=policy) as one:
        return await within(one.send(url, {}, b"{}"), 60)


@asynccontextmanager
async def dripping(*pieces: bytes, then: bytes = b"") -> AsyncIterator[str]:
    """A server that sends pieces, and then the same bytes again and again while the connection lasts."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            while then:
                writer.write(then)
                await writer.drain()
                await asyncio.sleep(0.01 if len(then) == 1 else 0)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_a_head_that_never_ends_is_a_timeout() -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\nX: ", then=b"a") as url:
        response = await send(url, seconds=0.3)
    assert (response.status, response.error) == (None, "no response within 0.3 s")


async def test_headers_are_bounded() -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\nX: ", then=b"a" * 4096) as url:
        response = await send(url)
    assert response.status is None
    assert "the connection failed" in response.error
    many = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    async with raw_server(b"HTTP/1.1 200 OK\r\n" + many + b"\r\n") as url:
        assert (await send(url)).status is None


async def test_a_response_whose_body_drips_or_never_ends_counts_by_its_status() -> None:
    for then in (b"a", b"a" * 65536):
        async with dripping(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", then=then) as url:
            response = await send(url)
        assert response.success
        assert response.excerpt.strip("a") == ""
        assert len(response.excerpt) <= 200
    async with dripping(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000000\r\n\r\n", then=b"x" * 65536) as url:
        response = await send(url)
    assert (response.status, response.success) == (500, False)


async def test_a_compressed_body_is_not_expanded() -> None:
    body = b"\x1f\x8b\x08\x00" + b"\x00" * 100
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 104\r\n\r\n" + body) as url:
        assert (await send(url)).success


async def test_a_response_that_is_not_http_fails() -> None:
    for reply in (b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 99 no\r\n\r\n", b"\x00" * 1000):
        async with raw_server(reply) as url:
            response = await send(url)
        assert response.status is None
        assert response.error
    assert (await send(closed_port())).error == "the connection failed (Connection refused)"


async def test_control_characters_of_a_response_are_not_kept() -> None:
    async with raw_server(b"HTTP/1.1 400 no\r\nContent-Length: 20\r\n\r\n\x1b[31mred\x00\xff\r\nend   of") as url:
        response = await send(url)
    assert response.excerpt == "[31mred \ufffd end of"


async def test_redirects_are_not_followed() -> None:
    for status in (301, 302, 303, 307, 308):
        head = b"HTTP/1.1 %d go\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n" % status
        async with raw_server(head) as url:
            response = await send(url)
        assert (response.status, response.error) == (status, f"status {status}: redirects are not followed")


class Names(AbstractResolver):
    """A resolver that returns the next of the given addresses at each look-up."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        one = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return [ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_a_name_that_leads_elsewhere_later_is_refused_before_a_socket_is_made(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is checked where the socket is made, whatever the name resolved to before."""
    made: list[str] = []
    connect = asyncio.get_running_loop().sock_connect

    async def watched(sock: socket.socket, address: tuple[str, int]) -> None:
        made.append(address[0])
        await connect(sock, address)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", watched)
    hook.respond = lambda _: _closing()
    port = hook.url.rpartition(":")[2]
    names = Names("127.0.0.1", "169.254.169.254", "10.0.0.7", "127.0.0.1")
    async with sender(resolver=names) as one:
        url = f"http://receiver.example:{port}/"
        assert (await one.send(url, {}, b"{}")).success
        for reason in ("link-local", "not on the public internet"):
            response = await one.send(url, {}, b"{}")
            assert response.status is None
            assert reason in response.error
    async with sender(policy=Policy(public=True), resolver=Names("127.0.0.1")) as one:
        assert "not on the public internet" in (await one.send(url, {}, b"{}")).error
    assert made == ["127.0.0.1"]
    assert len(hook.messages) == 1


def _closing() -> web.Response:
    response = web.Response()
    response.force_close()
    return response


async def delivered(callbacks: Callbacks, caller: JobCaller, endpoint: Endpoint, number: int) -> None:
    async def enough() -> bool:
        return (await callbacks.endpoint(caller.tenant, endpoint)).delivered >= number

    await until(enough, f"{number} deliveries")


async def test_a_response_after_the_timeout_does_not_count(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    """The receiver has processed the message: the next attempt has the same id, by which it knows."""
    late = asyncio.Event()

    async def respond(_: Message) -> web.Response:
        await late.wait()
        return web.Response()

    hook.respond = respond
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    found: list[DeliveryView] = []
    async with callbacks.running(callbacks.dispatcher(timeout=timedelta(seconds=0.2))):
        await caller.submit()

        async def failed() -> bool:
            found[:] = await callbacks.deliveries(caller.tenant, endpoint)
            return bool(found and found[0].attempts)

        await until(failed, "the attempt has failed")
        late.set()
    assert (found[0].status, found[0].attempts[0].error) == ("waiting", "no response within 0.2 s")


async def test_slow_endpoints_leave_slots_for_others(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    """A tenant's endpoints hang, more of them than there are slots; another tenant's messages arrive all the same."""
    release = asyncio.Event()

    async def respond(message: Message) -> web.Response:
        if message.path.startswith("/hang"):
            await release.wait()
        return web.Response()

    hook.respond = respond
    slow = JobCaller(caller.service, await own_tenant(database))
    hanging = [Callback(url=f"{hook.url}/hang/{number % 600}", events=["job.created"]) for number in range(3000)]
    quick = await callbacks.add(caller.tenant, f"{hook.url}/quick", "job.created")
    async with callbacks.running(callbacks.dispatcher(timeout=timedelta(seconds=60))) as dispatcher:
        await slow.service.of(slow.tenant).submit_many([submission(callback=callback) for callback in hanging])
        await until(lambda: dispatcher.in_flight >= 250, "the slow endpoints have their requests in flight")
        await caller.submit_many(100)
        await delivered(callbacks, caller, quick, 100)
        assert sum(message.path == "/quick" for message in hook.messages) == 100
        assert dispatcher.in_flight < 512
        release.set()


async def test_thousands_of_dead_endpoints_do_not_slow_others(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    """Submissions name 2,000 addresses where nothing listens; a registered endpoint is served beside them."""
    dead = closed_port()
    quick = await callbacks.add(caller.tenant, hook.url, "job.created")
    other = JobCaller(caller.service, await own_tenant(database))
    async with callbacks.running():
        await caller.submit()
        await delivered(callbacks, caller, quick, 1)
        jobs = [submission(callback=Callback(url=f"{dead}/{number}", events=["job.created"])) for number in range(2000)]
        await caller.service.of(other.tenant).submit_many(jobs)
        await caller.submit_many(200)
        await delivered(callbacks, caller, quick, 201)

        async def all_tried() -> bool:
            async with database.acquire() as connection:
                tried: int = await connection.fetchval("SELECT sum(failed) FROM callback_state")
                return tried >= 2000

        await until(all_tried, "every dead endpoint was tried")


async def test_a_huge_event_is_sent_without_its_data(caller: JobCaller, callbacks: Callbacks, hook: Receiver) -> None:
    await callbacks.add(caller.tenant, hook.url, "job.output", "job.completed")
    async with callbacks.running():
        job = await caller.submit_and_claim()
        await caller.report(job, b'"' + b"x" * 1_000_000 + b'"')
        await caller.complete(job, b'"' + b"y" * 1_000_000 + b'"')
        output, completed = await hook.got(2)
    assert output.event["data"]["omitted_bytes"] > 1_000_000
    assert output.event["data"]["first"] == 0
    assert len(output.body) < 2000
    assert completed.event["data"]["result_bytes"] == 1_000_002
    assert "result" not in completed.event["data"]
