"""Services: models as Athena's protocol addresses them. All faces of the protocol find and call them here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from penstock.athena.protocol.addressing import ServiceRequest, in_message
from penstock.athena.protocol.data import DataObject, Status
from penstock.athena.protocol.engine_calls import CallInput, engine_input, engine_output
from penstock.athena.protocol.members import Members, members_of
from penstock.athena.protocol.model_calls import model_input, model_output
from penstock.athena.protocol.session_ids import SessionIds
from penstock.athena.sound import audio_us
from penstock.errors import InvalidInput, ModelUnavailable, NotFound, Overloaded
from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.http.calls import result_of
from penstock.models.http.limited import MeteredCall
from penstock.models.http.metering import Metering, Stated
from penstock.models.inputs import Input, placeholder
from penstock.models.reader import Reader
from penstock.models.replica.aiges import fields
from penstock.models.replica.data_urls import put
from penstock.models.replica.runtime import Segment
from penstock.models.result_files import ResultFiles
from penstock.models.service import ModelService
from penstock.quotas.admission import Quotas
from penstock.web.request import Request
from penstock.web.response import Headers

_any: Final = msgspec.json.Decoder()


class Service:
    """One version of a model, as the protocol addresses it."""

    def __init__(self, deployment: Deployment) -> None:
        schema = deployment.schema
        assert schema is not None  # noqa: S101 - ``Services`` has described it
        self.deployment = deployment
        self.name = deployment.model.name
        self.engine = fields.service_in(schema.input)
        self._members = Members(by_name={}) if self.engine is not None else members_of(schema.input)

    @property
    def sub(self) -> str:
        """The kind of the service, with which session ids begin."""
        return "ase" if self.engine is None else self.engine.sub

    @property
    def routes(self) -> Sequence[str]:
        """The paths that its own schema states, beside ``/{version}/private/{name}``."""
        route = "" if self.engine is None else self.engine.route
        return () if not route else [route]

    @property
    def hosts(self) -> Sequence[str]:
        """The host names that its own schema states."""
        return () if self.engine is None else [self.engine.hosts]

    def input(self, part: ServiceRequest, sid: str) -> CallInput:
        """Return what a request states as the input of the model, checked against the model's schema.

        Raises InvalidInput that names the fields of the message.
        """
        given = engine_input(part, sid) if self.engine is not None else model_input(part, self._members)
        shown = _any.decode(given.json)
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
        joined: dict[str, DataObject] = {}
        for index, chunk in enumerate(chunks):
            for one in self.output(bytes(chunk), list(_of_chunk(result.segments, index)), part):
                before = joined.setdefault(one.name, one)
                if before is not one:
                    before.data += one.data
        for one in joined.values():
            one.status = Status.ONCE
        return list(joined.values())


def _of_chunk(segments: Sequence[Segment], index: int) -> Iterator[Segment]:
    for one in segments:
        if one.path[0] == index:
            yield Segment(one.data, one.media_type, one.path[1:], one.name)


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
        self._known: WeakKeyDictionary[Deployment, Service] = WeakKeyDictionary()

    @property
    def host(self) -> ModelHost:
        return self.models.host

    def new_sid(self, service: Service | None = None) -> str:
        """Return a new id for a call or session."""
        return self._session_ids.next("ase" if service is None else service.sub, datetime.now(UTC))

    async def find(self, name: str, reader: Reader, version: str = "") -> Service:
        """Return the service that a sender sees under a name.

        ``version`` counts where the model has that version, with or without a ``v`` before it; otherwise the newest is
        returned. Raises NotFound, ModelBroken, ModelUnavailable.
        """
        deployment = self.models.find(name, reader=reader)
        versions = self.models.entry(name, reader).versions
        stated = version if version in versions else version.removeprefix("v")
        return await self.of(versions.get(stated, deployment))

    async def of(self, deployment: Deployment) -> Service:
        """Return a model as a service. Raises ModelUnavailable."""
        known = self._known.get(deployment)
        if known is None:
            if deployment.schema is None:
                await deployment.describe()
            try:
                known = self._known[deployment] = Service(deployment)
            except msgspec.ValidationError as error:
                raise ModelUnavailable(f"the description of {deployment.model.name} is wrong: {error}") from None
        return known

    def known(self) -> Iterator[Service]:
        """Yield the services whose schemas are known, of all owners."""
        for deployment in self.host.deployments():
            if deployment.schema is not None:
                known = self._known.get(deployment)
                if known is None:
                    try:
                        known = self._known[deployment] = Service(deployment)
                    except msgspec.ValidationError:
                        continue
                yield known

    def by_route(self, path: str, hosts: Sequence[str]) -> list[Service]:
        """Return the services whose own routes are that path; those that name one of the hosts come first."""
        found = [service for service in self.known() if path in service.routes]
        return sorted(found, key=lambda service: not set(hosts) & set(service.hosts))

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

        async with call.admitted() as headers:
            result = await result_of(request, call.begin(begin))
        return service.collected(result, part), headers

    def require_place(self, service: Service) -> None:
        """Raise Overloaded where a call would wait and the settings say that calls do not."""
        deployment = service.deployment
        if not self._waits and deployment.in_flight + deployment.waiting >= deployment.places:
            raise Overloaded(f"every place of {service.name} is taken")
