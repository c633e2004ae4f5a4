"""What an executor may report while it runs one job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Raw

from penstock.jobs.job import LogLine
from penstock.jobs.output import MAX_PROGRESS_BYTES
from penstock.jobs.usage import Usage
from penstock.work.outbox import LARGEST_CHUNK, Outbox

_LONGEST_MESSAGE = 2000  # characters of an error message that are kept
_LONGEST_LINE = 10_000  # characters of a log line's message that are kept
_LONGEST_LEVEL = 20
_MOST_USAGES = 100


class JobContext:
    """What an executor may tell while it runs one job. To be used on the worker's event loop.

    All of it is sent within a second, and before the job's end is reported; what is told later is ignored.
    """

    __slots__ = ("_changed", "closed", "usage", "used_outbox")

    def __init__(self, changed: Callable[[], None]) -> None:
        self.usage: Sequence[Usage] = ()
        self.used_outbox: Outbox | None = None  # most jobs report nothing on their way
        self._changed = changed
        self.closed = False

    @property
    def outbox(self) -> Outbox:
        """What was reported, until it is stored."""
        if self.used_outbox is None:
            self.used_outbox = Outbox(self._changed)
            if self.closed:
                self.used_outbox.close()
        return self.used_outbox

    def close(self) -> None:
        """Take nothing more: the executor has ended."""
        self.closed = True
        if self.used_outbox is not None:
            self.used_outbox.close()

    def used(self, usage: Usage) -> None:
        """Tell what a call to a provider used, or that it failed. Stored with the attempt's end, however it ends, and
        summed up in the statistics; the first hundred count. Raises ValueError for what cannot be stored."""
        if len(self.usage) < _MOST_USAGES:
            self.usage = [*self.usage, msgspec.convert(msgspec.to_builtins(usage), Usage)]

    def progress(self, value: object) -> None:
        """Tell how far the job is: any JSON, ``{"fraction": 0.4}`` by convention. Newest wins.

        Raises ValueError for ``bytes`` or ``Raw`` that are no JSON, and for more than 64 KiB.
        """
        self.outbox.put_progress(_checked(value, MAX_PROGRESS_BYTES))

    def chunk(self, value: object) -> None:
        """Tell a part of the output: any JSON. None is lost, and their order is kept; see ``room``.

        Raises ValueError for ``bytes`` or ``Raw`` that are no JSON, and for a chunk of almost 1 MiB or more.
        """
        self.outbox.put_chunk(_checked(value, LARGEST_CHUNK))

    def log(self, message: str, level: str = "info") -> None:
        """Tell a line of the job's log. Never raises; lines that come much too fast are dropped and counted."""
        text = shortened(_plain(message), _LONGEST_LINE)
        name = "".join(char for char in _plain(level) if char.isprintable())[:_LONGEST_LEVEL]
        self.outbox.put_line(LogLine(time=datetime.now(UTC), level=name or "info", message=text))

    @property
    def crowded(self) -> bool:
        """Whether ``room`` would wait."""
        return self.used_outbox is not None and self.used_outbox.crowded

    async def room(self) -> None:
        """Wait while too much output (10 MiB) is unsent. An executor that streams awaits it after each chunk."""
        if self.used_outbox is not None:
            await self.used_outbox.room()


def encode(value: object) -> bytes:
    """``value`` as JSON; ``bytes`` and ``Raw`` are JSON already."""
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value)


def shortened(message: str, longest: int = _LONGEST_MESSAGE) -> str:
    """``message`` at a length that is stored, without the U+0000 that PostgreSQL cannot store."""
    clean = message.replace("\x00", "")
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _plain(text: str) -> str:
    """``text`` without halves of surrogate pairs, which no UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def _checked(value: object, most_bytes: int) -> Raw:
    """``value`` as JSON that a heartbeat can carry."""
    encoded = encode(value)
    if len(encoded) > most_bytes:
        raise ValueError(f"it has {len(encoded)} bytes as JSON; at most {most_bytes} are allowed")
    if isinstance(value, (bytes, Raw)):
        try:
            str(encoded, "utf-8")
            msgspec.json.decode(encoded, type=Raw)
        except (ValueError, RecursionError) as error:  # what msgspec raises is a ValueError
            raise ValueError(f"it is given as JSON and is none: {error}") from error
    return Raw(encoded)
