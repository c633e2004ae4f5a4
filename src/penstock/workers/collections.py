"""Jobs on collections: their ``task_type`` is "collection", their ``model_profile`` what to do.

A job acts on the collections of its tenant. What it writes takes effect once, however often it is attempted: the write
is stored with its outcome, and only while the attempt has its lease. A model may compute the vectors: then they are
stored in the collection only, and in no input, result or history.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from penstock.collections.collection import (
    MAX_FOUND,
    MAX_WRITTEN,
    Attempt,
    Attributes,
    Collection,
    CollectionSetting,
    Deleted,
    Deletion,
    Group,
    Item,
    ItemPage,
    Key,
    Limit,
    Matches,
    Name,
    Search,
    Upserted,
    Vector,
)
from penstock.collections.service import CollectionService
from penstock.errors import InvalidInput, NotFound, PenstockError, WrongState
from penstock.failures import CallFailed, Category, failure_of
from penstock.jobs.work import ClaimedJob
from penstock.tenants.principal import TenantId
from penstock.web.reading import decode
from penstock.work.context import JobContext
from penstock.work.executors import Offer
from penstock.workers.part import WorkerPart
from penstock.workers.predict import Models

TASK_TYPE: Final = "collection"
_LIMIT: Final = 8  # jobs at a time
ModelName = Annotated[str, Meta(min_length=1, max_length=200, description="The model that computes vectors.")]
_MAX_INPUT: Final = 16 * 2**20  # bytes


class _Output(Struct):
    """The output of a model that returns more than the vector."""

    vector: list[float]


_output = msgspec.json.Decoder(list[float] | _Output)


class ItemInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item to write; a model computes its vector from ``embed``, unless it has one."""

    key: Key
    vector: Vector | None = None
    embed: dict[str, Any] | None = None
    attributes: Attributes = {}
    group: Group | None = None
    blob: UUID | None = None


class UpsertInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to write to a collection."""

    collection: Name
    items: Annotated[list[ItemInput], Meta(min_length=1, max_length=MAX_WRITTEN)]
    model: ModelName | None = None


class DeleteInput(Deletion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to delete from a collection."""

    collection: Name


class SearchInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search in a collection; a model computes the vector from ``embed``, unless there is one."""

    collection: Name
    vector: Vector | None = None
    embed: dict[str, Any] | None = None
    model: ModelName | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_FOUND)] = 10
    max_distance: float | None = None
    group: Group | None = None
    attributes: Attributes | None = None
    exact: bool = False
    vectors: bool = False


class ItemsInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to return, by key: some, or a page of all or of a group."""

    collection: Name
    keys: Annotated[list[Key], Meta(max_length=1000)] | None = None
    group: Group | None = None
    after: str = ""
    limit: Limit = 100
    vectors: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of a job: its tenant, and what its reports go to."""

    job: ClaimedJob
    context: JobContext

    @property
    def tenant(self) -> TenantId:
        return self.context.tenant

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.job.id, self.job.epoch)


class CollectionJobs:
    """Executors of jobs on collections. ``models`` compute vectors; None: this worker has none."""

    def __init__(self, service: CollectionService, models: Models | None = None) -> None:
        self._service = service
        self._models = models

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

    async def _create(self, run: Run, wanted: CollectionSetting) -> Collection:
        return (await self._service.create(run.tenant, wanted))[0]

    async def _upsert(self, run: Run, wanted: UpsertInput) -> Upserted:
        items = [
            Item(
                key=one.key,
                vector=await self._vector(run, one, wanted.model, field=f"items[{index}]."),
                attributes=one.attributes,
                group=one.group,
                blob=one.blob,
            )
            for index, one in enumerate(wanted.items)
        ]
        return await self._service.upsert(run.tenant, wanted.collection, items, attempt=run.attempt)

    async def _delete(self, run: Run, wanted: DeleteInput) -> Deleted:
        return await self._service.delete(run.tenant, wanted.collection, wanted, attempt=run.attempt)

    async def _search(self, run: Run, wanted: SearchInput) -> Matches:
        search = Search(
            vector=await self._vector(run, wanted, wanted.model),
            k=wanted.k,
            max_distance=wanted.max_distance,
            group=wanted.group,
            attributes=wanted.attributes,
            exact=wanted.exact,
            vectors=wanted.vectors,
        )
        return await self._service.search(run.tenant, wanted.collection, search)

    async def _vector(
        self, run: Run, given: ItemInput | SearchInput, model: str | None, *, field: str = ""
    ) -> list[float]:
        """Return the vector that is given, or computed by the model. Nothing else stores a computed one."""
        if (given.vector is None) == (given.embed is None):
            raise InvalidInput.of(f"{field}vector", "is required, or else `embed`, and not both")
        if given.vector is not None:
            return given.vector
        if model is None:
            raise InvalidInput.of("model", "is required with `embed`: the model that computes vectors")
        if self._models is None:
            raise CallFailed(Category.UNAVAILABLE, "this worker has no models; set PENSTOCK_MODELS_URL")
        asked = msgspec.structs.replace(run.job, input=Raw(msgspec.json.encode(given.embed)))
        output = await self._models.predict(model, asked, run.context)
        try:
            found = _output.decode(output)
        except msgspec.ValidationError:
            detail = (
                f"{model} is not a model of vectors: it returns neither a list of numbers nor an object with `vector`"
            )
            raise InvalidInput.of("model", detail) from None
        return found if isinstance(found, list) else found.vector

    async def _items(self, run: Run, wanted: ItemsInput) -> ItemPage:
        tenant = run.tenant
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
            return await act(Run(job, context), wanted)
        except (NotFound, WrongState) as error:  # it does not become right by trying again
            raise failure_of(InvalidInput.of("collection", error.message)) from error
        except PenstockError as error:
            raise failure_of(error) from error

    return Offer(executor=run, task_types=(TASK_TYPE,), model_profiles=(name,), limit=_LIMIT)


def part(service: CollectionService, models: Models | None) -> WorkerPart:
    """Return the executors of jobs on collections."""
    return CollectionJobs(service, models).part
