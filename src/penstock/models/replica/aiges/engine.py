"""A wrapper with the options of its manifest: its life, its schema, and what each call of it needs."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import (
    calls,
    codes,
    configuration,
    fields,
    kinds,
    operations,
    responses,
    schema_file,
    wrapper,
)
from penstock.models.replica.aiges.calls import EngineCall, Item
from penstock.models.replica.aiges.running import Registry
from penstock.models.replica.runtime import Output, Schema, Segment, Spec

_NO_RESOURCE: Final = 0
_SIDS: Final = map(f"{secrets.token_hex(12)}{{:08x}}".format, itertools.count())  # for calls that bring none


class Method(Enum):
    """What runs a single call of a wrapper."""

    ONCE = auto()
    ASYNC = auto()
    SESSION = auto()  # of one part


@dataclass(frozen=True, slots=True)
class Given:
    """A call as the wrapper's methods get it."""

    data: EngineCall
    params: dict[str, str]
    sid: str
    resource: int | str  # 0: none


class Engine:
    """One wrapper in one replica."""

    def __init__(self, spec: Spec) -> None:
        options = spec.options
        self.spec = spec
        self.wrapper = wrapper.Wrapper(options.get("class", wrapper.CLASS), spec.folder)
        self.registry = Registry()
        self._header_pass: Sequence[str] = options.get("header_pass", ())
        self._files: Mapping[str, str] = options.get("resources", {})
        self._may_load = bool(options.get("load_resources", False))
        self._resources: set[str] = set()
        self._loading = threading.Lock()
        self._service = self.wrapper.service
        self._service.sessions = self._service.sessions and bool(options.get("sessions", True))
        loader = self._loader()
        self.method = self._method()
        self.called_back = bool(options.get("callbacks", loader.get("asyncMode", self.wrapper.called_back)))
        self.realtime = bool(options.get("realtime", loader.get("realTimeRlt", False)))

    @property
    def streaming(self) -> bool:
        """Whether results may come by callbacks: from sessions, or from asynchronous calls."""
        return self._service.sessions or self.method is not Method.ONCE

    def describe(self) -> Schema:
        """Return the schema that the wrapper's fields make; the manifest's where it has none."""
        stated, service = self.spec.schema, self._service
        made = schema_file.schema_of(service, description=stated.description)
        made.cancels = True
        if not (service.parameters or service.inputs or service.outputs) and stated.input:
            made.input = {**stated.input, fields.KEYWORD: made.input[fields.KEYWORD]}
            made.output = stated.output
        return made

    def load(self) -> None:
        """Initialize the wrapper, and load its resources. Raises CallFailed (``unavailable``)."""
        from aiges import replies  # noqa: PLC0415  (found once the wrapper was imported)

        replies.attach(self.registry)
        try:
            config = configuration.wrapper_config(self.spec.options, self.spec.folder)
        except ValueError as error:
            raise codes.failed(codes.INIT_RAISED, str(error), category=Category.UNAVAILABLE) from None
        self.wrapper.init(config)
        for name, path in self._files.items():
            self._load(name, EngineCall({}, {}, {}, [Item(name, (self.spec.folder / path).read_bytes(), kinds.OTHER)]))

    def unload(self) -> None:
        """Unload the resources and the wrapper; failures are only logged."""
        for name in sorted(self._resources):
            try:
                self.wrapper.unload_resource(name)
            except CallFailed as failure:
                print(f"wrapperUnloadRes({name!r}) has failed: {failure.message}")  # noqa: T201 - the model's log
        self.wrapper.fini()

    # Calls

    def given(self, json: bytes, segments: Sequence[Segment]) -> Given:
        """Return what a call, or the first part of a session, gives the wrapper. Raises CallFailed (``bad_input``)."""
        data = calls.read(json, segments)
        sid = data.header.get("sid") or next(_SIDS)
        return Given(data, data.passed(self._header_pass, sid), sid, self._resource(data))

    def result(self, response: Any, method: str, code: int) -> list[Item]:
        """Return the data of a response. Raises CallFailed if it states an error, with ``code``, or has none."""
        number = responses.error_number(response)
        if number:
            raise codes.refused(code, number, self.wrapper.error_text(number))
        return responses.items_of(response, method)

    def is_operation(self, data: EngineCall) -> bool:
        """Return whether a call is about loading or unloading a resource."""
        return operations.is_operation(data.header)

    def operate(self, data: EngineCall) -> Output:
        """Load or unload a resource. Raises CallFailed."""
        stated = data.header["op"]
        if not self._may_load:
            raise operations.bad(
                "op", "this engine loads no resources by calls: its manifest must state load_resources = true"
            )
        name = data.header.get("res_id", "")
        if not name:
            raise operations.bad("res_id", f"is required for {stated}")
        if stated == operations.LOAD:
            self._load(name, data)
        else:
            self._unload(name)
        return Output(b'{"payload":{}}')

    def _method(self) -> Method:
        """Return what runs single calls. Raises CallFailed (``unavailable``)."""
        has_async = self.wrapper.implements("wrapperOnceExecAsync")
        if has_async and self.spec.options.get("callbacks", False):
            return Method.ASYNC
        if self.wrapper.implements("wrapperOnceExec"):
            return Method.ONCE
        if has_async:
            return Method.ASYNC
        if self._service.sessions:
            return Method.SESSION
        detail = "the wrapper has neither wrapperOnceExec nor wrapperOnceExecAsync, nor wrapperCreate and wrapperWrite"
        raise codes.failed(codes.INIT_RAISED, detail, category=Category.UNAVAILABLE)

    def _loader(self) -> Mapping[str, Any]:
        """Return the table ``[aiges]`` of ``aiges.toml``. Raises CallFailed (``unavailable``)."""
        try:
            found = configuration.loader_config(self.spec.options, self.spec.folder).get("aiges", {})
        except ValueError as error:
            raise codes.failed(codes.INIT_RAISED, str(error), category=Category.UNAVAILABLE) from None
        return found if isinstance(found, Mapping) else {}

    def _resource(self, data: EngineCall) -> int | str:
        name = data.header.get("res_id", "")
        if not name or self.is_operation(data):
            return _NO_RESOURCE
        if name not in self._resources:
            there = ", ".join(sorted(self._resources)[:10]) or "none"
            raise operations.bad("res_id", f"names a resource that is not loaded; there are: {there}")
        return name

    def _load(self, name: str, data: EngineCall) -> None:
        with self._loading:
            self.wrapper.load_resource(data, name)
            self._resources.add(name)

    def _unload(self, name: str) -> None:
        with self._loading:
            if name not in self._resources:
                raise operations.bad("res_id", "names a resource that is not loaded")
            self.wrapper.unload_resource(name)
            self._resources.discard(name)
