"""Jobs that write to a collection, or search in it, with vectors that a model computes: ``embed-upsert`` and
``embed-search``, whose ``model_profile`` is the model.

The model is called live, so its vectors are stored in the collection only, and in no input, result or history. Workers
that have the model run such jobs, as they do predict jobs.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from penstock.collections.collection import (
    MAX_FOUND,
    MAX_WRITTEN,
    Attributes,
    Group,
    Item,
    Key,
    Matches,
    Name,
    Search,
    Upserted,
)
from penstock.collections.service import CollectionService
from penstock.errors import InvalidInput
from penstock.jobs.work import ClaimedJob
from penstock.work.context import JobContext
from penstock.work.executor import Executor
from penstock.workers.collections import Run, executor
from penstock.workers.part import WorkerPart
from penstock.workers.predict import Models, follow

UPSERT: Final = "embed-upsert"
SEARCH: Final = "embed-search"
_Embed = Annotated[dict[str, Any], Meta(description="The input of the model.")]


class _Output(Struct):
    """The output of a model that returns more than the vector."""

    vector: list[float]


_output = msgspec.json.Decoder(list[float] | _Output)


class ItemInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item to write; the model computes its vector."""

    key: Key
    embed: _Embed
    attributes: Attributes = {}
    group: Group | None = None
    blob: UUID | None = None


class UpsertInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to write to a collection."""

    collection: Name
    items: Annotated[list[ItemInput], Meta(min_length=1, max_length=MAX_WRITTEN)]


class SearchInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search in a collection for what is nearest to a vector that the model computes."""

    collection: Name
    embed: _Embed
    k: Annotated[int, Meta(ge=1, le=MAX_FOUND)] = 10
    max_distance: float | None = None
    group: Group | None = None
    attributes: Attributes | None = None
    exact: bool = False
    vectors: bool = False


class EmbeddingJobs:
    """Executors of these jobs, for one model."""

    def __init__(self, service: CollectionService, models: Models, model: str) -> None:
        self._service = service
        self._models = models
        self._model = model
        self._executors = {
            UPSERT: executor(UpsertInput, self._upsert),
            SEARCH: executor(SearchInput, self._search),
        }

    async def __call__(self, job: ClaimedJob, context: JobContext, /) -> object:
        return await self._executors[job.task_type](job, context)

    async def _upsert(self, run: Run, wanted: UpsertInput) -> Upserted:
        items = [
            Item(
                key=one.key,
                vector=await self._vector(run, one.embed),
                attributes=one.attributes,
                group=one.group,
                blob=one.blob,
            )
            for one in wanted.items
        ]
        return await self._service.upsert(run.tenant, wanted.collection, items, attempt=run.attempt)

    async def _search(self, run: Run, wanted: SearchInput) -> Matches:
        search = Search(
            vector=await self._vector(run, wanted.embed),
            k=wanted.k,
            max_distance=wanted.max_distance,
            group=wanted.group,
            attributes=wanted.attributes,
            exact=wanted.exact,
            vectors=wanted.vectors,
        )
        return await self._service.search(run.tenant, wanted.collection, search)

    async def _vector(self, run: Run, embed: dict[str, Any]) -> list[float]:
        """Return the vector that the model computes. Raises CallFailed, and InvalidInput for output without one."""
        call = msgspec.structs.replace(run.job, input=Raw(msgspec.json.encode(embed)))
        output = await self._models.predict(self._model, call, run.context)
        try:
            found = _output.decode(output)
        except msgspec.ValidationError:
            detail = f"{self._model} returns neither a list of numbers nor an object with `vector`"
            raise InvalidInput.of("model_profile", detail) from None
        return found if isinstance(found, list) else found.vector


def part(service: CollectionService, models: Models | None) -> WorkerPart:
    """Return the executors of these jobs for all models of a worker, as they come and go."""
    if models is None:
        return WorkerPart()

    def made(model: str) -> Executor:
        return EmbeddingJobs(service, models, model)

    return WorkerPart(follow=partial(follow, models, made, task_types=[UPSERT, SEARCH]))
