"""The interface of a runtime: the contract between a replica, which exchanges frames, and code that executes a model.

A runtime is one small class in one file: it derives from ``BlockingRuntime`` or ``AsyncRuntime``, gets the manifest,
and runs calls. Everything else (processes, queues, limits, restarts, logs, schema checks) is around it.

Imports stay within msgspec and the standard library: replicas run in interpreters of the model's own.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
from msgspec import Struct

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.models.replica import frames
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.file_bytes import MAX_WHOLE_BYTES, FileBytes
from penstock.suggestions import did_you_mean


class Cancelled(BaseException):
    """The caller of the running call has gone; raised inside a model where it can be. Not an ``Exception``, so that
    a model's ``except Exception`` does not swallow it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of media: raw bytes, and its place in the JSON, which holds null there.

    The bytes of an input may be in memory that is reused, or a file that is removed, when the call has ended; a runtime
    copies the bytes it keeps.
    """

    data: bytes | memoryview | FileBytes
    media_type: str = "application/octet-stream"
    path: tuple[str | int, ...] = ()
    name: str | None = None

    def in_memory(self) -> bytes | memoryview:
        """Return the bytes, read from their file if they are in one. Raises CallFailed (``bad_input``) for a file that
        is too large for that."""
        data = self.data
        if not isinstance(data, FileBytes):
            return data
        if data.size > MAX_WHOLE_BYTES:
            raise CallFailed(
                Category.BAD_INPUT,
                f"has {data.size} bytes; at most {MAX_WHOLE_BYTES} are read into memory here",
                field=dotted(self.path) or None,
            )
        return data.whole()


@dataclass(slots=True)  # not frozen, because creating a frozen one takes three times as long
class Output:
    """An output or chunk: JSON, and its media."""

    json: bytes
    segments: Sequence[Segment] = ()

    @property
    def size(self) -> int:
        """The bytes that it uses of its call's window."""
        if not self.segments:
            return frames.chunk_size(len(self.json))
        return frames.chunk_size(len(self.json) + sum(len(segment.data) for segment in self.segments))


class SessionSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """What the sessions of a model take and send."""

    input: dict[str, Any] = msgspec.field(default_factory=dict)  # JSON Schema of the first input
    part: dict[str, Any] = msgspec.field(default_factory=dict)  # of each part after it
    output: dict[str, Any] = msgspec.field(default_factory=dict)  # of a chunk


class Schema(Struct, kw_only=True, forbid_unknown_fields=True):
    """The inputs and outputs of a model, described in the same way for every runtime."""

    input: dict[str, Any] = msgspec.field(default_factory=dict)  # JSON Schema of the input, which is any JSON value
    output: dict[str, Any] = msgspec.field(default_factory=dict)  # of the output; of one chunk when it streams
    description: str = ""
    streams: bool = False  # it returns chunks; a caller that does not stream gets the list of them
    batches: bool = False  # it can run several calls together
    cancels: bool = False  # a running call ends when its caller leaves
    session: SessionSchema | None = None  # None: it takes no sessions


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)  # of this thread or task


class Wire(Protocol):
    """Sends the reports of calls to the host. Its methods block at most until the host has read earlier output."""

    files: CallFiles

    def chunk(self, call: Call, output: Output) -> None: ...
    def progress(self, call: Call, value: bytes) -> None: ...
    def log(self, call: Call | None, level: str, message: str) -> None: ...


