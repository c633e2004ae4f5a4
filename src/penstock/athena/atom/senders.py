"""The senders of RPCs: each is identified before its message is read.

A sender states its key as an HTTP client does: in the metadata ``authorization``, as a bearer or a signature of the
lines ``host``, ``date`` and ``POST /utils.XsfCall/call HTTP/1.1``. The metadata ``penstock-user`` and
``penstock-tenant`` mean what the headers of these names do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio

from penstock.athena.authentication import Authentication, Caller, Refused
from penstock.errors import Overloaded, PenstockError, ServiceError
from penstock.telemetry import logs
from penstock.web.body import Body
from penstock.web.request import Request

log = logs.get(__name__)

if TYPE_CHECKING:  # these classes are generic in their stubs only
    Details = grpc.HandlerCallDetails
    Handler = grpc.RpcMethodHandler[Any, Any]

_NO_DIGEST: Final = "a digest cannot be signed here: sign host, date and request-line"
_OPEN: Final = frozenset({"/grpc.health.v1.Health/Check"})  # may be called without a key
_STATUSES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The sender of one RPC, and the RPC as a request, by which its usage is recorded and its quotas are found."""

    request: Request
    caller: Caller


_sender: Final[ContextVar[Sender]] = ContextVar("sender")


def sender() -> Sender:
    """Return the sender of the RPC that is being served."""
    return _sender.get()


class SenderCheck(grpc.aio.ServerInterceptor):
    """Refuses RPCs without a valid key, if keys are needed, and those of keys that may not call models."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        if handler_call_details.method not in _OPEN:
            try:
                request = request_of(handler_call_details)
                caller = await self._authentication.identify(request)
            except Refused as error:
                return _refusal(_STATUSES.get(error.status, grpc.StatusCode.UNAUTHENTICATED), str(error))
            except Overloaded as error:
                return _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
            except ServiceError as error:
                return _refusal(grpc.StatusCode.UNAVAILABLE, error.message)
            except PenstockError as error:
                return _refusal(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            except Exception:  # a mistake in Penstock; its details appear only in the log
                log.exception("grpc_check_failed", method=handler_call_details.method)
                return _refusal(grpc.StatusCode.INTERNAL, "the service failed to process this request")
            if caller.body_digest is not None:  # it would not be compared with the message
                return _refusal(grpc.StatusCode.UNAUTHENTICATED, _NO_DIGEST)
            _sender.set(Sender(request=request, caller=caller))
        return await continuation(handler_call_details)


def request_of(details: Details) -> Request:
    """Return an RPC as an HTTP request: its method as the path, its metadata as headers."""
    headers: dict[bytes, bytes] = {}
    for name, value in details.invocation_metadata or ():
        headers.setdefault(
            name.lower().encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1")
        )
    return Request(method="POST", url_path=details.method, headers=headers, body=Body.of(b""))


def _refusal(status: grpc.StatusCode, detail: str) -> Handler:
    """Return a handler that ends an RPC. It is one of streams, because these begin before a message was read."""

    async def refuse(_messages: Any, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await context.abort(status, detail)

    return grpc.stream_stream_rpc_method_handler(refuse)
