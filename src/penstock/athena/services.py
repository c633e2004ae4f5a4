"""Services: models as Athena's protocol addresses them. All faces of the protocol find and call them here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from penstock.athena import documents
from penstock.athena.protocol.addressing import ServiceRequest, in_message
from penstock.athena.protocol.data import DataObject, DataType, Status
from penstock.athena.protocol.engine_calls import CallInput, engine_input, engine_output
from penstock.athena.protocol.members import Members, members_of
from penstock.athena.protocol.model_calls import model_input, model_output
from penstock.athena.protocol.schemas.document import Document
from penstock.athena.protocol.schemas.rules import Rules
from penstock.athena.protocol.session_ids import SessionIds
from penstock.athena.sound import audio_us
from penstock.errors import (
    InvalidInput,
    MalformedBody,
    ModelBroken,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
)
from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.http.calls import result_of
from penstock.models.http.limited import MeteredCall
from penstock.models.http.metering import Metering, Stated
from penstock.models.inputs import Input, placeholder
from penstock.models.reader import Reader
from penstock.models.replica.aiges import fields, schema_file
from penstock.models.replica.data_urls import put
from penstock.models.replica.runtime import Segment
from penstock.models.result_files import ResultFiles
from penstock.models.service import ModelService
from penstock.quotas.admission import Quotas
from penstock.telemetry import logs
from penstock.web.request import Request
from penstock.web.response import Headers

log = logs.get(__name__)

_ENGINES: Final = frozenset({"aiges", "aiges-native", "aiges-plugin"})  # runtimes that pass messages on as they are


class Service:
    """One version of a model, as the protocol addresses it.

    Raises InvalidInput for a document beside its manifest that is wrong, and msgspec.ValidationError for a description
    in its schema that cannot be read.
    """

    def __init__(self, deployment: Deployment) -> None:
        schema = deployment.schema
        assert schema is not None  # noqa: S101 - ``Services`` has described it
        self.deployment = deployment
        self.name = deployment.model.name
        self.engine = fields.service_in(schema.input)
        if self.engine is None and deployment.model.manifest.runtime in _ENGINES:
            self.engine = schema_file.service_in(schema, name=self.name)
        self._members = Members(by_name={}) if self.engine is not None else members_of(schema.input)
        own = documents.beside(deployment.model)
        self.documents_sessions = self.engine is not None or own is not None
        self.document = own or Document(documents.made(deployment, schema, self.engine))
        self.rules = Rules(self.document)
        if self.document.enable_client_session:
            log.warning(
                "service_setting_ignored",
                service=self.name,
                setting="enable_client_session",
                reason="a later request may reach another process of the engine",
            )

    @property
    def ids(self) -> frozenset[str]:
        """The names by which it is found: that of its model, and that of its document."""
        return frozenset({self.name, self.document.service_id})

    @property
    def input_types(self) -> Mapping[str, DataType]:
        """The types of its data objects, by name."""
        return self.document.input_types

    @property
    def timeout(self) -> float | None:
        """The most seconds that a once call may take, by its document; None: as long as its model allows."""
        stated = self.document.session_timeout
        return None if stated is None else stated.total_seconds()

    def input(self, part: ServiceRequest, sid: str) -> CallInput:
        """Return what a request states as the input of the model, checked against the model's schema.

        ``rules`` have checked the message already. Raises InvalidInput that names the fields of the message.
        """
        given = engine_input(part, sid) if self.engine is not None else model_input(part, self._members)
        shown = given.value
        for segment in given.segments:
            shown = put(shown, segment.path, placeholder(segment))
        try:
            self.deployment.checker.check(shown, json=given.json)
        except InvalidInput as error:
            raise in_message(error, given.fields) from None
        return given

    def output(self, json: bytes, segments: Sequence[Segment], part: ServiceRequest) -> list[DataObject]:
        """Return the results in an output, or in a chunk, of the model. Raises ModelFailed."""
        if self.engine is not None:
            return engine_output(json, segments, part.expected)
        return model_output(json, segments, part.expected)

    def collected(self, result: CallResult, part: ServiceRequest) -> list[DataObject]:
        """Return the results of a whole call. The chunks of an engine that streams are joined by their names."""
        if self.engine is None or not result.json.startswith(b"["):
            return self.output(result.json, result.segments, part)
        chunks: list[msgspec.Raw] = msgspec.json.decode(result.json, type=list[msgspec.Raw])
        segments = _by_chunk(result.segments)
        pieces: dict[str, list[DataObject]] = {}
        for index, chunk in enumerate(chunks):
            for one in self.output(bytes(chunk), segments.get(index, []), part):
                pieces.setdefault(one.name, []).append(one)
        for first, *later in pieces.values():
            if later:
                first.data = b"".join([first.data, *(one.data for one in later)])
            first.status = Status.ONCE
        return [first for first, *_ in pieces.values()]


def _by_chunk(segments: Sequence[Segment]) -> dict[str | int, list[Segment]]:
    """Return the segments of a whole call by the chunks that they belong to, with their places in those."""
    found: dict[str | int, list[Segment]] = {}
    for one in segments:
        found.setdefault(one.path[0], []).append(Segment(one.data, one.media_type, one.path[1:], one.name))
    return found


class Services:
    """Finds services for senders, and calls them within the senders' quotas."""

    def __init__(
        self,
        models: ModelService,
        *,
        quotas: Quotas,
        metering: Metering,
        files: ResultFiles,
        session_ids: SessionIds,
        waits: bool = True,
    ) -> None:
        self.models = models
        self._quotas = quotas
        self._metering = metering
        self._files = files
        self._session_ids = session_ids
        self._waits = waits  # calls wait in the queue of a model that is full
        # By version of a model: its service, or why its description cannot be used.
        self._known: WeakKeyDictionary[Deployment, Service | str] = WeakKeyDictionary()

    @property
    def host(self) -> ModelHost:
        return self.models.host

    def new_sid(self, service: Service | None = None) -> str:
        """Return a new id for a call or session."""
        return self._session_ids.next("ase" if service is None else service.document.sub, datetime.now(UTC))

    async def find(self, name: str, reader: Reader, version: str = "") -> Service:
        """Return the service that a sender sees under a name: that of a model, or that of a service's document.

        ``version`` counts where the model has that version, with or without a ``v`` before it; otherwise the newest is
        returned. Raises NotFound, ModelBroken, ModelUnavailable.
        """
        try:
            deployment = self.models.find(name, reader=reader)
        except NotFound:
            for service in self.known():
                if name in service.ids and self.may_call(service, reader):
                    return service
            raise
        versions = self.host.entries[deployment.model.owner, name].versions
        stated = version if version in versions else version.removeprefix("v")
        return await self.of(versions.get(stated, deployment))

    async def of(self, deployment: Deployment) -> Service:
        """Return a model as a service. Raises ModelUnavailable."""
        known = self._known.get(deployment)
        if isinstance(known, Service):
            return known
        if deployment.schema is None:
            await deployment.describe()
        made = self._made(deployment)
        if isinstance(made, Service):
            return made
        raise ModelBroken(f"the description of the service {deployment.model.name} cannot be used: {made}")

    def _made(self, deployment: Deployment) -> Service | str:
        """Return a model whose schema is known as a service, or why its description cannot be used."""
        known = self._known.get(deployment)
        if known is None:
            try:
                known = Service(deployment)
            except msgspec.ValidationError as error:
                known = str(error)
            except (InvalidInput, MalformedBody) as error:
                known = error.message
            self._known[deployment] = known
        return known

    def known(self) -> Iterator[Service]:
        """Yield the services whose schemas are known, of all owners."""
        for deployment in self.host.deployments():
            made = "" if deployment.schema is None else self._made(deployment)
            if isinstance(made, Service):
                yield made

    async def sub_service(self, service: Service, message: object, reader: Reader) -> Service:
        """Return the service to which a category passes a message; the service itself if it is not a category.

        Raises InvalidInput for a message that meets no rules, and NotFound.
        """
        routes = service.document.sub_routes
        if not routes.is_category:
            return service
        chosen = routes.choose(message)
        if chosen is None:
            raise InvalidInput.of("body", f"meets no rules by which {service.name} chooses a service")
        return await self.find(chosen.service, reader)

    def sees(self, name: str, reader: Reader) -> bool:
        """Return whether a sender sees a service under a name."""
        try:
            self.models.find(name, reader=reader)
        except NotFound:
            return any(name in service.ids and self.may_call(service, reader) for service in self.known())
        except ModelUnavailable:
            pass
        return True

    def by_route(self, path: str, hosts: Sequence[str]) -> list[Service]:
        """Return the services whose own routes are that path; those that name one of the hosts come first."""
        found = [service for service in self.known() if path in service.document.routes]
        return sorted(found, key=lambda service: not set(hosts) & set(service.document.hosts))

    def may_call(self, service: Service, reader: Reader) -> bool:
        """Return whether a sender sees exactly this model under its name."""
        try:
            found = self.models.find(service.name, service.deployment.model.version, reader)
        except (NotFound, ModelUnavailable):
            return False
        return found is service.deployment

    def metered(self, request: Request, service: Service, part: ServiceRequest, given: CallInput) -> MeteredCall:
        """Return a call whose usage is recorded, within the quotas of the request's sender.

        A session adds to ``stated`` of it what later parts hold.
        """
        return MeteredCall(
            quotas=self._quotas,
            metering=self._metering,
            request=request,
            deployment=service.deployment,
            given=Input(given.json, given.segments),
            stated=Stated(audio_us=audio_us(part.payload.values())),
        )

    async def once(
        self, request: Request, service: Service, part: ServiceRequest, *, sid: str
    ) -> tuple[list[DataObject], Headers]:
        """Call a service once; return its results, and headers about quotas for the response.

        The call is cancelled when the client leaves or its key is revoked. Raises the call's error, InvalidInput that
        names fields of the message, QuotaExceeded, Disconnected and Unauthorized.
        """
        given = service.input(part, sid)
        self.require_place(service)
        call = self.metered(request, service, part, given)

        def begin(json: bytes) -> LiveCall:
            return self.host.call(
                service.deployment, json, given.segments, request_id=sid, tenant=request.principal.tenant
            )

        limit = None if service.timeout is None else asyncio.timeout(service.timeout)
        try:
            async with limit or nullcontext(), call.admitted() as headers:
                result = await result_of(request, call.begin(begin))
        except TimeoutError:
            if limit is None or not limit.expired():  # it came from within the call
                raise
            raise ModelTimeout(f"the service {service.name} took longer than {service.timeout:g} s") from None
        results = service.collected(result, part)
        service.rules.cast(results)
        return results, headers

    def require_place(self, service: Service) -> None:
        """Raise Overloaded where a call would wait and the settings say that calls do not."""
        deployment = service.deployment
        if not self._waits and deployment.in_flight + deployment.waiting >= deployment.places:
            raise Overloaded(f"every place of {service.name} is taken")
