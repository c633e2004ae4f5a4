"""The service ``aiges.WrapperService`` of a plugin, and the conversion of its messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import codes, kinds
from penstock.models.replica.aiges.calls import Item
from penstock.models.replica.aiges.messages import plugin_pb2 as messages

SERVICE: Final = "aiges.WrapperService"
HEALTH: Final = "plugin"  # the name by which a plugin reports its health
_MAX_RESULT: Final = 64 * 2**20  # bytes of a message with results

OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_RESULT),
    ("grpc.max_send_message_length", -1),  # the host limits inputs
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a call must not run twice
    ("grpc.use_local_subchannel_pool", 1),
)


class Service:
    """The methods of a plugin, on a channel of gRPC: of threads, or of an event loop."""

    def __init__(self, channel: Any) -> None:
        def method(name: str, request: Any, response: Any) -> Any:
            return channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        self.init = method("wrapperInit", messages.InitRequest, messages.Ret)
        self.schema = method("wrapperSchema", messages.SvcId, messages.Schema)
        self.execute = method("wrapperOnceExec", messages.Request, messages.Response)
        self.create = method("wrapperCreate", messages.CreateRequest, messages.Handle)
        self.write = method("wrapperWrite", messages.WriteMessage, messages.Ret)
        self.destroy = method("wrapperDestroy", messages.Handle, messages.Ret)
        self.communicate = channel.stream_stream(
            f"/{SERVICE}/communicate",
            request_serializer=messages.Request.SerializeToString,
            response_deserializer=messages.Response.FromString,
        )
        self.health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self.watch_health = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )


@contextmanager
def connected(target: str) -> Iterator[Service]:
    """Connect to a plugin for as long as the block runs, and check its health. Raises CallFailed (``unavailable``)."""
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        service = Service(channel)
        _check_health(service)
        yield service


def init(service: Service, config: Mapping[str, str]) -> None:
    """Let the engine load. Raises CallFailed (``unavailable``)."""
    try:
        returned = service.init(messages.InitRequest(config=config))
    except grpc.RpcError as error:
        raise codes.failed(codes.INIT_RAISED, _text(error, "wrapperInit"), category=Category.UNAVAILABLE) from None
    if returned.ret:
        failure = refused(returned.ret, codes.INIT)
        raise codes.failed(codes.INIT, failure.message, category=Category.UNAVAILABLE)


def _check_health(service: Service) -> None:
    try:
        health = service.health(health_pb2.HealthCheckRequest(service=HEALTH), wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return  # it cannot report its health
        raise CallFailed(Category.UNAVAILABLE, _text(error, "the plugin's health cannot be checked")) from None
    if health.status != health_pb2.HealthCheckResponse.SERVING:
        raise CallFailed(Category.UNAVAILABLE, "the plugin reports that it is not healthy")


def _text(error: grpc.RpcError, what: str) -> str:
    return f"{what}: {error.details() or error.code().name}"


def request_of(tag: str, params: Mapping[str, str], items: Sequence[Item]) -> messages.Request:
    """Return a call, or a part of a session."""
    return messages.Request(tag=tag, params=params, list=[_request_data(item) for item in items])


def items_of(response: messages.Response) -> list[Item]:
    """Return the results in a response. Raises CallFailed for what cannot be right."""
    return [_item(one) for one in response.list]


def refused(number: int, code: int) -> CallFailed:
    """Return the failure of a call for which the plugin returned a number; plugins have no words for them."""
    return codes.refused(code, number, "")


def broken(error: grpc.RpcError, method: str) -> CallFailed:
    """Return the failure of a call whose method did not return."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return CallFailed(Category.UNAVAILABLE, f"{method}: the connection to the plugin is lost")
    return codes.failed(codes.EXEC_RAISED, _text(error, method))


def _request_data(item: Item) -> messages.RequestData:
    return messages.RequestData(
        key=item.key,
        len=len(item.data),
        type=item.kind,
        status=item.status,
        desc=item.attributes,
        data=bytes(item.data),
    )


def _item(stated: messages.ResponseData) -> Item:
    if stated.type >= len(kinds.NAMES) or stated.status > kinds.ONCE:
        raise codes.failed(
            codes.INVALID_OUTPUT,
            f"the plugin returned {stated.key[:100]!r} with the type {stated.type} and the status {stated.status}",
        )
    return Item(stated.key, stated.data, stated.type, stated.status, dict(stated.desc))
