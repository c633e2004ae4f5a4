"""The calls about flows and their runs. A run is a job: ``get``, ``wait`` and ``events`` take its id, too."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import quote
from uuid import UUID

from msgspec import UNSET, Raw

from penstock.callbacks.callback import Callback
from penstock.client.stream import LAST_TYPES, Event, Stream
from penstock.client.transport import Transport
from penstock.client.views import Job, as_id, as_raw
from penstock.jobs.states import Status

_FLOWS: Final = "/api/v1/flows"
_RUNS: Final = f"{_FLOWS}/runs"


class RunOptions(TypedDict, total=False):
    """The optional fields of a run; the description of the API explains each."""

    version: str
    owner_service: str
    owner_ref: str
    user_id: str
    priority: int
    run_at: datetime
    ttl_seconds: float
    idempotency_key: str
    concurrency_key: str
    tags: list[str]
    callback: Callback | None


class RunFilters(TypedDict, total=False):
    """The filters of the list of runs. Every given one must match."""

    flow: str  # name@version
    status: Status | str
    owner_service: str
    owner_ref: str
    user_id: str
    held: bool
    stranded: bool


class FlowCalls:
    """The calls of ``Client`` about flows. Except for jobs, results are JSON as in the description of the API."""

    owner_service: str
    _transport: Transport

    async def flows(self) -> dict[str, Any]:
        """Return the flows that runners have, and runs of versions that none has."""
        return await self._transport.call("GET", _FLOWS, dict[str, Any])

    async def start_flow(
        self,
        name: str,
        input: object = None,  # noqa: A002 - the contract's word
        **options: Unpack[RunOptions],
    ) -> Job:
        """Start a run of a flow, or return the one that an earlier call with the same idempotency key started."""
        fields: dict[str, Any] = {"owner_service": self.owner_service, **options}
        fields.setdefault("idempotency_key", secrets.token_hex(16))
        body = {**fields, "input": {} if input is None else input}
        return await self._transport.call("POST", f"{_FLOWS}/{quote(name, safe='')}", Job, body=body)

    async def runs(
        self, *, limit: int = 50, cursor: str | None = None, **filters: Unpack[RunFilters]
    ) -> dict[str, Any]:
        """Return a page of runs, newest first; pass its ``next_cursor`` as ``cursor`` for the next page."""
        query = {name: _text(value) for name, value in filters.items()} | {"limit": str(limit)}
        if cursor is not None:
            query["cursor"] = cursor
        return await self._transport.call("GET", _RUNS, dict[str, Any], query=query)

    async def run_tree(self, run_id: UUID | str, *, first_step: int = 0, limit: int = 200) -> dict[str, Any]:
        """Return a run with a page of its steps; ``next_step`` is the first step of the next page. Raises NotFound."""
        query = {"from": str(first_step), "limit": str(limit)}
        return await self._transport.call("GET", f"{_RUNS}/{as_id(run_id)}", dict[str, Any], query=query)

    async def run_events(self, run_id: UUID | str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Yield the events of a run and of all that it issues, from its creation to its end.

        ``after`` is the id of the last event seen, or ``last_event_id`` of the run that was read. Broken connections
        are made again and resume after the last event. Raises EventsLost when the service no longer has the events
        after it, and TooLarge when the run has too many jobs at a time.
        """
        run = str(as_id(run_id))
        stream = Stream(self._transport, f"{_RUNS}/{run}/events", after=after)
        over = False
        while not over:
            async for event in stream.connection():
                over = event.subject == run and event.type in LAST_TYPES
                yield event
            if stream.ended and not stream.count:
                over = (await self._transport.call("GET", f"/api/v1/jobs/{run}", Job)).status.finished
            if not over:
                await stream.pause()

    async def signal_run(
        self, run_id: UUID | str, name: str, payload: object = None, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Send a signal to a run; raises WrongState if it has ended. If the call is repeated, the run gets the signal
        once."""
        key = idempotency_key or secrets.token_hex(16)
        path = f"{_RUNS}/{as_id(run_id)}/signal/{quote(name, safe='')}"
        return await self._transport.call(
            "POST", path, dict[str, Any], body=as_raw(payload), headers={"Idempotency-Key": key}
        )

    async def cancel_run(self, run_id: UUID | str, *, force: bool = False) -> Job:
        """Request that a run stop; with ``force``, end it without its code."""
        query = {"force": "true"} if force else {}
        return await self._transport.call("POST", f"{_RUNS}/{as_id(run_id)}/cancel", Job, query=query)

    async def release_run(self, run_id: UUID | str) -> Job:
        """Release a held run; raises WrongState if it is not held."""
        return await self._transport.call("POST", f"{_RUNS}/{as_id(run_id)}/release", Job)

    async def retry_run(self, run_id: UUID | str) -> Job:
        """Retry a failed run from the step that failed; raises WrongState for any other run."""
        return await self._transport.call("POST", f"{_RUNS}/{as_id(run_id)}/retry", Job, repeatable=False)

    async def rerun(self, run_id: UUID | str, *, step: int, input: object = UNSET) -> Job:  # noqa: A002
        """Start a new run that reuses the steps of another before one, optionally with a different ``input``."""
        body = {"step": step} | ({} if input is UNSET else {"input": input})
        return await self._transport.call("POST", f"{_RUNS}/{as_id(run_id)}/rerun", Job, body=body, repeatable=False)

    async def run_history(self, run_id: UUID | str) -> bytes:
        """Return the whole history of a run as JSON; raises NotFound and TooLarge."""
        return bytes(await self._transport.call("GET", f"{_RUNS}/{as_id(run_id)}/history", Raw))

    async def move_run(self, run_id: UUID | str, version: str) -> Job:
        """Continue a run with the code of another version; raises WrongState if it has ended or is being executed."""
        return await self._transport.call("POST", f"{_RUNS}/{as_id(run_id)}/move", Job, body={"version": version})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
