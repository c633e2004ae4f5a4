"""The life of the gRPC server: how it starts, what it needs, what idle clients leave, and how it stops."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.assembly.gateway import GatewayAssembly
from penstock.athena.atom.exchange import OnceExchange, Released, Unpolled
from penstock.athena.atom.exchanges import Exchanges, Key, Refusal, key_of
from penstock.athena.atom.order import MAX_AHEAD_BYTES, Order, TooFarAhead
from penstock.athena.atom.stream import StreamExchange
from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import DataObject, Status
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.messages.loader_pb2 import LoaderOutput
from penstock.athena.protocol.schemas.document import Document
from penstock.athena.protocol.schemas.rules import Rules
from penstock.athena.sessions.forms import Result
from penstock.athena.sessions.input import SessionInput
from penstock.errors import Overloaded, SettingsError
from penstock.models.host.calls import CallResult
from penstock.models.host.sessions import LiveSession
from penstock.models.host.windows import Windows
from penstock.models.replica.runtime import Segment
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR, TenantId
from penstock.web.body import Body
from penstock.web.request import Request
from tests.athena.rpc import RELAY, RpcClient, data_of, model, part, rpc_client, text
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway, settings_for
from tests.support.waiting import until, within

KEY = key_of(OPERATOR, "h")
ONE, OTHER = TenantId(7), TenantId(8)


@asynccontextmanager
async def relaying(url: str, folder: Path, **changes: Any) -> AsyncIterator[tuple[HttpCaller, RpcClient]]:
    put_python(folder, "relay", RELAY, extra="concurrency = 200")
    async with (
        running_gateway(url, models_folder=folder, penstock_athena_grpc_port=0, **changes) as caller,
        rpc_client(caller) as client,
    ):
        yield caller, client


def exchanges_of(gateway: HttpCaller) -> Exchanges:
    atom = gateway.parts.athena.atom
    assert atom is not None
    return atom.exchanges


async def begin(client: RpcClient, handle: str = "s") -> LoaderOutput:
    output = await client.loader("AIIn", handle, part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    assert output.code == 0, output.err
    return output


async def test_without_a_port_nothing_is_served(module_database_url: str) -> None:
    async with running_gateway(module_database_url) as caller:
        assert caller.parts.athena.atom is None


async def test_a_missing_package_is_named_at_the_start(
    module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check finds packages by their names, before anything of gRPC is imported."""
    found = importlib.util.find_spec

    def without_grpc(name: str, package: str | None = None) -> object:
        return None if name == "grpc" else found(name, package)

    monkeypatch.setattr("penstock.athena.atom.packages.find_spec", without_grpc)
    parts = GatewayAssembly(settings_for(module_database_url, penstock_athena_grpc_port=0))
    with pytest.raises(SettingsError, match=r"PENSTOCK_ATHENA_GRPC_PORT.*penstock\[athena\]"):
        _ = parts.gateway
    await parts.close()


