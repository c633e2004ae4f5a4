"""The smaller parts of the library: paths, signals, bodies, bearer tokens."""

from __future__ import annotations

import asyncio

import pytest

from penstock.errors import Unauthorized
from penstock.masking import Secret
from penstock.processes.signal import Signal
from penstock.web.bearer import BearerCheck
from penstock.web.body import Body, Disconnected
from penstock.web.head import parse
from penstock.web.incoming import IncomingBody
from penstock.web.limits import Limits
from penstock.web.request import Request
from penstock.web.router import Router

ROUTER = Router(
    {
        path: path
        for path in ("/", "/jobs", "/jobs/{id}", "/jobs/batch", "/jobs/{id}/events", "/{any}/b/{thing}", "/x/{y}")
    }
)


@pytest.mark.parametrize(
    ("path", "found", "values"),
    [
        ("/", "/", {}),
        ("/jobs", "/jobs", {}),
        ("/jobs/batch", "/jobs/batch", {}),
        ("/jobs/7", "/jobs/{id}", {"id": "7"}),
        ("/jobs/batch/events", "/jobs/{id}/events", {"id": "batch"}),
        ("/%6Aobs/a%20b%2F%C3%BC", "/jobs/{id}", {"id": "a b/ü"}),
        ("/jobs/b/c", "/{any}/b/{thing}", {"any": "jobs", "thing": "c"}),
        ("/jobs/", None, {}),
        ("/jobs//events", None, {}),
        ("/jobs/7/", None, {}),
        ("/jobs/7/other", None, {}),
        ("//jobs", None, {}),
        ("jobs", None, {}),
        ("", None, {}),
    ],
)
def test_paths_lead_to_their_routes(path: str, found: str | None, values: dict[str, str]) -> None:
    assert ROUTER.find(path) == (found, values)


async def test_a_signal_calls_back_once() -> None:
    signal, calls = Signal(), list[str]()
    signal.add(lambda: calls.append("kept"))

    def removed() -> None:
        calls.append("removed")

    signal.add(removed)
    signal.remove(removed)
    with signal.calling(removed):
        pass
    waiting = asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    signal.set()
    signal.set()
    await waiting
    await signal.wait()
    assert (calls, signal.is_set()) == (["kept"], True)
    signal.add(lambda: calls.append("late"))
    await asyncio.sleep(0)
    assert calls == ["kept", "late"]


def request(**headers: str) -> Request:
    sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    return Request(method="GET", url_path="/", headers=sent, body=Body.of(b""))


async def test_work_ends_when_its_client_disconnects_or_the_server_stops() -> None:
    for left in (True, False):
        one = request()
        task = asyncio.create_task(one.unless_left(asyncio.Event().wait()))
        await asyncio.sleep(0)
        (one.left if left else one.stopping).set()
        if left:
            with pytest.raises(Disconnected):
                await task
        else:
            assert await task is None


async def test_work_that_finishes_or_fails_is_passed_on() -> None:
    async def failing() -> None:
        raise KeyError("x")

    assert await request().unless_left(asyncio.sleep(0, 7)) == 7
    with pytest.raises(KeyError):
        await request().unless_left(failing())
    task = asyncio.create_task(request().unless_left(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_breaks_off_raises_after_what_was_received() -> None:
    body = Body()
    body.feed(b"abc")
    body.fail(Disconnected())
    assert await body.read() == b"abc"
    with pytest.raises(Disconnected):
        await body.read()


@pytest.mark.parametrize("given", ["Bearer s3cret", "bearer   s3cret ", "BEARER s3cret"])
def test_the_right_token_passes(given: str) -> None:
    BearerCheck(Secret("s3cret"), "TOKEN")(request(authorization=given))


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", "é"]
)
def test_a_wrong_token_is_refused(given: str) -> None:
    with pytest.raises(Unauthorized, match="<TOKEN>"):
        BearerCheck(Secret("s3cret"), "TOKEN")(request(authorization=given))


async def test_tiny_chunks_that_arrive_together_are_kept_as_one_piece() -> None:
    """The chunks, as separate objects, would take far more memory than the bounds of a body account for."""
    head = parse(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", Limits())
    body = Body()
    IncomingBody(head, body, Limits()).receive(b"2\r\nab\r\n" * 1000)
    assert await body.read() == b"ab" * 1000
