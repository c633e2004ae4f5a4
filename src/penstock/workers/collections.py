"""Jobs on collections: their ``task_type`` is "collection", their ``model_profile`` the action.

A job acts on the collections of its tenant. What it writes takes effect once, however often it is attempted: the write
is stored with its outcome, and only while the attempt has its lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from penstock.collections.collection import (
    Attempt,
    Collection,
    CollectionSetting,
    Deleted,
    Deletion,
    Group,
    ItemPage,
    Key,
    Limit,
    Matches,
    Name,
    Search,
    Upsert,
    Upserted,
)
from penstock.collections.service import CollectionService
from penstock.errors import InvalidInput, NotFound, PenstockError, WrongState
from penstock.failures import failure_of
from penstock.jobs.work import ClaimedJob
from penstock.tenants.principal import TenantId
from penstock.web.reading import decode
from penstock.work.context import JobContext
from penstock.work.executor import Executor
from penstock.work.executors import Offer
from penstock.workers.part import WorkerPart

TASK_TYPE: Final = "collection"
_LIMIT: Final = 8  # jobs at a time
_MAX_INPUT: Final = 16 * 2**20  # bytes
After = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")]


class UpsertInput(Upsert, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to write to a collection."""

    collection: Name


class DeleteInput(Deletion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to delete from a collection."""

    collection: Name


class SearchInput(Search, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search in a collection."""

    collection: Name


class ItemsInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to return, by key: some, or a page of all or of a group."""

    collection: Name
    keys: Annotated[list[Key], Meta(max_length=1000)] | None = None
    group: Group | None = None
    after: After = ""
    limit: Limit = 100
    vectors: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of a job, with its tenant and its claim."""

    job: ClaimedJob
    context: JobContext

    @property
    def tenant(self) -> TenantId:
        return self.context.tenant

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.job.id, self.job.epoch)


class CollectionJobs:
    """The executor of jobs on collections."""

    def __init__(self, service: CollectionService) -> None:
        self._service = service
        self._actions: Mapping[str, Executor] = {
            "create": executor(CollectionSetting, self._create),
            "upsert": executor(UpsertInput, self._upsert),
            "delete": executor(DeleteInput, self._delete),
            "search": executor(SearchInput, self._search),
            "items": executor(ItemsInput, self._items),
        }

    @property
    def offer(self) -> Offer:
        """All actions in one offer, because a worker claims for each offer by itself, also while it is idle."""
        return Offer(executor=self, task_types=(TASK_TYPE,), model_profiles=tuple(self._actions), limit=_LIMIT)

    async def __call__(self, job: ClaimedJob, context: JobContext, /) -> object:
        return await self._actions[job.model_profile](job, context)

    async def _create(self, run: Run, wanted: CollectionSetting) -> Collection:
        return (await self._service.create(run.tenant, wanted))[0]

    async def _upsert(self, run: Run, wanted: UpsertInput) -> Upserted:
        return await self._service.upsert(run.tenant, wanted.collection, wanted.items, attempt=run.attempt)

    async def _delete(self, run: Run, wanted: DeleteInput) -> Deleted:
        return await self._service.delete(run.tenant, wanted.collection, wanted, attempt=run.attempt)

    async def _search(self, run: Run, wanted: SearchInput) -> Matches:
        return await self._service.search(run.tenant, wanted.collection, wanted)

    async def _items(self, run: Run, wanted: ItemsInput) -> ItemPage:
        if wanted.keys is not None:
            found = await self._service.items_by_key(run.tenant, wanted.collection, wanted.keys, vectors=wanted.vectors)
            return ItemPage(items=found)
        return await self._service.items(
            run.tenant,
            wanted.collection,
            group=wanted.group,
            after=wanted.after,
            limit=wanted.limit,
            vectors=wanted.vectors,
        )


def executor(kind: type[Any], act: Callable[..., Awaitable[object]]) -> Executor:
    """Return an executor that calls ``act`` with a ``Run`` and the input as this type."""
    decoder = msgspec.json.Decoder(kind)

    async def run(job: ClaimedJob, context: JobContext, /) -> object:
        try:
            if len(job.input) > _MAX_INPUT:
                raise InvalidInput.of("input", f"has {len(job.input)} bytes; at most {_MAX_INPUT} are allowed")
            return await act(Run(job, context), decode(bytes(job.input), decoder))
        except (NotFound, WrongState) as error:  # a retry would fail too
            raise failure_of(InvalidInput.of("collection", error.message)) from error
        except PenstockError as error:
            raise failure_of(error) from error

    return run


def part(service: CollectionService) -> WorkerPart:
    """Return the executor of jobs on collections."""
    return WorkerPart(executors=[CollectionJobs(service).offer], always=True)
