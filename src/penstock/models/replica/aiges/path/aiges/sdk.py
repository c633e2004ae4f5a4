"""The base of wrappers, and the names that they import beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiges.core.types import *  # noqa: F403  (wrappers import the constants from here, too)
from aiges.core.types import AUDIO, IMAGE, STRING, VIDEO
from aiges.declared import accepts_of, fields_of
from aiges.dto import (
    DataListCls,
    DataListNode,
    Response,
    ResponseData,
    SessionCreateResponse,
    callback,
    init_rq,
)
from aiges.fields import (
    AudioBodyField,
    BooleanParamField,
    Field,
    ImageBodyField,
    IntegerParamField,
    JsonBodyField,
    NumberParamField,
    ParamField,
    PayloadField,
    StringBodyField,
    StringParamField,
    VideoBodyField,
)
from aiges.stream import SessionManager, StreamHandleThread
from aiges.utils.log import log

if TYPE_CHECKING:
    from aiges.local import Problems

__all__ = [
    "AUDIO",
    "IMAGE",
    "STRING",
    "VIDEO",
    "AudioBodyField",
    "BooleanParamField",
    "DataListCls",
    "DataListNode",
    "Field",
    "ImageBodyField",
    "IntegerParamField",
    "JsonBodyField",
    "NumberParamField",
    "ParamField",
    "PayloadField",
    "Response",
    "ResponseData",
    "SessionCreateResponse",
    "SessionManager",
    "StreamHandleThread",
    "StringBodyField",
    "StringParamField",
    "VideoBodyField",
    "WrapperBase",
    "callback",
    "init_rq",
    "type_map",
]

type_map = {"text": STRING, "audio": AUDIO, "image": IMAGE, "video": VIDEO}


class WrapperBase:
    """A wrapper: the class ``Wrapper`` of the module ``wrapper`` derives from it.

    A method may take fewer parameters than stated here, and name or order the optional ones differently: each is called
    by its own signature. ``run`` and what follows it are for local debugging.
    """

    serviceId = ""
    version = "1"
    requestCls: Any = None
    responseCls: Any = None
    config: Mapping[str, str] = {}
    __mappings__: dict[str, Any] = {}

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        inputs, params = fields_of(cls.requestCls)
        stated = {name: vars(cls)[name] for name in ("call", "sub", "route", "call_type") if name in vars(cls)}
        cls.__mappings__ = {"inputs": inputs, "params": params, "accepts": accepts_of(cls.responseCls)} | stated

    def __init__(self, legacy: bool = True, is_aipaas: bool = True, keep_schema_default_value: bool = True) -> None:
        self.legacy = legacy
        self.is_aipaas = is_aipaas
        self.keep_schema_default_value = keep_schema_default_value
        self.respData: list[Any] = []

    @property
    def session(self) -> SessionManager:
        """The sessions, and the handles that stand for them."""
        found: SessionManager | None = vars(self).get("session")
        if found is None:
            found = vars(self)["session"] = SessionManager()
        return found

    @session.setter
    def session(self, manager: SessionManager) -> None:
        vars(self)["session"] = manager

    # What wrappers override

    def wrapperInit(self, config: Mapping[str, str]) -> int:
        """Load the model; 0 if that worked."""
        return 0

    def wrapperFini(self) -> int:
        """Release the model."""
        return 0

    def wrapperError(self, ret: int) -> str:
        """Return the text of an error number of the wrapper's own."""
        return ""

    def wrapperLoadRes(self, reqData: DataListCls, resId: int) -> int:
        return 0

    def wrapperUnloadRes(self, resId: int) -> int:
        return 0

    def wrapperOnceExec(
        self, params: Mapping[str, str], reqData: DataListCls, usrTag: str = "", persId: int = 0
    ) -> Response:
        raise NotImplementedError("wrapperOnceExec is not implemented")

    def wrapperOnceExecAsync(self, params: Mapping[str, str], reqData: DataListCls, sid: str, persId: int = 0) -> int:
        raise NotImplementedError("wrapperOnceExecAsync is not implemented")

    def wrapperCreate(
        self, params: Mapping[str, str], sid: str, persId: int = 0, usrTag: str = ""
    ) -> SessionCreateResponse:
        raise NotImplementedError("wrapperCreate is not implemented")

    def wrapperWrite(self, handle: str, req: DataListCls, sid: str) -> int:
        raise NotImplementedError("wrapperWrite is not implemented")

    def wrapperRead(self, handle: str, sid: str) -> Response:
        raise NotImplementedError("wrapperRead is not implemented")

    def wrapperDestroy(self, handle: str) -> int:
        return 0

    def wrapperTestFunc(self, data: Any, respData: Any) -> Any:
        return None

    # Local debugging

    def run(self, stream: bool = False) -> bool:
        """Call the wrapper with the test values of its fields, and print what is wrong. Return whether all is right."""
        return self.run_stream() if stream else self.run_once()

    def run_once(self) -> bool:
        from aiges import local  # noqa: PLC0415  (a replica needs none of it)

        return local.once(self)

    def run_stream(self) -> bool:
        from aiges import local  # noqa: PLC0415

        return local.stream(self)

    def check_resp(self, resp: Any) -> bool:
        """Return whether a response is what callers can be given; log each mistake in words."""
        from aiges import local  # noqa: PLC0415

        problems: Problems = local.problems_of(self, resp)
        for problem in problems:
            log.error("%s", problem)
        return not problems

    def schema(self) -> str:
        """Return the schema of the service as JSON text: the older dialect where ``legacy``, else the newer one."""
        from aiges import local  # noqa: PLC0415

        return local.schema(self)

    def gradio(self) -> None:
        """Refuse: pages to try a service are a part of the gateway here."""
        raise NotImplementedError(
            "gradio() is not supported: `penstock serve` has a page to try each service; use run() to debug locally"
        )

    def printPythonInfo(self) -> None:
        log.info("Python %s: %s", sys.version.split()[0], sys.executable)

    @property
    def inputs_test_values(self) -> dict[str, Any]:
        return {field.key: field.test_value for field in self.__mappings__["inputs"]}

    @property
    def params_test_values(self) -> dict[str, Any]:
        return {field.key: field.test_value for field in self.__mappings__["params"]}

    def _parse_inputs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the inputs by key, with their kinds and schemas, for wrappers with a test of their own."""
        from penstock.models.replica.aiges.fields import data_schema  # noqa: PLC0415

        inputs = [field.described() for field in self.__mappings__["inputs"]]
        return {one.key: {"dataType": one.type} for one in inputs}, {one.key: data_schema(one) for one in inputs}

    def _parse_params(self) -> tuple[dict[str, Any], list[str]]:
        """Return the parameters by key, with their schemas, and the keys of those that are required."""
        params = self.__mappings__["params"]
        limits = {key: schema for field in params for key, schema in field._schema().items()}
        return limits, [field.key for field in params if field.required]
