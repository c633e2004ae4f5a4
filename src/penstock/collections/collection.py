"""Collections and their items as clients and jobs send and receive them: the wire types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from msgspec import Meta, Raw, Struct

MAX_ITEMS: Final = 1_000_000  # of a collection
MAX_COLLECTIONS: Final = 1000  # of a tenant
MAX_WRITTEN: Final = 1000  # items of one request
MAX_FOUND: Final = 500
_PLAIN: Final = r"^[^\x00-\x1f\x7f]*$(?!\n)"

Metric = Literal["l2", "cosine", "ip"]
Name = Annotated[
    str,
    Meta(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)", description="The collection's name."),
]
Key = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=_PLAIN, description="Identifies the item within its collection.")
]
Group = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=_PLAIN, description="Items of one group can be deleted together.")
]
Vector = Annotated[
    list[float],
    Meta(min_length=1, max_length=4096, description="As many numbers as the collection has dimensions."),
]
Attributes = Annotated[dict[str, Any], Meta(description="Any JSON object, of at most 16 KiB.")]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class CollectionSetting(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a collection is created with, which cannot be changed later."""

    name: Name
    dimension: Annotated[int, Meta(ge=1, le=4096, description="The number of numbers in each vector.")]
    metric: Annotated[
        Metric,
        Meta(
            description="What a distance is: l2 (Euclidean), cosine (1 minus the cosine of the angle; vectors are "
            "stored with length 1), or ip (the negative inner product)."
        ),
    ] = "cosine"


class Collection(Struct, frozen=True, kw_only=True):
    """A collection and its size."""

    name: str
    dimension: int
    metric: Metric
    items: int
    created_at: datetime
    changed_at: datetime  # of the last write


class CollectionPage(Struct, frozen=True, kw_only=True):
    """Collections by name; ``next`` is the ``after`` of the next page, None on the last one."""

    collections: list[Collection]
    next: str | None = None


class Item(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item to write. It replaces the one that has its key."""

    key: Key
    vector: Vector
    attributes: Attributes = {}
    group: Group | None = None
    blob: UUID | None = None  # the file that it stands for


class Upsert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to write: all of them or, if one is wrong, none."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=MAX_WRITTEN)]


class Upserted(Struct, frozen=True, kw_only=True):
    """How many items were new, and how many replaced another."""

    inserted: int
    updated: int


class Deletion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which items to delete: exactly one of the first three fields."""

    keys: Annotated[list[Key], Meta(min_length=1, max_length=MAX_WRITTEN)] | None = None
    group: Group | None = None
    attributes: Annotated[Attributes, Meta(description="Those of items whose attributes contain these.")] | None = None
    files: Annotated[bool, Meta(description="Delete the files too that the items name.")] = False


class Deleted(Struct, frozen=True, kw_only=True):
    """How many items there were, and how many of their files."""

    deleted: int
    files: int = 0


class Search(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vector whose nearest items are wanted."""

    vector: Vector
    k: Annotated[int, Meta(ge=1, le=MAX_FOUND, description="The maximum number of items to return.")] = 10
    max_distance: Annotated[float, Meta(description="Only items at most that far away.")] | None = None
    group: Group | None = None
    attributes: Annotated[Attributes, Meta(description="Only items whose attributes contain these.")] | None = None
    exact: Annotated[bool, Meta(description="Compare with every item, even if the collection has an index.")] = False
    vectors: Annotated[bool, Meta(description="Return the vectors too.")] = False


class StoredItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item as it is stored."""

    key: str
    attributes: Raw
    group: str | None = None
    blob: UUID | None = None
    vector: list[float] | None = None


class ItemPage(Struct, frozen=True, kw_only=True):
    """Items by key; ``next`` is the ``after`` of the next page, None on the last one."""

    items: list[StoredItem]
    next: str | None = None


class Match(StoredItem, frozen=True, kw_only=True, omit_defaults=True):
    """An item near the vector of a search."""

    distance: float


class Matches(Struct, frozen=True, kw_only=True):
    """The nearest items, the nearest one first."""

    matches: list[Match]
    exact: bool  # every item was compared


class Attempt(Struct, frozen=True):
    """The attempt of a job that writes."""

    job_id: UUID
    epoch: int
