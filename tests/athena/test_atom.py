"""The gRPC server: calls and sessions of the original's clients, with the outcomes that these know."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.athena.protocol.data import DataObject, DataType, Status
from penstock.athena.protocol.forms import biz
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.messages.general_pb2 import GeneralData, GlobalRoute
from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput
from penstock.athena.protocol.messages.xsf_pb2 import DataMeta, ReqData, ResData, Session
from penstock.athena.protocol.requests import RequestMessage, ServiceParameter
from tests.athena.rpc import GATED, MAX_POLLS, RELAY, SHOUT, SLOW, RpcClient, data_of, model, part, rpc_client, text
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    put_python(folder, "shout", SHOUT)
    put_python(folder, "relay", RELAY, extra="concurrency = 200")
    put_python(folder, "slow", SLOW, extra="concurrency = 8")
    put_python(folder, "gated", GATED, extra="concurrency = 8\nreplicas = 1")
    async with running_gateway(module_database_url, models_folder=folder, penstock_athena_grpc_port=0) as caller:
        yield caller


@pytest.fixture
async def client(gateway: HttpCaller) -> AsyncIterator[RpcClient]:
    async with rpc_client(gateway) as client:
        yield client


def slow_call(handle: str) -> bytes:
    """Return a call that takes for ever, by a client that waits for a minute."""
    given = LoaderInput(serviceId="slow", state="ONCE", pl=[text("text", "x")])
    return ReqData(
        op="AIIn",
        s=Session(h=handle),
        param={"SeqNo": "1", "waitTime": "60000"},
        data=[DataMeta(data=given.SerializeToString())],
    ).SerializeToString()


# Calls


async def test_a_once_call_returns_its_result(client: RpcClient) -> None:
    """Parameters are texts; the model gets the numbers that it declares."""
    output = await client.once("shout", "once-1", text("text", "abc", 3), times="2")
    assert (output.code, output.status) == (0, LoaderOutput.ONCE)
    (result,) = output.pl
    assert (result.meta.name, result.data) == ("result", b"ABCABC")
    assert result.meta.attribute["status"] == "3"


async def test_the_response_names_the_service_and_repeats_handle_and_trace(client: RpcClient) -> None:
    await client.once("shout", "once-2", text("text", "a"))  # so that the model is loaded
    given = LoaderInput(serviceId="shout", state="ONCE", pl=[text("text", "b")])
    response = await client.call("AIIn", "once-3", [given.SerializeToString()], SeqNo=1, waitTime=20000)
    assert (response.code, response.s.h, response.s.t) == (0, "once-3", "trace")
    output = LoaderOutput.FromString(response.data[0].data)
    assert (output.serviceId, output.pl[0].data) == ("shout", b"B")


async def test_a_call_without_a_handle_gets_one(client: RpcClient) -> None:
    """It is an id in the original's format."""
    given = LoaderInput(serviceId="shout", state="ONCE", pl=[text("text", "b")])
    response = await client.call("AIIn", "", [given.SerializeToString()], SeqNo=1, waitTime=0)
    assert len(response.s.h) == 32
    output = await client.rest(response.s.h, LoaderOutput.FromString(response.data[0].data))
    assert output.pl[0].data == b"B"


async def test_the_document_s_messages_work_as_the_loader_s_do(client: RpcClient) -> None:
    route = GlobalRoute(appid="a", uid="u", session_state="ONCE")
    request = ReqData(
        op="AIIn",
        s=Session(h="doc-1", sess={"device": "x"}),
        param={"version": "v1", "serviceId": "shout", "SeqNo": "1", "waitTime": "20000"},
        data=[
            DataMeta(data=route.SerializeToString(), desc={"times": "3"}),
            DataMeta(data=GeneralData(data_id="text", status="ONCE", data=b"ab").SerializeToString()),
        ],
    )
    response = ResData.FromString(await client.raw(request.SerializeToString()))
    assert (response.code, response.param["status"]) == (0, "3")
    result = GeneralData.FromString(response.data[0].data)
    assert (result.data_id, result.data, result.status) == ("result", b"ABABAB", GeneralData.ONCE)


