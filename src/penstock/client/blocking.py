"""The blocking client, for scripts and programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from uuid import UUID

from penstock.client.client import Client
from penstock.client.models import File, ModelEvent
from penstock.client.stream import Event
from penstock.jobs.job import JobSubmission

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """Return a blocking method that runs an asynchronous one and waits for it."""

    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(method(self.client, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


class BlockingClient:
    """A client whose calls block; use it as ``with BlockingClient(url, token=…) as client``. It is thread-safe.

    Its connections belong to an event loop in a thread of its own. ``run`` runs any other coroutine there.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        owner_service: str = "python",
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        self.client = Client(url, token=token, tenant=tenant, user=user, owner_service=owner_service, timeout=timeout)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; safe to repeat."""
        if self._loop.is_closed():
            return
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def for_tenant(self, name: str) -> BlockingClient:
        """Do the same as ``Client.for_tenant``. The new client shares this one's connections: close only this one."""
        other = copy(self)
        other.client = self.client.for_tenant(name)
        return other

    @property
    def job(self) -> Callable[..., JobSubmission]:
        """Create a submission for ``submit_many``, as ``Client.job`` does."""
        return self.client.job

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine on the client's loop; an interrupt (Ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    apps = _blocking(Client.apps)
    app = _blocking(Client.app)
    app_health = _blocking(Client.app_health)
    call_app = _blocking(Client.call_app)
    app_result = _blocking(Client.app_result)
    app_stats = _blocking(Client.app_stats)
    submit = _blocking(Client.submit)
    submit_many = _blocking(Client.submit_many)
    get = _blocking(Client.get)
    why = _blocking(Client.why)
    wait = _blocking(Client.wait)
    list = _blocking(Client.list)
    stats = _blocking(Client.stats)
    compare = _blocking(Client.compare)
    providers_status = _blocking(Client.providers_status)
    infra_status = _blocking(Client.infra_status)
    claim = _blocking(Client.claim)
    heartbeat = _blocking(Client.heartbeat)
    complete = _blocking(Client.complete)
    fail = _blocking(Client.fail)
    retry = _blocking(Client.retry)
    cancel = _blocking(Client.cancel)
    retry_where = _blocking(Client.retry_where)
    cancel_where = _blocking(Client.cancel_where)
    queues = _blocking(Client.queues)
    pause_queue = _blocking(Client.pause_queue)
    resume_queue = _blocking(Client.resume_queue)
    limit_keys = _blocking(Client.limit_keys)
    tenant_limits = _blocking(Client.tenant_limits)
    set_tenant_limits = _blocking(Client.set_tenant_limits)
    predict = _blocking(Client.predict)
    models = _blocking(Client.models)
    model = _blocking(Client.model)
    add_model = _blocking(Client.add_model)
    remove_model = _blocking(Client.remove_model)
    reload_model = _blocking(Client.reload_model)
    model_logs = _blocking(Client.model_logs)
    clean_model_logs = _blocking(Client.clean_model_logs)
    upload = _blocking(Client.upload)
    download = _blocking(Client.download)
    blob = _blocking(Client.blob)
    upload_in_parts = _blocking(Client.upload_in_parts)
    blob_url = _blocking(Client.blob_url)
    delete_blob = _blocking(Client.delete_blob)
    identity = _blocking(Client.identity)
    tenants = _blocking(Client.tenants)
    tenant = _blocking(Client.tenant)
    create_tenant = _blocking(Client.create_tenant)
    change_tenant = _blocking(Client.change_tenant)
    delete_tenant = _blocking(Client.delete_tenant)
    keys = _blocking(Client.keys)
    key = _blocking(Client.key)
    create_key = _blocking(Client.create_key)
    change_key = _blocking(Client.change_key)
    revoke_key = _blocking(Client.revoke_key)
    create_athena_key = _blocking(Client.create_athena_key)
    athena_keys = _blocking(Client.athena_keys)
    revoke_athena_key = _blocking(Client.revoke_athena_key)
    rotate_key = _blocking(Client.rotate_key)
    issue_ticket = _blocking(Client.issue_ticket)
    audit = _blocking(Client.audit)
    usage = _blocking(Client.usage)
    quotas = _blocking(Client.quotas)
    set_quota = _blocking(Client.set_quota)
    remove_quota = _blocking(Client.remove_quota)
    create_callback = _blocking(Client.create_callback)
    callbacks = _blocking(Client.callbacks)
    callback = _blocking(Client.callback)
    change_callback = _blocking(Client.change_callback)
    rotate_callback = _blocking(Client.rotate_callback)
    remove_callback = _blocking(Client.remove_callback)
    test_callback = _blocking(Client.test_callback)
    deliveries = _blocking(Client.deliveries)
    replay = _blocking(Client.replay)
    collections = _blocking(Client.collections)
    create_collection = _blocking(Client.create_collection)
    collection = _blocking(Client.collection)
    delete_collection = _blocking(Client.delete_collection)
    upsert_items = _blocking(Client.upsert_items)
    items = _blocking(Client.items)
    item = _blocking(Client.item)
    delete_items = _blocking(Client.delete_items)
    search = _blocking(Client.search)
    flows = _blocking(Client.flows)
    start_flow = _blocking(Client.start_flow)
    runs = _blocking(Client.runs)
    run_tree = _blocking(Client.run_tree)
    signal_run = _blocking(Client.signal_run)
    cancel_run = _blocking(Client.cancel_run)
    release_run = _blocking(Client.release_run)
    retry_run = _blocking(Client.retry_run)
    rerun = _blocking(Client.rerun)
    run_history = _blocking(Client.run_history)
    move_run = _blocking(Client.move_run)

    def stream(
        self,
        name: str,
        /,
        input: object = None,  # noqa: A002 - the contract's word
        *,
        files: Mapping[str, File] | None = None,
        version: str | None = None,
        request_id: str | None = None,
        logs: bool = False,
        **fields: object,
    ) -> Iterator[ModelEvent]:
        """Do the same as ``Client.stream``; each step blocks until the next event."""
        return self._steps(
            self.client.stream(name, input, files=files, version=version, request_id=request_id, logs=logs, **fields)
        )

    def follow_model_logs(
        self,
        name: str,
        *,
        since: datetime | None = None,
        level: str | None = None,
        request_id: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> Iterator[dict[str, Any]]:
        """Do the same as ``Client.follow_model_logs``; each step blocks until the next line."""
        return self._steps(
            self.client.follow_model_logs(
                name, since=since, level=level, request_id=request_id, version=version, limit=limit
            )
        )

    def events(self, job_id: UUID | str | None = None, *, after: str | None = None) -> Iterator[Event]:
        """Do the same as ``Client.events``; each step blocks until the next event."""
        return self._steps(self.client.events(job_id, after=after))

    def run_events(self, run_id: UUID | str, *, after: str | None = None) -> Iterator[Event]:
        """Do the same as ``Client.run_events``; each step blocks until the next event."""
        return self._steps(self.client.run_events(run_id, after=after))

    def _steps(self, stream: AsyncIterator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield self.run(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            self.run(_closed(stream))


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream)


async def _closed(stream: AsyncIterator[Any]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
