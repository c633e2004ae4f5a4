"""Pictures, sound and files as types of a Python model's parameters and results.

Inside Penstock media travel as raw bytes beside the JSON; a caller may also write them into it as a ``data:`` URL.
Pillow and numpy are imported when they are first needed.
"""

from __future__ import annotations

import base64
import io
import itertools
import mimetypes
import os
import re
import wave
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import unquote_to_bytes

from pydantic_core import core_schema

from penstock.models.replica import base64_text
from penstock.models.replica.contract.context import BadInput, context
from penstock.models.replica.contract.numbers import numpy_itself, pillow
from penstock.models.replica.contract.sound import samples_of
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.suffixes import suffix_of

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}", re.ASCII)
_numbers = itertools.count(1)  # of files in the folders of calls
_MAX_HEAD: Final = 1000  # characters of a data: URL before its comma


class Lifted:
    """The media of one output, taken out of its JSON while it is written and replaced by placeholder strings.

    Passed as the context of the serialisation; without it, media are written as ``data:`` URLs.
    """

    __slots__ = ("files", "mark")

    def __init__(self, mark: str) -> None:
        self.mark = mark  # no string of an output begins with it
        self.files: list[File] = []

    def take(self, file: File) -> str:
        self.files.append(file)
        return f"{self.mark}{len(self.files) - 1}"


