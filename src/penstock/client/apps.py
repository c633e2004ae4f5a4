"""The calls about apps and their requests. A request is a run, and a job: ``wait`` and ``events`` take its id, too."""

from __future__ import annotations

import secrets
from datetime import date, datetime, timedelta
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import quote
from uuid import UUID

from penstock.callbacks.callback import Callback
from penstock.client.transport import Transport
from penstock.client.views import as_id

_APPS: Final = "/api/v1/apps"
_LONGEST_WAIT: Final = 60.0  # seconds


class CallOptions(TypedDict, total=False):
    """The optional fields of a request; the description of the API explains each."""

    user_id: str
    idempotency_key: str
    priority: int
    tags: list[str]
    callback: Callback | None


class AppCalls:
    """The part of ``Client`` about apps. All are the JSON that the description of the API explains."""

    _transport: Transport

    async def apps(self) -> list[dict[str, Any]]:
        """Return the apps that the key may use."""
        found = await self._transport.call("GET", _APPS, dict[str, Any])
        apps: list[dict[str, Any]] = found["apps"]
        return apps

    async def app(self, name: str) -> dict[str, Any]:
        """Return an app with the schemas of its input and result. Raises NotFound."""
        return await self._transport.call("GET", _path(name), dict[str, Any])

    async def app_health(self, name: str) -> dict[str, Any]:
        """Return whether requests of an app run. Raises NotFound."""
        return await self._transport.call("GET", _path(name, "health"), dict[str, Any])

    async def call_app(
        self,
        name: str,
        input: object = None,  # noqa: A002 - the contract's word
        *,
        wait: timedelta | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, Any]:
        """Make a request of an app, for ``user_id`` or the client's user.

        With ``wait``, of up to a minute, the reply has the result if the request ends in time.
        """
        fields: dict[str, Any] = {"idempotency_key": secrets.token_hex(16), **options}
        seconds = 0.0 if wait is None else min(wait.total_seconds(), _LONGEST_WAIT)
        return await self._transport.call(
            "POST",
            _path(name, "call"),
            dict[str, Any],
            body={**fields, "input": {} if input is None else input},
            headers={"Prefer": f"wait={seconds:.0f}"} if seconds else None,
            wait=seconds,
        )

    async def app_result(
        self, name: str, task_id: UUID | str, *, first_stage: int = 0, stages: int = 100
    ) -> dict[str, Any]:
        """Return a request with its state, a page of its stages and, when it has completed, its result with URLs of
        files. Raises NotFound."""
        query = {"from_stage": str(first_stage), "stages": str(stages)}
        return await self._transport.call(
            "GET", _path(name, "result", str(as_id(task_id))), dict[str, Any], query=query
        )

    async def app_stats(
        self,
        name: str,
        *,
        user_id: str | None = None,
        since: date | datetime | None = None,
        to: date | datetime | None = None,
        results: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return sums of the requests that were made from a day up to another, by day; with ``results``, a page of them
        as well. By default they are those of the last thirty days, of all users."""
        moments = {"from": since, "to": to}
        stated = {"user_id": user_id, "cursor": cursor}
        query = {key: value for key, value in stated.items() if value is not None}
        query |= {key: moment.isoformat() for key, moment in moments.items() if moment is not None}
        if results:
            query |= {"results": "true", "limit": str(limit)}
        return await self._transport.call("GET", _path(name, "stats"), dict[str, Any], query=query)


def _path(name: str, *parts: str) -> str:
    return "/".join([_APPS, quote(name, safe=""), *parts])