async def test_errors_of_the_document_s_form_are_in_the_response(client: RpcClient) -> None:
    response = await client.call("AIOut", "nowhere", version="v1")
    assert (response.code, response.error_info) == (10008, "the handle of the session is not valid")


async def test_a_web_gateway_s_call_is_served(client: RpcClient) -> None:
    """Its service is a field of the header."""
    request = RpcRequest(
        service="shout",
        message=RequestMessage(
            header={"appid": "a", "sid": "biz-1"},
            parameter={"shout": ServiceParameter(values={"times": "2"}, expected={"result": {"encoding": "utf8"}})},
            payload={"text": DataObject(name="text", type=DataType.TEXT, data=b"x", status=Status.ONCE)},
        ),
        number=1,
    )
    encoded = biz.encode_call(request, biz.Route(call="atmos"))
    response, session = biz.decode_result((await client.call("req", "", [encoded], waitTime=20000)).data[0].data)
    assert (response.code, response.status, session) == (0, Status.ONCE, {"handle": "biz-1"})
    assert [(one.name, one.data) for one in response.payload] == [("result", b"XX")]


async def test_a_web_gateway_s_call_of_several_services_is_refused(client: RpcClient) -> None:
    """Those are served over HTTP."""
    message = RequestMessage(parameter={name: ServiceParameter(values={"a": "b"}) for name in ("shout", "relay")})
    encoded = biz.encode_call(RpcRequest(service="shout", message=message, number=1), biz.Route())
    response, _ = biz.decode_result((await client.call("req", "", [encoded])).data[0].data)
    assert (response.code, "several" in response.message) == (10163, True)


async def test_a_web_gateway_s_session_is_served(client: RpcClient) -> None:
    """Results come with its calls, and with polls, which hold no data."""

    sessions: list[dict[str, str]] = [{}]
    ended = [False]

    async def call(number: int, data: str = "", *, last: bool = False) -> list[str]:
        status = Status.END if last else Status.BEGIN if number == 1 else Status.CONTINUE
        message = RequestMessage(
            header={"service_id": "relay"} if number == 1 else {},
            parameter={"relay": ServiceParameter(values={"greeting": "hi"})} if number == 1 else {},
            payload={"p": DataObject(name="p", data=data.encode(), status=status)} if data else {},
        )
        request = RpcRequest(service="", message=message, once=False, number=number)
        encoded = biz.encode_call(request, biz.Route(sync=False, session=sessions[-1]))
        answer = await client.call("req", "", [encoded], waitTime=5000)
        response, session = biz.decode_result(answer.data[0].data)
        assert response.code == 0, response.message
        sessions.append(session)
        ended.append(response.status is Status.END)
        return [one.data.decode() for one in response.payload]

    found = await call(1, "a") + await call(2, "b", last=True)
    for _ in range(MAX_POLLS):
        if ended[-1]:
            break
        found += await call(3)
    assert found == ["hi", "A", "B", "end"]


# Sessions