class File:
    """Bytes with a media type, in memory or in a file. Never changes.

    As a parameter it takes any media; ``Image`` and ``Audio`` take only theirs. ``data`` and ``path`` work for either;
    a file in the folder of a call can be read until the call has ended.
    """

    __slots__ = ("_path", "content", "media_type", "name")
    allowed: ClassVar[str] = "application/octet-stream"  # what the JSON Schema states; here it means any type
    usual: ClassVar[str] = "application/octet-stream"

    content: bytes | FileBytes  # for Penstock: where the bytes are
    media_type: str
    name: str | None
    _path: str | None

    def __init__(
        self, data: bytes | bytearray | memoryview | FileBytes, media_type: str = "", name: str | None = None
    ) -> None:
        """Raises ValueError when ``media_type``, by default the class's usual one, is malformed or of another class."""
        media_type = media_type.lower() or self.usual
        if not _TYPE.fullmatch(media_type):
            raise ValueError(f"media type must be like image/png, not {media_type[:100]!r}")
        if not self.accepts(media_type):
            raise ValueError(f"must be of media type {self.allowed}, not {media_type}")
        put = super().__setattr__
        put("content", data if isinstance(data, bytes | FileBytes) else bytes(data))
        put("media_type", media_type)
        put("name", name)
        put("_path", data.path if isinstance(data, FileBytes) else None)

    @classmethod
    def at(cls, path: str | os.PathLike[str], media_type: str = "", name: str | None = None) -> Self:
        """Return the file at ``path``, whose bytes are not read into memory when a model returns it.

        The media type is by default the one that the name shows, and the name that of the file. Raises ValueError for
        what is not a regular file.
        """
        place = Path(path).absolute()
        if not place.is_file():
            raise ValueError(f"there is no regular file {place}")
        shown = mimetypes.guess_type(place.name)[0]
        media_type = media_type or (shown if shown is not None and cls.accepts(shown) else cls.usual)
        return cls(FileBytes(str(place), place.stat().st_size), media_type, name or place.name)

    @property
    def data(self) -> bytes:
        """The bytes; those of a file are read each time."""
        return self.content if isinstance(self.content, bytes) else self.content.whole()

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    @property
    def path(self) -> Path:
        """The path of a file with the bytes; those in memory are written to one in the folder of the running call.

        Raises RuntimeError if no call runs, and OSError.
        """
        if self._path is None:
            place = context().folder / f"{next(_numbers)}{suffix_of(self.name, self.media_type)}"
            place.write_bytes(self.data)
            super().__setattr__("_path", str(place))
        return Path(str(self._path))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} does not change: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} does not change: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        described = (self.media_type, self.name, self.size) == (other.media_type, other.name, other.size)
        return described and self.data == other.data

    def __hash__(self) -> int:
        return hash((type(self), self.media_type, self.name, self.size))

    def __repr__(self) -> str:
        named = f", name={self.name!r}" if self.name is not None else ""
        return f"{type(self).__name__}(<{self.size} bytes>, {self.media_type!r}{named})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.data, self.media_type, self.name)

    @classmethod
    def accepts(cls, media_type: str) -> bool:
        """Return whether media of that type belong to this class."""
        return cls.allowed == File.allowed or fnmatchcase(media_type, cls.allowed)

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Decode a ``data:`` URL; raises ValueError. Nothing is ever fetched."""
        if not url.startswith("data:"):
            raise ValueError(f"must be a data: URL of media type {cls.allowed}")
        comma = url.find(",", 0, _MAX_HEAD)
        if comma < 0:
            raise ValueError("must be a data: URL, like data:image/png;base64,iVBORw0KGgo=")
        stated, *parameters = url[5:comma].split(";")
        body = url[comma + 1 :]
        if parameters and parameters[-1].strip().lower() == "base64":
            try:
                data = base64_text.decoded(body)
            except ValueError as error:
                raise ValueError(f"its base64 is not valid: {error}") from None
        else:
            data = unquote_to_bytes(body)
        return cls(data, stated.strip() or "text/plain")

    def url(self) -> str:
        """Return the media as a ``data:`` URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"

    @classmethod
    def taken(cls, value: object) -> Self:
        """Return an instance, a File whose media type fits, or a ``data:`` URL as an instance of this class. Raises
        ValueError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.of_url(value)
        if isinstance(value, File):
            return cls(value.content, value.media_type, value.name)
        raise ValueError(f"must be media of type {cls.allowed}: an upload, or a data: URL")

    def _written(self, info: core_schema.SerializationInfo[Any]) -> str:
        return info.context.take(self) if isinstance(info.context, Lifted) else self.url()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.taken,
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls._written, info_arg=True, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return media_schema(cls.allowed)


class Image(File):
    """A picture of any format; ``open`` decodes it with Pillow."""

    __slots__ = ()
    allowed = "image/*"
    usual = "image/png"

    def open(self) -> PIL.Image.Image:
        """Return the picture, decoded. Raises BadInput when Pillow cannot read the bytes, and ImportError without
        Pillow."""
        return self._opened(None)

    def upright(self, *, max_pixels: int = 50_000_000) -> PIL.Image.Image:
        """Return the picture in RGB, turned as its EXIF data says.

        Raises BadInput as ``open`` does, and for a picture of more than ``max_pixels``, which is not decoded.
        """
        picture = self._opened(max_pixels)
        from PIL import ImageOps  # noqa: PLC0415  (only models that take pictures need it)

        return ImageOps.exif_transpose(picture).convert("RGB")

    def _opened(self, max_pixels: int | None) -> PIL.Image.Image:
        imaging = pillow()
        try:
            source = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.path
            picture: PIL.Image.Image = imaging.open(source)
            if max_pixels is not None and picture.width * picture.height > max_pixels:
                detail = f"has {picture.width} × {picture.height} pixels; at most {max_pixels} are allowed"
                raise BadInput(f"the {self.media_type} {detail}")
            picture.load()
        except (OSError, SyntaxError, ValueError, imaging.DecompressionBombError) as error:
            raise BadInput(f"the {self.media_type} cannot be read as a picture: {error}") from error
        return picture

    @classmethod
    def from_pil(cls, picture: PIL.Image.Image, format: str = "PNG") -> Image:  # noqa: A002  (Pillow's own word)
        """Encode a picture. Raises ValueError for a format that Pillow does not write."""
        imaging = pillow()
        encoded = io.BytesIO()
        try:
            picture.save(encoded, format=format)
        except KeyError:
            raise ValueError(f"format must be one that Pillow writes, such as PNG or JPEG, not {format!r}") from None
        return cls(encoded.getvalue(), imaging.MIME[format.upper()])


class Audio(File):
    """Sound of any format; ``samples`` decodes it."""

    __slots__ = ()
    allowed = "audio/*"
    usual = "audio/wav"

    @classmethod
    def of_samples(cls, samples: numpy.ndarray, rate: int) -> Audio:
        """Return a wav (16 bit) of float samples [frames] or [frames, channels], clipped to -1.0 to 1.0. ``rate`` is in
        frames per second."""
        np = numpy_itself()
        array = np.asarray(samples, dtype=np.float64)
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] == 0:
            raise ValueError(f"samples must have the shape [frames] or [frames, channels], not {list(array.shape)}")
        scaled = np.clip(np.nan_to_num(array), -1.0, 1.0) * 32767
        encoded = io.BytesIO()
        with wave.open(encoded, "wb") as file:
            file.setnchannels(array.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.rint(scaled).astype("<i2").tobytes())
        return cls(encoded.getvalue(), "audio/wav")

    def samples(self) -> tuple[numpy.ndarray, int]:
        """Return (float32 [frames, channels] from -1.0 to 1.0, frames per second).

        Decodes every format that transcription takes: wav, mp3, flac, ogg, opus, m4a, webm. Raises BadInput for other
        bytes, and ImportError without NumPy or, unless the sound is PCM wav, without PyAV.
        """
        return samples_of(self.data, self.media_type)


def media_schema(media_type: str) -> dict[str, Any]:
    """Return the JSON Schema of media."""
    return {"type": "string", "format": "media", "contentMediaType": media_type}
