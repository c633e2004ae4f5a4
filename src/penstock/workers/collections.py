"""Jobs on collections: their ``task_type`` is "collection", their ``model_profile`` what to do.

A job acts on the collections of its tenant. What it writes takes effect once, however often it is attempted: the write
is stored with its outcome, and only while the attempt has its lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from penstock.work.executors import Offer
from penstock.workers.part import WorkerPart

TASK_TYPE: Final = "collection"
_LIMIT: Final = 8  # jobs at a time
_MAX_INPUT: Final = 16 * 2**20  # bytes


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
    after: str = ""
    limit: Limit = 100
    vectors: bool = False


class CollectionJobs:
    """Executors of jobs on collections."""

    def __init__(self, service: CollectionService) -> None:
        self._service = service

    @property
    def part(self) -> WorkerPart:
        actions: list[tuple[str, type[Any], Callable[..., Awaitable[object]]]] = [
            ("create", CollectionSetting, self._create),
            ("upsert", UpsertInput, self._upsert),
            ("delete", DeleteInput, self._delete),
            ("search", SearchInput, self._search),
            ("items", ItemsInput, self._items),
        ]
        return WorkerPart(executors=[_offer(*action) for action in actions])

    async def _create(self, tenant: TenantId, wanted: CollectionSetting, _attempt: Attempt) -> Collection:
        return (await self._service.create(tenant, wanted))[0]

    async def _upsert(self, tenant: TenantId, wanted: UpsertInput, attempt: Attempt) -> Upserted:
        return await self._service.upsert(tenant, wanted.collection, wanted.items, attempt=attempt)

    async def _delete(self, tenant: TenantId, wanted: DeleteInput, attempt: Attempt) -> Deleted:
        return await self._service.delete(tenant, wanted.collection, wanted, attempt=attempt)

    async def _search(self, tenant: TenantId, wanted: SearchInput, _attempt: Attempt) -> Matches:
        return await self._service.search(tenant, wanted.collection, wanted)

    async def _items(self, tenant: TenantId, wanted: ItemsInput, _attempt: Attempt) -> ItemPage:
        if wanted.keys is not None:
            found = await self._service.items_by_key(tenant, wanted.collection, wanted.keys, vectors=wanted.vectors)
            return ItemPage(items=found)
        return await self._service.items(
            tenant,
            wanted.collection,
            group=wanted.group,
            after=wanted.after,
            limit=wanted.limit,
            vectors=wanted.vectors,
        )


def _offer(name: str, kind: type[Any], act: Callable[..., Awaitable[object]]) -> Offer:
    decoder = msgspec.json.Decoder(kind)

    async def run(job: ClaimedJob, context: JobContext, /) -> object:
        try:
            if len(job.input) > _MAX_INPUT:
                raise InvalidInput.of("input", f"has {len(job.input)} bytes; at most {_MAX_INPUT} are allowed")
            wanted = decode(bytes(job.input), decoder)
            return await act(context.tenant, wanted, Attempt(job.id, job.epoch))
        except (NotFound, WrongState) as error:  # it does not become right by trying again
            raise failure_of(InvalidInput.of("collection", error.message)) from error
        except PenstockError as error:
            raise failure_of(error) from error

    return Offer(executor=run, task_types=(TASK_TYPE,), model_profiles=(name,), limit=_LIMIT)


def part(service: CollectionService) -> WorkerPart:
    """Return the executors of jobs on collections."""
    return CollectionJobs(service).part