async def test_a_port_in_use_is_named_at_the_start(module_database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        parts = GatewayAssembly(settings_for(module_database_url, penstock_athena_grpc_port=port))
        try:
            with pytest.raises(SettingsError, match=f"PENSTOCK_ATHENA_GRPC_PORT.*port {port}"):
                await parts.gateway.start()
        finally:
            await parts.gateway.stop()
            await parts.close()


async def test_an_idle_session_ends_with_its_reason(database_url: str, tmp_path: Path) -> None:
    """No message and no poll has come for a second."""
    idle = timedelta(seconds=1)
    async with relaying(database_url, tmp_path, penstock_athena_grpc_idle=idle) as (gateway, client):
        await begin(client)
        await until(lambda: len(exchanges_of(gateway)) == 0, "the session has ended")
        ended = await client.loader("AIOut", "s")
        assert (ended.code, ended.err) == (10019, "the session was idle for too long")


async def test_a_session_that_is_polled_is_not_idle(database_url: str, tmp_path: Path) -> None:
    """A poll that waits for longer than that keeps it."""
    idle = timedelta(seconds=1)
    async with relaying(database_url, tmp_path, penstock_athena_grpc_idle=idle) as (_, client):
        await client.some("s", await begin(client), 2)
        assert not (await client.loader("AIOut", "s", waitTime=2000)).pl  # it has waited for two seconds
        assert (await client.loader("AIIn", "s", part("relay", 2, text("p", "b", 2)), SeqNo=2)).code == 0


async def test_sessions_may_end_while_the_server_stops(database_url: str, tmp_path: Path) -> None:
    """New ones are refused meanwhile, and the health check says so."""
    async with relaying(database_url, tmp_path, penstock_shutdown_grace=timedelta(seconds=20)) as (gateway, client):
        await begin(client)
        atom = gateway.parts.athena.atom
        assert atom is not None
        stopping = asyncio.create_task(atom.stop())
        health = health_pb2_grpc.HealthStub(client.channel)

        async def not_serving() -> bool:
            return bool((await health.Check(health_pb2.HealthCheckRequest())).status == 2)

        await until(not_serving, "the server reports that it stops")
        assert (await client.loader("AIIn", "new", part("relay", 1, text("p", "a", 0)), SeqNo=1)).code == 10101
        await client.loader("AIIn", "s", part("relay", 2, text("p", "b", 2)), SeqNo=2)
        assert data_of(await client.results("s"))[-1] == "end"
        await within(stopping)
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await client.loader("AIOut", "s")


async def test_sessions_that_do_not_end_are_cut_after_the_grace(database_url: str, tmp_path: Path) -> None:
    async with relaying(database_url, tmp_path, penstock_shutdown_grace=timedelta(seconds=1)) as (gateway, client):
        await begin(client)
        atom = gateway.parts.athena.atom
        assert atom is not None
        await within(atom.stop(), 20)
        await until(lambda: model(gateway, "relay").in_flight == 0, "the replica has ended the session")


# Exchanges and orders


class Work:
    """A call that a test ends."""

    def __init__(self, size: int = 1, unpolled: Unpolled | None = None) -> None:
        self.end = asyncio.Event()
        self.exchange = OnceExchange(self._run(size), unpolled or Unpolled())

    async def _run(self, size: int) -> Sequence[DataObject]:
        await self.end.wait()
        return [DataObject(name="r", data=bytes(size))]


async def test_places_are_given_back_however_an_exchange_ends() -> None:
    exchanges = Exchanges(timedelta(seconds=60))
    exchanges.most = 1
    for stops in (False, True):
        place = exchanges.reserve(KEY)
        with pytest.raises(Refusal, match="exists already"):
            exchanges.reserve(KEY)
        with pytest.raises(Refusal, match="in progress"):
            exchanges.reserve(key_of(OPERATOR, "other"))
        exchanges.add(place, Work().exchange)
        if stops:
            await exchanges.stop()
        else:
            exchanges.end(place)
        await within(exchanges.none_left())
        assert len(exchanges) == 0


async def test_a_handle_that_was_never_begun_leaves_nothing() -> None:
    """The call was refused while it was accepted."""
    exchanges = Exchanges(timedelta(seconds=60))
    exchanges.end(exchanges.reserve(KEY))
    with pytest.raises(Refusal) as raised:
        async with exchanges.using(KEY):
            pass
    assert raised.value.outcome.code == 10008


async def test_an_rpc_that_is_cancelled_ends_its_exchange() -> None:
    exchanges = Exchanges(timedelta(seconds=60))
    work = Work()
    exchanges.add(exchanges.reserve(KEY), work.exchange)

    async def poll() -> None:
        async with exchanges.using(KEY) as (_, exchange):
            await exchange.poll(60)

    task = asyncio.create_task(poll())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(exchanges) == 0
    await exchanges.stop()
    with pytest.raises(Released):
        await work.exchange.poll(0)


@pytest.mark.parametrize("leaves", [True, False], ids=["its client leaves", "it gets the last result too"])
async def test_an_rpc_of_a_call_that_has_ended_leaves_the_next_one_of_its_handle_alone(*, leaves: bool) -> None:
    """The handle is free as soon as one RPC has the last result, while others may still wait."""
    exchanges = Exchanges(timedelta(seconds=60))
    first, second = Work(), Work()
    exchanges.add(exchanges.reserve(KEY), first.exchange)
    free = asyncio.Event()

    async def poll() -> None:
        async with exchanges.using(KEY) as (place, _):
            await free.wait()
            exchanges.end(place)

    waiting = asyncio.create_task(poll())
    await asyncio.sleep(0)
    async with exchanges.using(KEY) as (place, _):
        exchanges.end(place)
    exchanges.add(exchanges.reserve(KEY), second.exchange)
    if leaves:
        waiting.cancel()
    free.set()
    await asyncio.gather(waiting, return_exceptions=True)
    async with exchanges.using(KEY) as (_, exchange):
        assert exchange is second.exchange
    await exchanges.stop()


async def test_a_call_that_is_accepted_while_all_are_ended_is_closed() -> None:
    exchanges = Exchanges(timedelta(seconds=60))
    work = Work()
    place = exchanges.reserve(KEY)
    await exchanges.stop()
    with pytest.raises(Refusal, match="stopping"):
        exchanges.add(place, work.exchange)
    await exchanges.stop()
    with pytest.raises(Released):
        await work.exchange.poll(0)


async def test_results_that_wait_to_be_polled_are_bounded_in_bytes() -> None:
    """A result for which its client waits does not count, whatever its size."""
    unpolled = Unpolled(100)
    waited, kept, refused = (Work(size, unpolled) for size in (500, 60, 60))
    poll = asyncio.create_task(waited.exchange.poll(60))
    await asyncio.sleep(0)
    for work in (waited, kept, refused):
        work.end.set()
    assert len((await within(poll)).payload[0].data) == 500
    assert len((await kept.exchange.poll(10)).payload[0].data) == 60
    await until(lambda: unpolled.taken in {0, 60}, "the others have ended")
    with pytest.raises(Overloaded):
        await refused.exchange.poll(10)
    for work in (waited, kept, refused):
        await work.exchange.close()
    assert unpolled.taken == 0


async def test_one_tenant_does_not_take_all_places_nor_all_bytes() -> None:
    """Except the default tenant, which is that of the operators."""
    exchanges, unpolled = Exchanges(timedelta(seconds=60)), Unpolled(100)
    exchanges.most = 4
    places = [exchanges.reserve(Key(ONE, "", str(handle))) for handle in range(2)]
    with pytest.raises(Refusal, match="of this tenant"):
        exchanges.reserve(Key(ONE, "", "more"))
    places.append(exchanges.reserve(Key(OTHER, "", "h")))
    exchanges.end(places[0])
    exchanges.reserve(Key(ONE, "", "more"))
    unpolled.take(50, ONE)
    with pytest.raises(Overloaded, match="this tenant"):
        unpolled.take(1, ONE)
    unpolled.take(20, OTHER)
    unpolled.give_back(50, ONE)
    unpolled.take(50, ONE)
    unpolled.give_back(50, ONE)
    unpolled.take(80, DEFAULT_TENANT)
    await exchanges.stop()


async def test_a_failure_that_no_client_polls_is_not_logged_as_a_mistake() -> None:
    """asyncio reports exceptions that no code has retrieved."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def fail() -> Sequence[DataObject]:
        raise Overloaded("full")

    async def forget() -> None:
        exchange = OnceExchange(fail(), Unpolled())
        await until(lambda: exchange.over, "the call has failed")

    await forget()
    gc.collect()
    assert reported == []


class Ending:
    """A form in which every chunk ends the one result."""

    service = "s"
    expected = ("r",)

    def first(self, _request: ServiceRequest) -> tuple[CallInput, CallInput | None]:
        raise NotImplementedError

    def part(self, _request: ServiceRequest) -> CallInput:
        raise NotImplementedError

    def results(self, json: bytes, _segments: Sequence[Segment]) -> list[Result]:
        return [(DataObject(name="r", data=json), Status.END)]


async def test_results_after_the_last_one_are_left_out() -> None:
    """An RPC that still waits when another one has got the last result learns of the end, and of no mistake."""
    request = Request(method="POST", url_path="/", headers={}, body=Body.of(b""))
    exchange = StreamExchange(
        Ending(),
        request,
        Rules(Document({"meta": {"serviceId": "s"}})),
        documented=False,
        data=SessionInput(),
        first=1,
        header={},
    )
    call = LiveSession(b"{}", windows=Windows(), part_windows=Windows(), listener=exchange)
    await exchange.begin(call, CallInput(json=b"{}", value={}, segments=[], fields={}), None, last=False)
    call.add_chunk(b"1", [], 1)
    assert [one.data for one in (await exchange.poll(0)).payload] == [b"1"]
    call.done.set_result(CallResult(b"2", [], 0.0, 0.0, "1"))
    late = await exchange.poll(0)
    assert (late.status, list(late.payload)) == (Status.END, [])
    await exchange.close()


def test_messages_are_handed_out_in_order() -> None:
    order: Order[str] = Order(4)
    assert order.put(6, "b", 1) == []
    assert order.put(6, "b", 1) == []
    assert order.put(5, "a", 1) == ["a", "b"]
    assert order.put(4, "old", 1) == []
    assert order.next == 7


def test_messages_that_wait_are_bounded_in_number_and_bytes() -> None:
    """The one that all wait for is always taken."""
    order: Order[int] = Order(0)
    assert order.put(2, 2, MAX_AHEAD_BYTES) == []
    with pytest.raises(TooFarAhead):
        order.put(3, 3, 1)
    assert order.put(1, 1, MAX_AHEAD_BYTES) == [1, 2]
    for number in range(4, 68):
        assert order.put(number, number, 0) == []
    with pytest.raises(TooFarAhead):
        order.put(68, 68, 0)
    assert order.put(3, 3, 0) == list(range(3, 68))
