"""Mask credentials in a server's responses: in JSON, in text media, and across the chunks of a stream.

Pictures, sound, video and other binary media stay byte for byte as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from penstock.masking import Masker
from penstock.models.replica.data_urls import put
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Output, Segment

_TEXT: Final = ("text/*", "application/json", "application/*+json", "application/x-ndjson", "application/xml",
                "application/*+xml", "application/yaml", "application/javascript")  # fmt: skip
_MAX_HELD: Final = 64  # chunks that wait for the rest of a possible credential

Path = tuple[str | int, ...]


def is_text(media_type: str) -> bool:
    """Return whether media of that type are text, in which credentials are masked."""
    return any(fnmatchcase(media_type, pattern) for pattern in _TEXT)


def masked_segment(masker: Masker, segment: Segment) -> Segment:
    """Return media without credentials, where they are text in UTF-8; otherwise as they are."""
    if not is_text(segment.media_type) or isinstance(segment.data, FileBytes):  # files hold binary media only
        return segment
    try:
        text = bytes(segment.data).decode()
    except UnicodeDecodeError:
        return segment
    return replace(segment, data=masker.text(text).encode())


@dataclass(slots=True)
class _Held:
    """A chunk that is not sent yet, and the texts in it by their places."""

    output: Output
    value: Any
    texts: dict[Path, str]
    changed: bool = False

    def set_text(self, path: Path, text: str) -> None:
        if self.texts[path] != text:
            self.texts[path] = text
            self.value = put(self.value, path, text)
            self.changed = True

    def finished(self) -> Output:
        return Output(msgspec.json.encode(self.value), self.output.segments) if self.changed else self.output


class MaskedChunks:
    """The chunks of one stream, without credentials, even if one is divided among several chunks.

    Texts at the same place of successive chunks are read as one text. A chunk whose text may end with the beginning of
    a credential waits for the next ones, 64 at most; other chunks pass as they are.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held: list[_Held] = []

    def feed(self, output: Output) -> list[Output]:
        """Return the chunks that can be sent now."""
        segments = [masked_segment(self._masker, segment) for segment in output.segments]
        value = msgspec.json.decode(output.json)
        masked = self._masker.value(value)
        held = _Held(Output(output.json, segments), masked, dict(_texts(masked, ())), changed=masked != value)
        self._held.append(held)
        return self._release(len(self._held) > _MAX_HELD)

    def end(self) -> list[Output]:
        """Return the held chunks."""
        return self._release(True)

    def _release(self, everything: bool) -> list[Output]:
        first_open = len(self._held)
        for path in {path: None for held in self._held for path in held.texts}:
            first_open = min(first_open, self._mask(path))
        if everything:
            first_open = len(self._held)
        released, self._held = self._held[:first_open], self._held[first_open:]
        return [held.finished() for held in released]

    def _mask(self, path: Path) -> int:
        """Mask one place over all held chunks. Return the index of the first that must wait, or their number."""
        parts = [(index, held) for index, held in enumerate(self._held) if path in held.texts]
        text = "".join(held.texts[path] for _, held in parts)
        masked = self._masker.text(text)
        if masked != text:  # a credential was divided: all of the text goes to the last one
            for _, held in parts[:-1]:
                held.set_text(path, "")
            parts[-1][1].set_text(path, masked)
        open_from = len(masked) - self._masker.unfinished(masked)
        at = 0
        for index, held in parts:
            at += len(held.texts[path])
            if at > open_from:
                return index
        return len(self._held)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the texts of a JSON value with their places."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))
