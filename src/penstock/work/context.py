"""The reports that an executor may send while it runs one job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from penstock.jobs.output import MAX_PROGRESS_BYTES
from penstock.jobs.usage import Usage
from penstock.jobs.work import LogLine
from penstock.tenants.principal import DEFAULT_TENANT, TenantId
from penstock.work.outbox import MAX_CHUNK_BYTES, Outbox

_MAX_MESSAGE = 2000  # characters of an error message that are kept
_MAX_LINE = 10_000  # characters of a log line's message that are kept
_MAX_LEVEL = 20
_MAX_USAGES = 100
_ADDED = ("prompt_tokens", "completion_tokens", "audio_seconds", "duration_ms")


class JobContext:
    """Takes the reports of an executor while it runs one job. Use it on the worker's event loop.

    Everything is sent within a second, and before the job's outcome. Reports after that are ignored.
    """

    __slots__ = ("_changed", "closed", "tenant", "usage", "used_outbox")

    def __init__(self, changed: Callable[[], None], tenant: TenantId = DEFAULT_TENANT) -> None:
        self.tenant = tenant  # owner of the job, and of the blobs that its input names
        self.usage: Sequence[Usage] = ()
        self.used_outbox: Outbox | None = None  # most jobs report nothing while they run
        self._changed = changed
        self.closed = False

    @property
    def outbox(self) -> Outbox:
        """The reports that are not yet stored."""
        if self.used_outbox is None:
            self.used_outbox = Outbox(self._changed)
            if self.closed:
                self.used_outbox.close()
        return self.used_outbox

    def close(self) -> None:
        """Accept no more reports, because the executor has ended."""
        self.closed = True
        if self.used_outbox is not None:
            self.used_outbox.close()

    def used(self, usage: Usage) -> None:
        """Report what a call to a provider used, or that it failed. It is stored and charged when the attempt ends,
        whatever its outcome. After a hundred calls, the use of further ones is added to earlier ones of the same
        provider, model and outcome. Raises ValueError for invalid usage."""
        checked = msgspec.convert(msgspec.to_builtins(usage), Usage)
        if len(self.usage) < _MAX_USAGES:
            self.usage = [*self.usage, checked]
        elif (merged := _merged(self.usage, checked)) is not None:
            self.usage = merged
        else:
            self.log(f"a call of {usage.provider} {usage.model} is not counted: there were too many others", "error")

    def progress(self, value: object) -> None:
        """Report progress: any JSON, by convention ``{"fraction": 0.4}``. Only the newest report is kept.

        Raises ValueError for ``bytes`` or ``Raw`` that are not JSON, and for more than 64 KiB.
        """
        self.outbox.put_progress(_checked(value, MAX_PROGRESS_BYTES))

    def chunk(self, value: object) -> None:
        """Report a part of the output: any JSON. No chunk is lost, and the order is kept; see ``room``.

        Raises ValueError for ``bytes`` or ``Raw`` that are not JSON, and for a chunk of almost 1 MiB or more.
        """
        self.outbox.put_chunk(_checked(value, MAX_CHUNK_BYTES))

    def log(self, message: str, level: str = "info") -> None:
        """Write a line to the job's log. Never raises; when lines come much too fast, some are dropped and counted."""
        text = shortened(_plain(message), _MAX_LINE)
        name = "".join(char for char in _plain(level) if char.isprintable())[:_MAX_LEVEL]
        self.outbox.put_line(LogLine(time=datetime.now(UTC), level=name or "info", message=text))

    @property
    def crowded(self) -> bool:
        """Whether ``room`` would wait."""
        return self.used_outbox is not None and self.used_outbox.crowded

    async def room(self) -> None:
        """Wait while too much output (10 MiB) is unsent. Executors that stream await it after each chunk."""
        if self.used_outbox is not None:
            await self.used_outbox.room()


def _merged(known: Sequence[Usage], more: Usage) -> list[Usage] | None:
    """Return the known calls, with ``more`` added to one of the same kind; None if none has room for it."""
    for index, one in enumerate(known):
        if (one.provider, one.model, one.version, one.status) != (more.provider, more.model, more.version, more.status):
            continue
        sums: dict[str, float | None] = {name: getattr(one, name) + getattr(more, name) for name in _ADDED}
        if one.duration_us is not None or more.duration_us is not None:
            sums["duration_us"] = _microseconds(one) + _microseconds(more)
        try:
            merged = msgspec.convert(msgspec.to_builtins(replace(one, **sums)), Usage)
        except msgspec.ValidationError:  # the sum is more than one call may report
            continue
        return [*known[:index], merged, *known[index + 1 :]]
    return None


def _microseconds(usage: Usage) -> int:
    return 1000 * usage.duration_ms if usage.duration_us is None else usage.duration_us


def encode(value: object) -> bytes:
    """Return ``value`` as JSON; ``bytes`` and ``Raw`` are JSON already."""
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value)


def shortened(message: str, longest: int = _MAX_MESSAGE) -> str:
    """Return ``message``, shortened to the stored length and without U+0000, which PostgreSQL cannot store."""
    clean = message.replace("\x00", "")
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _plain(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _checked(value: object, max_bytes: int) -> Raw:
    """Return ``value`` as JSON that fits in a heartbeat."""
    encoded = encode(value)
    if len(encoded) > max_bytes:
        raise ValueError(f"it has {len(encoded)} bytes as JSON; at most {max_bytes} are allowed")
    if isinstance(value, (bytes, Raw)):
        try:
            str(encoded, "utf-8")
            msgspec.json.decode(encoded, type=Raw)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise ValueError(f"it is not JSON: {error}") from error
    return Raw(encoded)
