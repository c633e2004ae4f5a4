"""The runtime of Athena Serving engines in any language: programs that offer ``aiges.WrapperService`` by gRPC."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import uuid4

from penstock.failures import CallFailed, Category
from penstock.models.replica import commands
from penstock.models.replica.aiges import calls, engine_options, schema_file
from penstock.models.replica.aiges.calls import EngineCall
from penstock.models.replica.runtime import AsyncRuntime, Call, Output, Schema, Spec, unknown_options
from penstock.models.replica.sessions import AsyncSessions, Session

if TYPE_CHECKING:
    from penstock.models.replica.aiges.plugin_calls import PluginCalls
    from penstock.models.replica.aiges.plugin_process import PluginProcess
    from penstock.models.replica.aiges.plugin_service import Service

_log = logging.getLogger("penstock.model")

GONE_STATUS: Final = 70  # exit status of a replica whose plugin cannot be used any more

_OPTIONS: Final = ("command", "config", "header_pass", "schema", "sessions")


class AigesPluginRuntime(AsyncRuntime, AsyncSessions):
    """``aiges-plugin``: a program that listens as a plugin of HashiCorp's go-plugin, and serves calls by gRPC.

    The manifest's table::

        [aiges-plugin]
        command = ["python", "-m", "aiges.serve"]  # the engine; no shell runs it
        config = { model = "tiny" }  # what wrapperInit gets, as text
        header_pass = ["uid"]        # fields of a call's header that the engine gets as parameters, besides sid
        sessions = true              # the engine takes sessions
        schema = "schema.json"       # describes the engine; without it wrapperSchema does

    ``docs/athena/engines.md`` is the guide; ``aiges/messages/plugin.proto`` declares the service. The program is
    started with the replica and dies with it. When the program ends, or its stream of results breaks, the replica ends:
    its calls fail at once, and another replica is started.
    """

    name: ClassVar[str] = "aiges-plugin"
    describes_itself: ClassVar[bool] = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._header_pass: Sequence[str] = spec.options.get("header_pass", ())
        self._process: PluginProcess | None = None
        self._initialised = False
        self._calls: PluginCalls
        self._ending = False

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        return [
            *commands.mistakes(options.get("command"), folder),
            *engine_options.mistakes(options, folder),
            *unknown_options(cls.name, options, _OPTIONS),
        ]

    # Life

    def describe(self) -> Schema:
        """Return the description of a file or the manifest, or start the plugin and let it describe itself."""
        return schema_file.stated(self.spec) or self._own_description() or schema_file.any_engine(self.spec)

    async def load(self) -> None:
        """Start the plugin, if its description has not needed it, and connect to it."""
        _require_grpc()
        from penstock.models.replica.aiges.plugin_calls import PluginCalls  # noqa: PLC0415  (it needs gRPC)

        if not self._initialised:
            with self._connected() as service:
                self._init(service)
        process = self._started()
        self._calls = PluginCalls(process.address.target, self._lost)
        self._calls.listen()
        process.watch(self._lost)

    async def unload(self) -> None:
        self._ending = True
        await self._calls.close()
        self._started().stop()

    def _own_description(self) -> Schema | None:
        """Return the plugin's own description. Some plugins have one only after wrapperInit."""
        _require_grpc()
        from penstock.models.replica.aiges.messages import plugin_pb2 as messages  # noqa: PLC0415  (as above)

        with self._connected() as service:
            request = messages.SvcId(serviceId=self.spec.name)
            document = _described(service, request)
            if not document:
                self._init(service)
                document = _described(service, request)
        if not document:
            return None
        try:
            return schema_file.schema_in(document, self.spec)
        except ValueError as error:
            _log.warning("the plugin's schema cannot be used, so that calls are not checked: %s", error)
            return None

    def _init(self, service: Service) -> None:
        """Let the engine load. Raises CallFailed (``unavailable``)."""
        from penstock.models.replica.aiges import plugin_service  # noqa: PLC0415  (as above)

        config = {name: calls.text_of(value) for name, value in self.spec.options.get("config", {}).items()}
        plugin_service.init(service, config)
        self._initialised = True

    @contextmanager
    def _connected(self) -> Iterator[Service]:
        """Connect to the plugin for as long as the block runs."""
        from penstock.models.replica.aiges import plugin_service  # noqa: PLC0415  (as above)

        with plugin_service.connected(self._started().address.target) as service:
            yield service

    def _started(self) -> PluginProcess:
        if self._process is None:
            from penstock.models.replica.aiges.plugin_process import PluginProcess  # noqa: PLC0415  (not in hosts)

            program, *arguments = commands.words_of(self.spec.options.get("command"))
            path = commands.found(program, self.spec.folder)
            if path is None:
                detail = f"there is no program {program} in the manifest's folder or on the PATH"
                raise CallFailed(Category.UNAVAILABLE, detail)
            self._process = PluginProcess([path, *arguments], os.environ)
        return self._process

    def _lost(self, reason: str) -> None:
        """End the replica, which is useless without its plugin. The host starts another one."""
        if not self._ending:
            reason = self._started().end() or reason
            os.write(2, f"the plugin is lost: {reason}; its replica ends with it\n".encode())
            os._exit(GONE_STATUS)

    # Calls

    async def predict(self, call: Call) -> Output:
        given = calls.read(call.input, call.segments)
        return await self._calls.once(given, self._params(given))

    async def session(self, session: Session) -> None:
        given = calls.read(session.input, session.segments)
        await self._calls.session(session, given, self._params(given))

    def _params(self, given: EngineCall) -> dict[str, str]:
        return given.passed(self._header_pass, given.header.get("sid") or uuid4().hex)


def _described(service: Service, request: Any) -> str:
    """Return the plugin's own description; nothing if it cannot give one."""
    import grpc  # noqa: PLC0415  (as above)

    try:
        return str(service.schema(request).data)
    except grpc.RpcError as error:
        _log.warning("wrapperSchema failed: %s", error.details() or error.code().name)
        return ""


def _require_grpc() -> None:
    """Raise CallFailed (``unavailable``) where the packages of gRPC are missing."""
    for name in ("grpc", "grpc_health", "google.protobuf"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            detail = f"plugins need gRPC, and {error.name} is missing: pip install penstock[athena]"
            raise CallFailed(Category.UNAVAILABLE, detail) from None
