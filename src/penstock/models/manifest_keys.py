"""The keys of a manifest, and the parsing of their texts."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from penstock import durations
from penstock.models.replica.runtime import Schema

_MAX_DURATION: Final = timedelta(days=1)
_SIZE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(K|M|G|T)i?B?", re.IGNORECASE)

ModelName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]
Version = Annotated[str, Meta(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$(?!\n)")]
Seconds = Annotated[float, Meta(gt=0, le=24 * 3600)]


TenantNames = Annotated[
    list[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")]], Meta(min_length=1, max_length=1000)
]


class Batching(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The batching of calls."""

    max_size: Annotated[int, Meta(ge=1, le=4096)] = 16
    max_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0  # how long a call waits for others at most


class SessionExample(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A session to try a model with."""

    input: Any = msgspec.field(default_factory=dict)  # the first input
    parts: list[Any] = []


class Stated(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The keys of a manifest, without the table that is named after the runtime."""

    name: ModelName
    runtime: str
    version: Version = "1"
    description: Annotated[str, Meta(max_length=10_000)] = ""
    replicas: Annotated[int, Meta(ge=1, le=256)] = 1
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] | None = (
        None  # calls at a time in a replica; None: the runtime's
    )
    eager: bool = False  # load at start, not at the first call
    batching: Batching | None = None
    queue: Annotated[int, Meta(ge=1, le=100_000)] = 128  # calls that may wait for a replica
    timeout: Seconds | str = 60.0  # of one call in a replica
    session_timeout: Seconds | str | None = None  # of a session without a part or chunk; None: the timeout
    start_timeout: Seconds | str = 300.0  # of importing and loading
    cancel_grace: Seconds | str | None = None  # the time for a cancelled call to stop; None: the host's setting
    unload_after: Seconds | str | None = None  # the idle time after which replicas end; None: never
    environment: dict[str, str] = {}
    folder: str = "."  # working folder of the replicas
    memory_limit: Annotated[int, Meta(ge=2**20)] | str | None = None  # bytes of a replica and its children together
    device: Annotated[str, Meta(pattern=r"^(cpu|auto|cuda:[0-9]{1,3})$(?!\n)")] = "cpu"
    device_share: Annotated[float, Meta(gt=0, le=1)] | None = None  # the part of the device that one replica takes
    exclusive: Annotated[str, Meta(min_length=1, max_length=100)] | None = (
        None  # group of which one is loaded at a time
    )
    retry: bool = True  # a call whose replica dies may run again in another one
    watch: bool | list[str] | None = None  # reload when code changes, or files of these patterns; None: the setting's
    tenants: TenantNames | None = None  # those that see a model of the operator; None: all
    schema: Schema | None = None
    examples: list[Any] = []  # inputs that the schema allows
    session_examples: list[SessionExample] = []


class Manifest(Stated, kw_only=True, frozen=True):
    """A manifest, with the table that is named after its runtime."""

    options: dict[str, Any] = {}


def duration(stated: float | str) -> timedelta:
    """Return the duration that a manifest states. Raises ValueError."""
    duration = durations.parse(stated) if isinstance(stated, str) else timedelta(seconds=stated)
    if not timedelta(0) < duration <= _MAX_DURATION:
        raise ValueError("must be more than 0 and at most 24 hours")
    return duration


def size_in_bytes(stated: int | str) -> int:
    """Return the size that a manifest states. Raises ValueError."""
    if isinstance(stated, int):
        return stated
    found = _SIZE.fullmatch(stated.strip())
    if found is None:
        raise ValueError('must be a number of bytes, or a size such as "512MiB" or "8GiB"')
    size = int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))
    if size < 2**20:
        raise ValueError("must be at least 1 MiB")
    return size
