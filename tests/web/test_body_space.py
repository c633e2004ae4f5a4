"""Bodies that handlers hold: their bytes are bounded in all, not only for each request."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from penstock.errors import Overloaded
from penstock.web.body_space import BodySpace
from tests.support.echo_application import EchoApplication, echo_application
from tests.support.raw_http import chunked, post
from tests.support.waiting import until

BODY = b"x" * 900_000
TINY = timedelta(milliseconds=50)


def taken(app: EchoApplication) -> int:
    return app.server.connections.body_space.taken


async def test_a_body_for_which_there_is_no_memory_waits_unread() -> None:
    async with echo_application(bodies_bytes=1_000_000) as app, app.client() as first, app.client() as second:
        whole = post("/echo", BODY)
        first.writer.write(whole[:-1])
        await until(lambda: taken(app) == len(BODY), "the first body is being read")
        second.writer.write(whole)
        await until(lambda: app.server.held_back == 1, "the second one waits")
        assert taken(app) == len(BODY)
        assert app.server.waiting_bytes < 600_000
        assert (await first.exchange(whole[-1:])).body == BODY
        assert (await second.reply()).body == BODY
        await until(lambda: taken(app) == 0, "all memory was given back")


@pytest.mark.parametrize("sent", [post("/echo", BODY), chunked("/echo", BODY)], ids=["known length", "chunked"])
async def test_a_body_that_waits_for_too_long_is_503(sent: bytes) -> None:
    async with echo_application(bodies_bytes=1_000_000, bodies_timeout=TINY) as app, app.client() as first:
        await first.send(post("/echo", BODY)[:-1])
        await until(lambda: taken(app) == len(BODY), "the first body is being read")
        async with app.client() as second:
            second.writer.write(sent)
            reply = await second.reply()
            assert (reply.code, reply.status, reply.headers["retry-after"]) == ("overloaded", 503, "1")
        async with app.client() as small:
            assert (await small.exchange(post("/echo", b"small"))).body == b"small"
        assert (await first.exchange(b"x")).body == BODY


async def test_a_chunked_body_takes_what_it_may_need_and_keeps_what_it_has() -> None:
    async with echo_application(bodies_bytes=2_000_000) as app, app.client() as client:
        whole = chunked("/late", b"x" * 100_000)
        await client.send(whole[:-5])
        await until(lambda: taken(app) == 1_000_000, "the body may have as many bytes as the route allows")
        await client.send(whole[-5:])
        await until(lambda: taken(app) == 100_000, "its size is known")
        app.routes.proceed.set()
        assert (await client.reply()).body == b"100000"
        await until(lambda: taken(app) == 0, "all memory was given back")


async def test_a_client_that_leaves_gives_its_memory_back() -> None:
    async with echo_application(bodies_bytes=1_000_000) as app:
        async with app.client() as client:
            await client.send(post("/echo", BODY)[:-1])
            await until(lambda: taken(app) == len(BODY), "its body is being read")
        await until(lambda: taken(app) == 0, "all memory was given back")


async def test_waiters_are_served_in_order_and_may_give_up() -> None:
    space, served = BodySpace(100, timedelta(seconds=60)), list[int]()

    async def take(size: int) -> None:
        served.append(await space.take(size))

    assert await space.take(1000) == 100
    tasks = [asyncio.create_task(take(size)) for size in (60, 70, 30, 20)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    space.give_back(100)
    tasks[2].cancel()  # in the same iteration of the event loop in which it gets its space
    await asyncio.wait(tasks)
    assert sorted(served) == [20, 60]
    assert space.taken == 80
    brief = BodySpace(100, TINY)
    await brief.take(100)
    with pytest.raises(Overloaded):
        await brief.take(1)
    brief.give_back(100)
    assert (await brief.take(100), brief.taken) == (100, 100)
