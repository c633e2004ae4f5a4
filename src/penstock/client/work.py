"""A worker over HTTP: the engine of every worker, fed by a client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from penstock.errors import CallerError
from penstock.jobs.job import ClaimedJob, ClaimRequest, Failure, HeartbeatAnswer, JobCompletion, JobHeartbeat, JobState

if TYPE_CHECKING:
    from penstock.client.client import Client

_MOST = 200  # completions in one request


class PlainLog:
    """Structured events for the standard ``logging`` of somebody else's program: ``event key=value``."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            text = "".join(f" {name}={value!s}" for name, value in fields.items())
            self._logger.log(level, "%s%s", event, text, exc_info=exc_info)


class HttpSource:
    """Jobs by a client. Completions that come while a request is in flight share the next one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[tuple[JobCompletion, asyncio.Future[JobState]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]:
        return await self._client.claim(request)

    async def heartbeat(self, beats: Sequence[JobHeartbeat]) -> Sequence[HeartbeatAnswer | CallerError]:
        return await self._client.heartbeat(beats)

    async def fail(self, job_id: UUID, failure: Failure) -> JobState:
        return await self._client.fail(job_id, failure)

    async def complete(self, completion: JobCompletion) -> JobState:
        future: asyncio.Future[JobState] = asyncio.get_running_loop().create_future()
        self._waiting.append((completion, future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._write_batch(batch)
        finally:
            self._writer = None

    async def _write_batch(self, batch: Sequence[tuple[JobCompletion, asyncio.Future[JobState]]]) -> None:
        answers: Sequence[JobState | BaseException]
        try:
            if len(batch) == 1:
                answers = [await self._client.complete(batch[0][0])]
            else:
                answers = await self._client.complete_many([completion for completion, _ in batch])
        except CallerError as error:
            if len(batch) > 1:  # one of them is refused: each alone, so that only that one is
                for item in batch:
                    await self._write_batch([item])
                return
            answers = [error]
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
