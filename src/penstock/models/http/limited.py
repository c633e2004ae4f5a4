"""Admit live calls within the quotas of their sender."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

from penstock.errors import PenstockError
from penstock.models.http.metering import of_a_job
from penstock.models.http.streaming import EventFeed
from penstock.quotas.admission import Admission, Limited, Quotas
from penstock.web import problems
from penstock.web.request import Request
from penstock.web.response import EventStream, Response


async def within_quotas(
    quotas: Quotas,
    request: Request,
    call: Callable[[], Awaitable[Response | EventStream]],
    *,
    require_price: Callable[[], None],
) -> Response | EventStream:
    """Make a call of a model if the quotas allow it, and count it.

    A call that is refused (4xx, 503) costs nothing. One that began counts, even if it fails or its client leaves.
    Until it has ended, it also counts towards ``calls_at_once``. Under a quota of cost, ``require_price`` raises
    PriceMissing if the cost of the call would not be known. A worker's call for a job is not a live call.
    """
    if not quotas.concern(request.principal) or of_a_job(request):
        return await call()
    limited = await quotas.admit_call(request.principal)
    return await call() if limited is None else await _counted(limited, call, require_price)


async def _counted(
    limited: Limited, call: Callable[[], Awaitable[Response | EventStream]], require_price: Callable[[], None]
) -> Response | EventStream:
    admission = limited.admission
    response: Response | EventStream | None = None
    try:
        if limited.costs:
            require_price()
        response = await call()
    except PenstockError as error:
        response = problems.response(error)
    finally:
        if response is None or not _refused(response.status):
            admission.settle()
        if not isinstance(response, EventStream):
            admission.end()
    headers = [*response.headers, *limited.headers]
    if isinstance(response, EventStream):
        return dataclasses.replace(response, headers=headers, chunks=_Held(response.chunks, admission))
    return dataclasses.replace(response, headers=headers)


def _refused(status: int) -> bool:
    return 400 <= status < 500 or status == 503


class _Held:
    """The chunks of a stream whose call holds its place in the quotas until the model or the client has ended it."""

    def __init__(self, chunks: AsyncIterator[bytes], admission: Admission) -> None:
        self._chunks = chunks
        self._admission = admission
        if isinstance(chunks, EventFeed) and chunks.call is not None:
            chunks.call.done.add_done_callback(lambda _: admission.end())

    def __aiter__(self) -> _Held:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the stream. It is called however the stream ends."""
        self._admission.end()
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()