class Call:
    """One call as a runtime sees it.

    Chunks that the caller has not read yet fill the call's window; while it is full, ``chunk`` waits. One thread or
    task sends chunks, the control thread grants bytes: each writes a counter of its own.
    """

    __slots__ = (
        "_granted",
        "_sent",
        "_wake",
        "cancelled",
        "id",
        "input",
        "on_cancel",
        "request_id",
        "segments",
        "streams",
        "window",
        "wire",
    )

    def __init__(
        self,
        id: int,  # noqa: A002
        input: bytes,  # noqa: A002
        segments: Sequence[Segment],
        *,
        request_id: str,
        streams: bool,
        wire: Wire,
        window: int = 0,
    ) -> None:
        self.id = id
        self.input = input  # JSON that the schema allows, with null where segments stand
        self.segments = segments
        self.request_id = request_id
        self.streams = streams  # the caller reads chunks as they come
        self.window = window  # bytes of chunks that may be unread; 0: no limit
        self.wire = wire
        self.cancelled = False  # the caller has gone, and the call should end soon
        self.on_cancel: Callable[[], None] | None = None  # called once, on the control thread, when `cancelled` is set
        self._sent = 0  # bytes of chunks, written by the sender
        self._granted = 0  # bytes of them that the caller has read, written by the control thread
        self._wake: Callable[[], object] | None = None  # called when something was granted, or the call was cancelled

    def chunk(self, output: Output) -> None:
        """Send a chunk to the caller. From blocking code: waits while the call's window is full."""
        if self.cancelled:
            raise Cancelled
        size = output.size
        if not self._has_space(size):
            granted = threading.Event()
            self._wake = granted.set
            while not self._has_space(size) and not self.cancelled:
                granted.wait()
                granted.clear()
            self._wake = None
            if self.cancelled:
                raise Cancelled
        self._sent += size
        self.wire.chunk(self, output)

    async def chunk_async(self, output: Output) -> None:
        """Send a chunk from a coroutine, as ``chunk`` does from blocking code."""
        size = output.size
        if not self._has_space(size):
            granted = asyncio.Event()
            self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, granted.set)
            while not self._has_space(size):
                await granted.wait()
                granted.clear()
            self._wake = None
        self._sent += size
        self.wire.chunk(self, output)

    def progress(self, value: object) -> None:
        """Report how far the call is: any JSON, ``{"fraction": 0.4}`` by convention. Raises ValueError."""
        encoded = msgspec.json.encode(value)
        if len(encoded) > frames.MAX_PROGRESS:
            raise ValueError(f"progress has {len(encoded)} bytes as JSON; at most {frames.MAX_PROGRESS} are allowed")
        self.wire.progress(self, encoded)

    def log(self, message: str, level: str = "info") -> None:
        """Write a line with this call's request id into the model's log."""
        self.wire.log(self, level, message)

    def folder(self) -> Path:
        """Return the private folder of the call, which is removed when the call has ended. Raises OSError."""
        return self.wire.files.folder(self.id)

    # For the replica

    def grant(self, size: int) -> None:
        self._granted += size
        self._notify()

    def cancel(self) -> None:
        self.cancelled = True
        self._notify()
        if self.on_cancel is not None:
            self.on_cancel()

    def _has_space(self, size: int) -> bool:
        return not self.window or frames.fits(self.window, self._sent - self._granted, size)

    def _notify(self) -> None:
        wake = self._wake
        if wake is not None:
            wake()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The model of a replica: the part of the manifest that concerns a runtime."""

    name: str
    version: str
    folder: Path  # the manifest's folder; relative paths in options start here
    options: Mapping[str, Any]  # the manifest's table [RUNTIME]
    schema: Schema  # as the manifest states it
    device: str = "cpu"
    concurrency: int = 1
    timeout: float = 60.0  # seconds
    reach: Sequence[str] | None = None  # networks besides the public internet that it may connect to; None: any
    files: CallFiles = field(default_factory=CallFiles)  # of the replica


class Runtime(ABC):
    """Executes one model in this process. Raises CallFailed with ``unavailable`` when it cannot start."""

    name: ClassVar[str]
    default_concurrency: ClassVar[int] = 1  # calls at a time in one replica, where the manifest states none
    registrable: ClassVar[bool] = False  # runs no code of the operator: callers may register it over HTTP
    describes_itself: ClassVar[bool] = False  # the model's code states the schema, whatever the manifest does
    batches: ClassVar[bool] = False  # may run several calls together
    sessions: ClassVar[bool] = False  # a runtime that ``create`` returns may take sessions
    leaves_threads: ClassVar[bool] = False  # threads of the model may never end, and its process does not wait for them
    one_replica: ClassVar[bool] = False  # it calls a server; only one replica, so that all calls share its gate

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @classmethod
    def create(cls, spec: Spec) -> Runtime:
        """Create the runtime for that model."""
        return cls(spec)

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        """Return the mistakes in a manifest's options as pairs of the option and the detail. Runs in the host, so it
        must not import or run code of the model."""
        return ()

    @classmethod
    def interpreter(cls, options: Mapping[str, Any], folder: Path) -> Path | None:
        """Return the Python that runs the replicas; None for Penstock's own. Runs in the host."""
        return None

    @classmethod
    def lock_files(cls, options: Mapping[str, Any], folder: Path) -> Sequence[Path]:
        """Return the lock files of alternative environments, the best first; none for Penstock's own or that of
        ``interpreter``. Runs in the host."""
        return ()

    def describe(self) -> Schema:
        """Return the model's schema. Called before ``load``; may import the model's code but must not load weights."""
        return self.spec.schema


def unknown_options(runtime: str, options: Mapping[str, Any], known: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is wrong with options that a runtime does not have."""
    return [
        (
            name[:100],
            f"is not an option of the {runtime} runtime{did_you_mean(name, known) or '; it has ' + ', '.join(known)}",
        )
        for name in options
        if name not in known
    ]


class BlockingRuntime(Runtime):
    """A runtime whose calls block. With ``concurrency`` above one they run in that many threads."""

    def load(self) -> None:
        """Prepare for calls; called once per replica, on the main thread."""

    def unload(self) -> None:
        """Release what the model holds, before the replica ends."""

    @abstractmethod
    def predict(self, call: Call) -> Output | None:
        """Run one call and return its output; None after sending chunks with ``call.chunk``. Raises CallFailed; any
        other exception counts as ``failed`` with its text."""

    def predict_batch(self, calls: Sequence[Call]) -> Sequence[Output | Exception]:
        """Run several calls together and return as many results, in the same order. Only where the schema says
        ``batches``."""
        raise NotImplementedError


class AsyncRuntime(Runtime):
    """A runtime on the replica's event loop; a cancelled call is a cancelled task."""

    async def load(self) -> None:
        """Prepare for calls; called once per replica."""

    async def unload(self) -> None:
        """Release what the model holds, before the replica ends."""

    @abstractmethod
    async def predict(self, call: Call) -> Output | None:
        """Run one call, as ``BlockingRuntime.predict`` does; send chunks with ``await call.chunk_async``."""

    async def predict_batch(self, calls: Sequence[Call]) -> Sequence[Output | Exception]:
        """Run several calls together, as ``BlockingRuntime.predict_batch`` does."""
        raise NotImplementedError