async def test_a_session_streams_both_ways(client: RpcClient) -> None:
    """As the original's clients do: AIIn with SeqNo 1, 2, 3, then AIOut until the end."""
    first = await client.loader("AIIn", "s-1", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    assert (first.code, first.status) == (0, LoaderOutput.BEGIN)
    outputs = [first]
    for number, (data, status) in enumerate([("b", 1), ("c", 2)], 2):
        outputs.append(await client.loader("AIIn", "s-1", part("relay", number, text("p", data, status)), SeqNo=number))
    outputs += await client.results("s-1")
    assert data_of(outputs) == ["hi", "A", "B", "C", "end"]
    with_results = [output for output in outputs if output.pl]
    assert [one.status for one in with_results] == [0, 1, 1, 1, 1]
    assert (outputs[-1].status, len(outputs[-1].pl)) == (LoaderOutput.END, 0)
    assert [one.pl[0].meta.attribute["seq"] for one in with_results] == ["1", "2", "3", "4", "5"]


async def test_results_leave_while_the_client_still_sends(client: RpcClient) -> None:
    first = await client.loader("AIIn", "s-2", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    assert data_of(await client.some("s-2", first, 2)) == ["hi", "A"]
    await client.loader("AIIn", "s-2", part("relay", 2, text("p", "b", 2)), SeqNo=2)
    assert data_of(await client.results("s-2"))[-1] == "end"


async def test_messages_that_overtake_one_another_arrive_in_order_and_once(client: RpcClient) -> None:
    """By the numbers of the loader's form. A repeated message changes nothing."""
    first = await client.loader("AIIn", "s-3", part("relay", 7, text("p", "a", 0), greeting="hi"), SeqNo=1)
    found = [first]  # it may hold a result already
    for number, data, status in ((9, "c", 1), (8, "b", 1), (8, "b", 1), (10, "d", 2), (9, "c", 1)):
        found.append(await client.loader("AIIn", "s-3", part("relay", number, text("p", data, status)), SeqNo=number))
    found += await client.results("s-3")
    assert data_of(found) == ["hi", "A", "B", "C", "D", "end"]


async def test_clients_that_number_by_seq_no_only_are_understood(client: RpcClient) -> None:
    first = await client.loader("AIIn", "s-4", part("relay", 0, text("p", "a", 0), greeting="hi"), SeqNo=1)
    found = [first]  # it may hold a result already
    for seq, data, status in ((3, "c", 2), (2, "b", 1)):
        found.append(await client.loader("AIIn", "s-4", part("relay", 0, text("p", data, status)), SeqNo=seq))
    found += await client.results("s-4")
    assert data_of(found) == ["hi", "A", "B", "C", "end"]


async def test_a_message_too_far_ahead_is_refused_and_the_session_lives(client: RpcClient) -> None:
    """What waits for a message that has not come is bounded."""
    await client.loader("AIIn", "s-5", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    refused = 0
    for number in range(3, 80):
        output = await client.loader("AIIn", "s-5", part("relay", number, text("p", "x", 1)), SeqNo=number)
        refused += output.code == 10009
    assert refused == 77 - 64
    assert (await client.loader("AIExcp", "s-5")).code == 0


async def test_a_message_that_cannot_continue_ends_the_session_with_those_that_waited_for_it(
    gateway: HttpCaller, client: RpcClient
) -> None:
    """Later messages were accepted already; a session without their data would be wrong."""
    await client.loader("AIIn", "s-10", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    for number, name, data, status in ((3, "p", "c", 2), (4, "p", "d", 1), (5, "q", "e", 2)):
        given = part("relay", number, text(name, data, status))
        assert (await client.loader("AIIn", "s-10", given, SeqNo=number)).code == 0
    refused = await client.loader("AIIn", "s-10", part("relay", 2, text("q", "b", 0)), SeqNo=2)
    assert (refused.code, "has ended" in refused.err) == (10009, True), refused
    assert (await client.loader("AIOut", "s-10")).code == 10101
    await until(lambda: model(gateway, "relay").in_flight == 0, "the place is free")


async def test_a_session_outlives_short_deadlines_while_its_engine_takes_nothing(client: RpcClient) -> None:
    """Messages wait without their RPCs until they are too many. A refused one may be sent again."""

    async def send(number: int, status: int) -> LoaderOutput:
        data = str(number) * 1_000_000
        params = {"greeting": "hi"} if number == 1 else {}
        message = part("gated", number, text("p", data, status), **params)
        call = ReqData(
            op="AIIn",
            s=Session(h="gate"),
            param={"SeqNo": str(number)},
            data=[DataMeta(data=message.SerializeToString())],
        )
        response = ResData.FromString(await client.raw(call.SerializeToString(), timeout=1))
        return LoaderOutput.FromString(response.data[0].data)

    await client.once("gated", "warm", text("greeting", "x"))
    assert [(await send(number, min(number - 1, 1))).code for number in (1, 2, 3)] == [0, 0, 10102]
    await client.once("gated", "open", text("greeting", "open"))
    again = await send(3, 2)  # it may hold a result already
    results = data_of([again, *await client.results("gate")])
    assert results == ["1000000 of 1", "1000000 of 2", "1000000 of 3"]


async def test_an_exception_ends_a_session_and_frees_its_place(gateway: HttpCaller, client: RpcClient) -> None:
    await client.loader("AIIn", "s-6", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    assert (await client.loader("AIExcp", "s-6")).code == 0
    await until(lambda: model(gateway, "relay").in_flight == 0, "the place is free")
    ended = await client.loader("AIOut", "s-6")
    assert (ended.code, ended.status) == (10101, LoaderOutput.END)


async def test_an_exception_ends_what_another_rpc_waits_for(gateway: HttpCaller, client: RpcClient) -> None:
    """Of a session, and of a call; the one that waits learns of it at once."""
    first = await client.loader("AIIn", "s-8", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    await client.some("s-8", first, 2)  # there are no more
    waiting = [asyncio.create_task(client.loader("AIOut", "s-8", waitTime=60000))]
    waiting.append(asyncio.create_task(client.raw_output(slow_call("s-9"))))
    await until(lambda: model(gateway, "slow").in_flight == 1, "the call runs")
    for handle in ("s-8", "s-9"):
        assert (await client.loader("AIExcp", handle)).code == 0
    for output in await asyncio.gather(*waiting):
        assert (output.code, output.status) == (10101, LoaderOutput.END)
    await until(lambda: not model(gateway, "slow").in_flight, "the call has ended")


async def test_a_hundred_sessions_at_once_do_not_mix(gateway: HttpCaller, client: RpcClient) -> None:
    async def one(name: int) -> None:
        handle = f"many-{name}"
        found = [
            await client.loader("AIIn", handle, part("relay", 1, text("p", f"a{name}", 0), greeting="hi"), SeqNo=1)
        ]
        for number in range(2, 6):
            status = 2 if number == 5 else 1
            given = part("relay", number, text("p", f"x{name}.{number}", status))
            found.append(await client.loader("AIIn", handle, given, SeqNo=number))
        found += await client.results(handle)
        expected = ["hi", f"A{name}", *(f"X{name}.{number}" for number in range(2, 6)), "end"]
        assert data_of(found) == expected

    await asyncio.gather(*(one(name) for name in range(100)))
    await until(lambda: model(gateway, "relay").in_flight == 0, "all places are free")


async def test_the_end_of_an_engine_ends_its_session_with_an_error(gateway: HttpCaller, client: RpcClient) -> None:
    await client.loader("AIIn", "s-7", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    await client.loader("AIOut", "s-7", waitTime=5000)
    pid = model(gateway, "relay").replicas[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    outputs = await client.results("s-7")
    assert (outputs[-1].code, outputs[-1].status) == (10109, LoaderOutput.END)
    assert (await client.loader("AIOut", "s-7")).code == 10101


async def test_a_client_that_leaves_ends_its_call(gateway: HttpCaller, client: RpcClient) -> None:
    request = slow_call("left")
    method: Any = client.channel.unary_unary("/utils.XsfCall/call")
    call = method(request, timeout=60)
    await until(lambda: model(gateway, "slow").in_flight == 1, "the call runs")
    call.cancel()
    await until(lambda: model(gateway, "slow").in_flight == 0, "the call has ended")
    assert (await client.loader("AIOut", "left")).code == 10101


async def test_a_wait_ends_before_the_deadline_of_the_rpc(gateway: HttpCaller, client: RpcClient) -> None:
    """So that a client which polls with a short deadline does not end its call."""
    request = slow_call("short")
    response = ResData.FromString(await client.raw(request, timeout=0.5))
    output = LoaderOutput.FromString(response.data[0].data)
    assert (output.code, output.status, len(output.pl)) == (0, LoaderOutput.BEGIN, 0)
    assert (await client.loader("AIExcp", "short")).code == 0
    await until(lambda: model(gateway, "slow").in_flight == 0, "the call has ended")


# Mistakes


@pytest.mark.parametrize(
    ("op", "handle", "given", "param", "code", "message"),
    [
        ("AIWhat", "x", None, {}, 10003, "AIIn"),
        ("", "x", None, {}, 10003, "AIIn"),
        ("AIOut", "nowhere", None, {}, 10008, "handle"),
        ("AIIn", "nowhere", None, {"SeqNo": 2}, 10008, "handle"),
        ("AIExcp", "nowhere", None, {}, 10008, "handle"),
        ("AIIn", "x", None, {"SeqNo": 1}, 10163, "serviceId"),
        ("AIIn", "x", None, {"SeqNo": "one"}, 10163, "SeqNo"),
        ("AIIn", "x", None, {"SeqNo": 1, "waitTime": -5}, 10163, "waitTime"),
        ("AIIn", "x", None, {"SeqNo": 1, "version": "v9"}, 10163, "version"),
        ("AIIn", "x", LoaderInput(serviceId="none", state="ONCE"), {"SeqNo": 1}, 10404, "none"),
        ("AIIn", "x", LoaderInput(serviceId="shout", state="ONCE"), {"SeqNo": 1, "waitTime": 20000}, 10163, "payload"),
        (
            "AIIn",
            "x",
            LoaderInput(serviceId="shout", state="ONCE", params={"times": "no"}, pl=[text("text", "a")]),
            {"SeqNo": 1, "waitTime": 20000},
            10163,
            "parameter.shout.times",
        ),
        ("AIIn", "x", part("shout", 1, text("text", "a", 0)), {"SeqNo": 1}, 10004, "sessions"),
        ("AIIn", "x", part("relay", 1, text("p", "a", 1), greeting="h"), {"SeqNo": 1}, 10009, "status 0"),
        ("AIIn", "x", part("relay", 1, text("p", "a", 0)), {"SeqNo": 1}, 10163, "greeting"),
        ("AILoad", "x", None, {}, 10163, "serviceId"),
        ("AILBType", "x", None, {"authzNo": 0}, 10163, "authzNo"),
        ("req", "x", None, {}, 10163, "serverbiz"),
    ],
)
async def test_a_mistake_gets_its_code(
    client: RpcClient,
    op: str,
    handle: str,
    given: LoaderInput | None,
    param: dict[str, object],
    code: int,
    message: str,
) -> None:
    """The outcome is in the output, and the call or session does not exist."""
    data = [] if given is None else [given.SerializeToString()]
    response = await client.call(op, handle, data, **param)
    if op == "req":
        outcome, _ = biz.decode_result(response.data[0].data)
        assert (outcome.code, message in outcome.message) == (code, True), outcome
        return
    assert response.code == 0  # the original's clients would try another server
    output = await client.rest(handle, LoaderOutput.FromString(response.data[0].data))
    assert (output.code, output.status) == (code, LoaderOutput.END), output
    assert message in output.err
    assert (await client.loader("AIOut", handle)).code in {10008, 10101}


async def test_data_that_is_not_the_form_s_message_gets_its_code(client: RpcClient) -> None:
    for op in ("AIIn", "AIDetect", "req", "exception"):
        response = await client.call(op, "x", [b"\xff\xff\xff"], SeqNo=1)
        if op in {"req", "exception"}:
            assert biz.decode_result(response.data[0].data)[0].code == 10401
        else:
            assert LoaderOutput.FromString(response.data[0].data).code == 10401
    assert (await client.call("AIIn", "x", [b"\xff"], SeqNo=1, version="v1", serviceId="shout")).code == 10401


async def test_a_handle_in_use_cannot_begin_again(client: RpcClient) -> None:
    await client.loader("AIIn", "twice", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    again = await client.loader("AIIn", "twice", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    assert again.code == 10105
    await client.loader("AIIn", "twice", part("relay", 2, text("p", "b", 2)), SeqNo=2)
    assert data_of(await client.results("twice"))[-1] == "end"


async def test_data_after_the_last_message_is_refused(client: RpcClient) -> None:
    await client.loader("AIIn", "late", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    await client.loader("AIIn", "late", part("relay", 2, text("p", "b", 2)), SeqNo=2)
    late = await client.loader("AIIn", "late", part("relay", 3, text("p", "c", 1)), SeqNo=3)
    assert late.code == 10202
    assert data_of(await client.results("late"))[-1] == "end"


async def test_what_is_not_a_call_ends_in_a_status_of_grpc(client: RpcClient) -> None:
    async def refused(message: bytes, **options: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.raw(message, **options)
        return raised.value.code()

    assert await refused(b"\xff\xff\xff") is grpc.StatusCode.INVALID_ARGUMENT
    assert await refused(ReqData(op="AIOut", s=Session(h="x" * 200)).SerializeToString()) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    assert await refused(bytes(5 * 2**20)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await refused(b"", method="/utils.XsfCall/other") is grpc.StatusCode.UNIMPLEMENTED
    assert await refused(b"", method="/utils.ToolBox/cmdserver", metadata=[("penstock-user", "x" * 300)]) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


async def test_large_numbers_of_fields_are_refused(client: RpcClient) -> None:
    response = await client.call(
        "AIIn", "x", [LoaderInput(params={str(n): "" for n in range(300)}).SerializeToString()]
    )
    assert LoaderOutput.FromString(response.data[0].data).code == 10163
    with pytest.raises(grpc.aio.AioRpcError):
        await client.call("AIIn", "x", [], **{f"p{n}": "" for n in range(100)})


# Other operations


async def test_operations_without_a_call(gateway: HttpCaller, client: RpcClient) -> None:
    """AIHotword does nothing, as in the original. The others act on models and places."""
    assert (await client.loader("AIHotword", "x")).code == 0
    assert (await client.loader("AIDetect", "x")).code == 0
    assert (await client.loader("AIDetect", "x", LoaderInput(serviceId="shout"))).code == 0
    assert (await client.loader("AIDetect", "x", serviceId="none")).code == 10404
    assert (await client.loader("AILoad", "x", LoaderInput(serviceId="shout"))).code == 0
    assert model(gateway, "shout").ready
    assert (await client.loader("AIUnLoad", "x", serviceId="shout")).code == 0
    assert not model(gateway, "shout").ready
    assert (await client.once("shout", "again", text("text", "a"))).pl[0].data == b"A"


async def test_the_number_of_sessions_is_limited_and_may_be_changed(gateway: HttpCaller, client: RpcClient) -> None:
    """The original calls it the number of authorisations. Only this error is in the response too."""
    await client.loader("AIIn", "one", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
    assert (await client.loader("AILBType", "x", lbType="0", authzNo=1, timeout=100)).code == 0
    try:
        given = part("relay", 1, text("p", "a", 0), greeting="hi")
        response = await client.call("AIIn", "two", [given.SerializeToString()], SeqNo=1)
        assert (response.code, LoaderOutput.FromString(response.data[0].data).code) == (10110, 10110)
    finally:
        assert (await client.loader("AILBType", "x", authzNo=10000)).code == 0
    assert (await client.loader("AIExcp", "one")).code == 0


async def test_the_tool_box_reports_on_the_server(client: RpcClient) -> None:
    assert await client.tool('{"cmd": "health"}') == "health status: ok"
    assert "in progress: 0" in await client.tool('{"cmd": "status"}')
    assert "penstock_athena_exchanges" in await client.tool('{"cmd": "metrics"}')
    assert "help" in await client.tool('{"cmd": "heap"}')
    for query, headers in (("[]", "{}"), ("{}", "x"), ("{}", '{"method": "POST"}')):
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await client.tool(query, headers)


async def test_health_and_reflection(client: RpcClient) -> None:
    """As tools such as grpcurl and the probes of Kubernetes use them."""
    health = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", "utils.XsfCall", "utils.ToolBox"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == 1
    reflection = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names: set[str] = set()
    async for response in call:
        names |= {service.name for service in response.list_services_response.service}
    assert names >= {"utils.XsfCall", "utils.ToolBox", "grpc.health.v1.Health"}
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="utils.XsfCall")
    async for response in reflection.ServerReflectionInfo(iter([symbol])):
        assert response.file_descriptor_response.file_descriptor_proto
