"""The requests that wrappers get, and the results that they return."""

from __future__ import annotations

import json
from builtins import list as _list
from collections.abc import Iterable, Mapping
from typing import Any

from aiges.core.types import (
    DataAudio,
    DataBegin,
    DataContinue,
    DataEnd,
    DataImage,
    DataOnce,
    DataText,
    DataVideo,
    Once,
    Status,
    Types,
)
from aiges.replies import callback, callback_metric, callback_trace, init_rq

__all__ = [
    "DataAudio",
    "DataBegin",
    "DataContinue",
    "DataEnd",
    "DataImage",
    "DataListCls",
    "DataListNode",
    "DataOnce",
    "DataText",
    "DataVideo",
    "Once",
    "Response",
    "ResponseData",
    "SessionCreateResponse",
    "Status",
    "Types",
    "callback",
    "callback_metric",
    "callback_trace",
    "init_rq",
]


class DataListNode:
    """A data object of a request: ``data`` are its bytes, ``desc`` its attributes."""

    def __init__(
        self,
        key: str = "",
        data: bytes = b"",
        type: int = DataText,  # noqa: A002
        status: int = Once,
        desc: Mapping[str, str] | None = None,
    ) -> None:
        self.key = key
        self.data = data
        self.type = type
        self.status = status
        self.len = len(data)
        self.desc = dict(desc or {})

    def get_data(self) -> bytes:
        return self.data


class DataListCls:
    """The data objects of a request, or of a part of a session."""

    def __init__(self, nodes: Iterable[DataListNode] = ()) -> None:
        self.list: _list[DataListNode] = _list(nodes)

    def get(self, key: str) -> DataListNode | None:
        """Return the data object of that key; None if the request has none."""
        return next((node for node in self.list if node.key == key), None)


class ResponseData:
    """A data object of a result. ``setData`` fills it, or plain assignments of ``data`` and ``len``."""

    def __init__(
        self,
        key: str = "",
        data: Any = b"",
        length: int | None = None,
        type: int = DataText,  # noqa: A002
        status: int = Once,
        len: int | None = None,  # noqa: A002
        desc: Mapping[str, str] | None = None,
    ) -> None:
        self.key = key
        self.data = data
        self.type = type
        self.status = status
        stated = length if len is None else len
        self.len = (0 if data is None else data.__len__()) if stated is None else stated
        self.desc = dict(desc or {})

    def setDataType(self, t: int) -> None:
        if t not in (DataText, DataAudio, DataImage, DataVideo):
            raise ValueError(f"{t!r} is not a type of data: DataText, DataAudio, DataImage or DataVideo")
        self.type = t

    def setData(self, d: Any) -> None:
        self.data = d
        self.len = len(d)

    def toJSON(self) -> str:
        return _json(self)


class Response:
    """A result. A new one holds one data object that nothing has filled yet, and that is left out while it is so."""

    def __init__(self, list: Iterable[ResponseData] | None = None) -> None:  # noqa: A002
        self.list: _list[ResponseData] = [ResponseData()] if list is None else _list(list)
        self.error_code = 0

    def response_err(self, error_code: int) -> Response:
        """State that the call has failed, by a number of the wrapper's own; ``wrapperError`` gives its text."""
        self.error_code = error_code
        return self

    def toJSON(self) -> str:
        return _json(self)


class SessionCreateResponse:
    """The handle of a new session, or the number of an error."""

    def __init__(self) -> None:
        self.handle = ""
        self.error_code = 0

    def toJSON(self) -> str:
        return _json(self)


def _json(value: object) -> str:
    def plain(inner: object) -> object:
        return bytes(inner).decode("utf-8", "replace") if isinstance(inner, bytes | memoryview) else vars(inner)

    return json.dumps(value, default=plain, sort_keys=True, indent=4)
