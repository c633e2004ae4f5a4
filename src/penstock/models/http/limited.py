"""Admit live calls within the quotas of their sender."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from penstock.errors import PenstockError
from penstock.models.host.calls import LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.http.metering import Metering, Stated, of_a_job
from penstock.models.http.streaming import EventFeed
from penstock.models.http.token_bounds import Bounded, bounded
from penstock.models.inputs import Input
from penstock.quotas.admission import Admission, Limited, Quotas, TokenNeed
from penstock.web import problems
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream, Headers, Response

Answered = Response | ByteStream | EventStream
Begin = Callable[[bytes], LiveCall]  # begins the call, with its input as JSON


@dataclass(slots=True, kw_only=True)
class MeteredCall:
    """A live call of a request, within the quotas of its sender, whose usage is recorded."""

    quotas: Quotas
    metering: Metering
    request: Request
    deployment: Deployment
    given: Input
    stated: Stated = field(default_factory=Stated)
    _bounded: Bounded | None = None
    _admission: Admission | None = None

    async def within_quotas(self, respond: Callable[[], Awaitable[Answered]]) -> Answered:
        """Make the call by ``respond``, which calls ``begin``, if the quotas allow it, and count it.

        A call that is refused (4xx, 503) costs nothing. One that began counts, even if it fails or its client leaves.
        Until it has ended, it also counts towards ``calls_at_once``. A worker's call for a job is not a live call.
        """
        if not self.quotas.concern(self.request.principal) or of_a_job(self.request):
            return await respond()
        limited = await self.quotas.admit_call(self.request.principal, self._tokens)
        return await respond() if limited is None else await self._counted(limited, respond)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[Headers]:
        """Hold the quotas while the block makes the call by ``begin``, as ``within_quotas`` does; yield the headers for
        its response. The block raises the call's error. Raises QuotaExceeded, PriceMissing."""
        limited = None
        if self.quotas.concern(self.request.principal) and not of_a_job(self.request):
            limited = await self.quotas.admit_call(self.request.principal, self._tokens)
        if limited is None:
            yield []
            return
        admission = self._admission = limited.admission
        costs_nothing = False
        try:
            if limited.costs:
                self.metering.require_price(self.deployment)
            yield limited.headers
        except PenstockError as error:
            costs_nothing = _refused(problems.describe(error).status)
            raise
        finally:
            if not costs_nothing:
                admission.settle()
            admission.end()

    def begin(self, begin: Begin) -> LiveCall:
        """Begin the call, with its output limited to the tokens that were reserved. Raises Overloaded."""
        self.metering.require_room()
        json, admission = self.given.json, self._admission
        if self._bounded is not None and admission is not None and admission.tokens is not None:
            json = self._bounded.within(admission.tokens)
        live = begin(json)
        self.metering.follow(self.request, self.deployment, live, admission, stated=self.stated)
        return live

    def _tokens(self) -> TokenNeed | None:
        self._bounded = bounded(self.deployment, self.given)
        return None if self._bounded is None else self._bounded.need

    async def _counted(self, limited: Limited, respond: Callable[[], Awaitable[Answered]]) -> Answered:
        admission = self._admission = limited.admission
        response: Answered | None = None
        try:
            if limited.costs:
                self.metering.require_price(self.deployment)
            response = await respond()
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
