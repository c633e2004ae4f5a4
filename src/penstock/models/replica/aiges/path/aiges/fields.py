"""The fields by which a wrapper declares its parameters, inputs and outputs."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from aiges.core.types import AUDIO, IMAGE, STRING, VIDEO
from aiges.utils.log import log
from penstock.models.replica.aiges.fields import Data, Parameter, parameter_schema
from penstock.models.replica.aiges.kinds import NAMES

_UNSTATED: Any = object()


class Field(ABC):
    """One field; ``test_value`` is what local debugging sends in it."""

    data_type: int | str = STRING

    def __init__(self, key: str | bytes, data_type: int | str) -> None:
        self.key = key.decode() if isinstance(key, bytes) else str(key)
        self.data_type = data_type
        self.title = ""
        self.description = ""

    def __str__(self) -> str:
        return f"<{type(self).__name__}:{self.key}>"

    @property
    @abstractmethod
    def test_value(self) -> Any:
        """Return the value for local debugging."""


class ParamField(Field):
    """A parameter. Its value is for local debugging; it is not sent in place of one that a caller omits."""

    required: bool
    enums: list[Any]

    @abstractmethod
    def described(self) -> Parameter:
        """Return the parameter as schemas are made from it."""

    def _schema(self) -> dict[str, Any]:
        """Return the limits as JSON Schema by key, for wrappers that look at them."""
        return {self.key: parameter_schema(self.described())}


class StringParamField(ParamField):
    """A text; with ``enums`` one of those, else of ``minLength`` to ``maxLength`` characters."""

    def __init__(
        self,
        key: str | bytes,
        minLength: int = 0,
        maxLength: int = 1024,
        enums: Iterable[Any] = (),
        required: bool = False,
        value: Any = "",
        description: str = "",
        title: str = "",
    ) -> None:
        super().__init__(key, "string")
        self.min_length = minLength
        self.max_length = maxLength
        self.enums = list(enums)
        self.required = required
        self.value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        self.description = description
        self.title = title

    @property
    def test_value(self) -> Any:
        return self.value

    def described(self) -> Parameter:
        limited = not self.enums
        return Parameter(
            key=self.key,
            title=self.title,
            description=self.description,
            required=self.required,
            enum=[str(one) for one in self.enums],
            min_length=self.min_length or None if limited else None,
            max_length=self.max_length if limited else None,
            example=str(self.value) if self.value else None,
        )


class NumberParamField(ParamField):
    """A number; with ``enums`` one of those, else from ``minimum`` to ``maximum``."""

    kind: Literal["number", "integer"] = "number"

    def __init__(
        self,
        key: str | bytes,
        minimum: float = 0,
        maximum: float = 100,
        enums: Iterable[Any] = (),
        required: bool = False,
        value: Any = _UNSTATED,
        title: str = "",
        description: str = "",
    ) -> None:
        super().__init__(key, self.kind)
        self.minimum = minimum
        self.maximum = maximum
        self.enums = list(enums)
        self.required = required
        self.value: Any = 0 if value is _UNSTATED else value
        self.title = title
        self.description = description
        self._stated = value is not _UNSTATED

    @property
    def test_value(self) -> Any:
        return self.value

    def described(self) -> Parameter:
        limited = not self.enums
        return Parameter(
            key=self.key,
            type=self.kind,
            title=self.title,
            description=self.description,
            required=self.required,
            enum=self.enums,
            minimum=self.minimum if limited else None,
            maximum=self.maximum if limited else None,
            example=self.value if self._stated else None,
        )


class IntegerParamField(NumberParamField):
    """A whole number."""

    kind = "integer"


class BooleanParamField(ParamField):
    """true or false; ``default`` is stated in the schema."""

    def __init__(
        self, key: str | bytes, title: str = "", default: bool = False, required: bool = False, description: str = ""
    ) -> None:
        super().__init__(key, "boolean")
        self.title = title
        self.description = description
        self.default = default
        self.required = required
        self.enums = []

    @property
    def test_value(self) -> Any:
        return self.default

    def described(self) -> Parameter:
        return Parameter(
            key=self.key,
            type="boolean",
            title=self.title,
            description=self.description,
            required=self.required,
            default=self.default,
        )


class PayloadField(Field):
    """A data object, of the request or of the response."""

    data_type: int
    encoding = ""
    compress = ""
    format = ""
    status = 3

    def described(self) -> Data:
        """Return the data object as schemas are made from it."""
        return Data(
            key=self.key,
            type=NAMES[self.data_type],
            title=self.title,
            description=self.description,
            encoding=self.encoding,
            compress=self.compress,
            format=self.format,
        )


class StringBodyField(PayloadField):
    """Text. ``value`` are the bytes that local debugging sends."""

    def __init__(
        self,
        key: str | bytes,
        value: bytes | str = b" ",
        need_base64: bool = False,
        encoding: str = "utf8",
        format: str = "plain",  # noqa: A002
        compress: str = "raw",
        status: int = 3,
    ) -> None:
        super().__init__(key, STRING)
        self.value = value.encode() if isinstance(value, str) else value
        self.need_base64 = need_base64
        self.encoding = encoding
        self.format = format
        self.compress = compress
        self.status = status

    @property
    def test_value(self) -> bytes:
        return base64.b64encode(self.value) if self.need_base64 else self.value

    def described(self) -> Data:
        stated = super().described()
        text = self.value.decode("utf-8", "replace").strip()
        stated.example = text or None
        return stated


class JsonBodyField(StringBodyField):
    """Text that is JSON."""

    def __init__(self, key: str | bytes, value: bytes | str = "", need_base64: bool = False) -> None:
        super().__init__(key, value, need_base64, format="json")


class MediaBodyField(PayloadField):
    """Media. ``path`` is the file that local debugging sends, relative to the working folder."""

    def __init__(self, key: str | bytes, data_type: int, path: str) -> None:
        super().__init__(key, data_type)
        self.path = path

    @property
    def test_value(self) -> bytes:
        path = Path(self.path)
        if self.path and path.is_file():
            return path.read_bytes()
        log.warning("%s: there is no file %r to send: state its path in the field", self.key, self.path)
        return b""


class ImageBodyField(MediaBodyField):
    """A picture."""

    def __init__(
        self, key: str | bytes, path: str = "", need_base64: bool = False, encoding: str = "jpg", status: int = 3
    ) -> None:
        super().__init__(key, IMAGE, path)
        self.need_base64 = need_base64
        self.encoding = encoding
        self.status = status

    @property
    def test_value(self) -> bytes:
        content = super().test_value
        return base64.b64encode(content) if self.need_base64 else content


class AudioBodyField(MediaBodyField):
    """Sound."""

    def __init__(
        self,
        key: str | bytes,
        path: str = "",
        encoding: str = "raw",
        format: str = "plain",  # noqa: A002
        compress: str = "raw",
        status: int = 3,
    ) -> None:
        super().__init__(key, AUDIO, path)
        self.encoding = encoding
        self.format = format
        self.compress = compress
        self.status = status


class VideoBodyField(MediaBodyField):
    """A video, which the original package has no field for."""

    def __init__(self, key: str | bytes, path: str = "", encoding: str = "mp4", status: int = 3) -> None:
        super().__init__(key, VIDEO, path)
        self.encoding = encoding
        self.status = status
