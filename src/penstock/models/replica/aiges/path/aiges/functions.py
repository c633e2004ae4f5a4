"""Wrappers of the oldest form: functions of a module, which exchange data objects as dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from aiges.dto import DataListCls, Response, ResponseData
from aiges.sdk import WrapperBase


def class_of(module: ModuleType) -> type[WrapperBase] | None:
    """Return a class for the functions of a module; None if it has no function ``wrapperOnceExec``."""
    execute: Any = getattr(module, "wrapperOnceExec", None)
    if not callable(execute):
        return None

    class Wrapper(WrapperBase):
        def wrapperInit(self, config: Mapping[str, str]) -> int:
            return _called(module, "wrapperInit", dict(config)) or 0

        def wrapperFini(self) -> int:
            return _called(module, "wrapperFini") or 0

        def wrapperError(self, ret: int) -> str:
            return _called(module, "wrapperError", ret) or ""

        def wrapperOnceExec(
            self, params: Mapping[str, str], reqData: DataListCls, usrTag: str = "", persId: int = 0
        ) -> Response:
            given = [
                {"key": one.key, "data": one.data, "len": one.len, "type": one.type, "status": one.status}
                for one in reqData.list
            ]
            found: list[Any] = []
            number = execute(usrTag, params, given, found, [persId] if persId else [], 1 if persId else 0)
            response = Response(_data(one) for one in found)
            return response.response_err(number) if number else response

    return Wrapper


def _called(module: ModuleType, name: str, *values: Any) -> Any:
    function = getattr(module, name, None)
    return None if function is None else function(*values)


def _data(stated: Mapping[str, Any]) -> ResponseData:
    return ResponseData(
        key=stated.get("key", ""), data=stated.get("data"), type=stated.get("type", 0), status=stated.get("status", 3)
    )
