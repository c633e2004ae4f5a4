"""Exchange media with a program as files: their paths stand in its JSON.

Used in replicas: imports stay within msgspec and the standard library.
"""

from __future__ import annotations

import itertools
import mimetypes
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.data_urls import Lifter, Unreadable, put
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Call, Output, Segment
from penstock.models.replica.suffixes import suffix_of

VARIABLE: Final = "PENSTOCK_FILES"  # names the folder in the environment of the program


class MediaPaths:
    """Writes media of inputs to files, and takes files that a program returns from its folder.

    The program writes files that it returns into the folder that PENSTOCK_FILES names; that folder is emptied after
    each call.
    """

    def __init__(self, files: CallFiles, input_schema: Mapping[str, Any], output_schema: Mapping[str, Any]) -> None:
        self._folder = files.root / "program"
        self._folder.mkdir(mode=0o700)
        self._inputs = Lifter(input_schema)
        self._outputs = Lifter(output_schema)
        self._numbers = itertools.count(1)
        os.environ[VARIABLE] = str(self._folder)

    def given(self, call: Call) -> bytes:
        """Return the input of a call as JSON with the paths of its media. Raises CallFailed, OSError."""
        try:
            lifted = self._inputs.lift(call.input)  # media that the caller wrote into the JSON
        except Unreadable as error:
            raise CallFailed(Category.BAD_INPUT, error.message, field=error.field) from None
        segments = [*call.segments, *lifted.segments]
        if not segments:
            return call.input
        value: Any = msgspec.json.decode(lifted.json)
        for number, segment in enumerate(segments):
            value = put(value, segment.path, _path_of(segment, call, number))
        return msgspec.json.encode(value)

    def returned(self, output: Output, call: Call) -> Output:
        """Return an output whose paths of media have become the files there. Raises CallFailed."""
        try:
            found = self._outputs.paths(output.json)
        except Unreadable as error:
            raise CallFailed(Category.INTERNAL, f"the program's output cannot be used: {error.message}") from None
        if not found:
            return output
        value: Any = msgspec.json.decode(output.json)
        segments = list(output.segments)
        for path, text in found.items():
            value = put(value, path, None)
            segments.append(self._taken(text, path, call))
        return Output(msgspec.json.encode(value), segments)

    def clear(self) -> None:
        """Empty the folder of the program."""
        for entry in self._folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()

    def _taken(self, text: str, path: tuple[str | int, ...], call: Call) -> Segment:
        """Move a file of the program into the folder of the call."""
        place = Path(os.path.normpath(text))
        try:
            inside = place.parent.resolve().is_relative_to(self._folder.resolve())
            regular = inside and stat.S_ISREG(place.lstat().st_mode)
        except (OSError, ValueError):
            regular = False
        if not regular:
            raise CallFailed(
                Category.INTERNAL,
                f"the program's output names a file at {dotted(path) or 'its place'} that is not a regular file in "
                f"{VARIABLE}",
            )
        taken = place.rename(call.folder() / f"returned-{next(self._numbers)}")
        media_type = mimetypes.guess_type(place.name)[0] or "application/octet-stream"
        return Segment(FileBytes(str(taken), taken.stat().st_size), media_type, path, place.name)


def _path_of(segment: Segment, call: Call, number: int) -> str:
    if isinstance(segment.data, FileBytes):
        return segment.data.path
    path = call.folder() / f"{number}{suffix_of(segment.name, segment.media_type)}"
    path.write_bytes(segment.data)
    return str(path)
