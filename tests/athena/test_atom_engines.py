"""Engines over gRPC: wrappers of the original, called as the original's loader was; and bytes that harm nothing."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput, MetaDesc, Payload
from penstock.athena.protocol.messages.xsf_pb2 import DataMeta, ReqData, ResData, Session
from tests.athena.rpc import RpcClient, data_of, model, part, rpc_client, text
from tests.athena.test_streaming_engines import WRAPPER
from tests.support import wrappers
from tests.support.engines import put_engine
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

OPERATIONS = ["AIIn", "AIOut", "AIExcp", "AIHotword", "AILBType", "AIDetect", "req", "exception", "x", ""]
RELAXED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    engine: Path = folder / "asr"
    engine.mkdir()
    wrappers.write(engine, textwrap.dedent(WRAPPER))
    (engine / "model.toml").write_text('runtime = "aiges"\nconcurrency = 4\n')
    put_engine(folder)
    async with running_gateway(module_database_url, models_folder=folder, penstock_athena_grpc_port=0) as caller:
        yield caller


@pytest.fixture
async def client(gateway: HttpCaller) -> AsyncIterator[RpcClient]:
    """A client; when its test has ended, no place is taken."""
    async with rpc_client(gateway) as client:
        yield client
    engines = [model(gateway, name) for name in ("asr", "ocr")]
    await until(lambda: not any(one.in_flight or one.waiting for one in engines), "every place is free")


async def test_an_engine_gets_numbers_and_the_results_that_are_expected(client: RpcClient) -> None:
    """Its parameter `scale` is a number, which arrives as text."""
    image = Payload(
        meta=MetaDesc(name="img", dataType="IMAGE", attribute={"encoding": "png", "status": "3"}), data=b"12"
    )
    given_input = LoaderInput(
        serviceId="ocr",
        state="ONCE",
        headers={"appid": "a"},
        params={"lang": "zh", "scale": "2.5"},
        expect=[MetaDesc(name="crop", dataType="IMAGE"), MetaDesc(name="boxes", attribute={"format": "json"})],
        pl=[image],
    )
    output = await client.rest("e-1", await client.loader("AIIn", "e-1", given_input, SeqNo=1, waitTime=20000))
    assert (output.code, output.status) == (0, LoaderOutput.ONCE), output.err
    results = {one.meta.name: one for one in output.pl}
    seen = msgspec.json.decode(results["boxes"].data)
    assert (seen["lang"], seen["scale"], seen["bytes"], seen["sid"]) == ("zh", 2.5, 2, "e-1")
    assert (results["crop"].meta.dataType, results["crop"].data) == (MetaDesc.IMAGE, b"21")


async def test_the_document_of_a_service_states_defaults(client: RpcClient) -> None:
    """As over HTTP."""
    image = Payload(meta=MetaDesc(name="img", dataType="IMAGE"), data=b"12")
    output = await client.once("ocr", "e-3", image)
    assert msgspec.json.decode(output.pl[0].data)["lang"] == "en"


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ({"scale": "many"}, 10163, "parameter.ocr.scale"),
        ({"scale": "11"}, 10163, "parameter.ocr.scale"),
        ({"lang": "fr"}, 10163, "parameter.ocr.lang"),
        ({"act": "raise"}, 10909, "the engine is unhappy"),
        ({"act": "nonsense"}, 10909, "payload"),
        ({"act": "exit"}, 10109, "ended"),
    ],
)
async def test_what_an_engine_or_its_schema_refuses_has_its_code(
    client: RpcClient, params: dict[str, str], code: int, message: str
) -> None:
    image = Payload(meta=MetaDesc(name="img", dataType="IMAGE", attribute={"encoding": "png"}), data=b"12")
    output = await client.once("ocr", "e-2", image, **params)
    assert (output.code, output.status) == (code, LoaderOutput.END), output
    assert message in output.err


async def test_a_wrapper_s_session_ends_with_its_status(client: RpcClient) -> None:
    first = part("asr", 1, text("sound", "one", 0), mark="> ")
    outputs = [await client.loader("AIIn", "w-1", first, SeqNo=1)]
    assert outputs[0].code == 0, outputs
    outputs.append(await client.loader("AIIn", "w-1", part("asr", 2, text("sound", "two", 1)), SeqNo=2))
    outputs.append(await client.loader("AIIn", "w-1", part("asr", 3, text("sound", "three", 2)), SeqNo=3))
    if outputs[-1].status != LoaderOutput.END:
        outputs += await client.results("w-1")
    assert data_of(outputs) == ["> ONE", "> TWO", "> THREE"]
    assert [one.status for one in outputs if one.pl] == [0, 1, 2]


async def test_the_code_of_a_wrapper_reaches_the_client(client: RpcClient) -> None:
    await client.loader("AIIn", "w-2", part("asr", 1, text("sound", "one", 0)), SeqNo=1)
    output = await client.loader("AIIn", "w-2", part("asr", 2, text("sound", "fail", 1)), SeqNo=2)
    outputs = [output] if output.code else await client.results("w-2")
    assert (outputs[-1].code, outputs[-1].status) == (10907, LoaderOutput.END)
    assert "the engine is unhappy;code=7" in outputs[-1].err


# Hostile messages


CALLS = st.builds(
    lambda op, handle, param, data: ReqData(
        op=op, s=Session(h=handle), param=param, data=[DataMeta(data=one) for one in data]
    ).SerializeToString(),
    st.sampled_from(OPERATIONS),
    st.sampled_from(["", "a", "b"]),
    st.dictionaries(
        st.sampled_from(["SeqNo", "waitTime", "version", "serviceId", "authzNo"]),
        st.sampled_from(["", "0", "1", "2", "-1", "x", "v1", "v2", "asr", "ocr", "99999999999999999999"]),
    ).filter(lambda param: param.get("waitTime") != ""),
    st.lists(
        st.binary(max_size=80)
        | st.sampled_from([part("asr", 1, text("sound", "x", 0)), part("ocr", 2, text("a", "b", 2))]).map(
            lambda one: one.SerializeToString()
        ),
        max_size=3,
    ),
)


@RELAXED
@given(message=CALLS | st.binary(max_size=200), at=st.integers(0, 300), inserted=st.binary(max_size=3))
async def test_any_bytes_get_a_response_or_a_refusal(
    client: RpcClient, message: bytes, at: int, inserted: bytes
) -> None:
    """Never an internal error, and never a call that stays."""
    for sent in (message, message[:at] + inserted + message[at + 1 :]):
        try:
            response = ResData.FromString(await client.raw(sent, timeout=20))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                continue
            raise
        assert 11502 not in {response.code, *(_code(one.data) for one in response.data)}
    for handle in ("a", "b"):
        await client.loader("AIExcp", handle)
    await client.loader("AILBType", "x", authzNo=10000)


def _code(data: bytes) -> int:
    try:
        return LoaderOutput.FromString(data).code
    except DecodeError:  # another form's message
        return 0
