"""Convert the messages of a session to parts of a model, and its chunks to results: one form for engines, one for
other models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from penstock.athena.protocol.addressing import Attributes, ServiceRequest
from penstock.athena.protocol.data import DataObject, Status
from penstock.athena.protocol.engine_calls import CallInput, engine_input, engine_output
from penstock.athena.protocol.members import WHOLE, members_of
from penstock.athena.protocol.model_calls import model_input, model_output
from penstock.athena.services import Service
from penstock.models.replica.runtime import Segment, SessionSchema

Result = tuple[DataObject, Status | None]  # with the status that the model stated, if it did


class WrongMode(Exception):
    """The model takes no sessions."""


class Form(Protocol):
    """Converts the messages of one session, and the chunks of its model."""

    @property
    def service(self) -> str:
        """The name of the service."""

    @property
    def expected(self) -> Sequence[str]:
        """The names of the results that have to end; none where they are not known."""

    def first(self, request: ServiceRequest) -> tuple[CallInput, CallInput | None]:
        """Return the first input, and the first part if the first message has one. Raises InvalidInput."""

    def part(self, request: ServiceRequest) -> CallInput:
        """Return one of the next parts. Raises InvalidInput."""

    def results(self, json: bytes, segments: Sequence[Segment]) -> list[Result]:
        """Return the results in a chunk or an output. Raises ModelFailed."""


class EngineForm:
    """An engine gets each message as it is, the first one as its first input."""

    def __init__(self, service: Service, sid: str) -> None:
        self.service = service.name
        self._service = service
        self._sid = sid
        self._stated: dict[str, Attributes] = {}
        self.expected = () if service.engine is None else [one.key for one in service.engine.outputs]

    def first(self, request: ServiceRequest) -> tuple[CallInput, CallInput | None]:
        self._stated = request.expected
        return self._service.input(request, self._sid), None

    def part(self, request: ServiceRequest) -> CallInput:
        return engine_input(request)

    def results(self, json: bytes, segments: Sequence[Segment]) -> list[Result]:
        if json == b"null":  # the output of a call whose results were chunks
            return []
        return [(one, one.status) for one in engine_output(json, segments, self._stated)]


class ModelForm:
    """Another model gets its parameters first, then the data of each message as a part.

    Without a ``session``, all of the one message is its input.
    """

    expected: Sequence[str] = ()

    def __init__(self, service: Service, session: SessionSchema | None) -> None:
        self.service = service.name
        self._service = service
        self._inputs = None if session is None else members_of(session.input)
        self._parts = None if session is None else members_of(session.part)
        self._stated: dict[str, Attributes] = {}

    def first(self, request: ServiceRequest) -> tuple[CallInput, CallInput | None]:
        self._stated = request.expected
        if self._inputs is None:
            return self._service.input(request, ""), None
        taken = {name: one for name, one in request.payload.items() if name in self._inputs.by_name}
        rest = {name: one for name, one in request.payload.items() if name not in taken}
        first = model_input(replace(request, payload=taken), self._inputs)
        holds_data = any(one.data for one in rest.values())
        return first, self.part(replace(request, values={}, payload=rest)) if holds_data else None

    def part(self, request: ServiceRequest) -> CallInput:
        assert self._parts is not None  # noqa: S101 - the only message of a call has no parts
        if self._parts.whole is not None and len(request.payload) == 1:
            ((name, one),) = request.payload.items()  # under any name
            request = replace(request, payload={WHOLE: replace(one, name=WHOLE)}, names={WHOLE: name})
        return model_input(request, self._parts)

    def results(self, json: bytes, segments: Sequence[Segment]) -> list[Result]:
        if json == b"null" and not segments:
            return []
        return [(one, None) for one in model_output(json, segments, self._stated)]


def session_schema(service: Service, *, whole: bool, holds_data: bool = True) -> SessionSchema | None:
    """Return how a model takes sessions; None for a call whose input is the one message, which is ``whole``.

    An engine that takes sessions gets one even then, if the message ``holds_data``: without any, it would wait for
    data. Raises WrongMode.
    """
    schema = service.deployment.schema
    session = None if schema is None else schema.session
    if session is None and not whole:
        raise WrongMode(f"{service.name} takes no sessions: send everything in one message with status 3")
    return None if whole and (service.engine is None or not holds_data) else session


def form_for(service: Service, session: SessionSchema | None, sid: str) -> Form:
    """Return the form for a session with a service, or for a call whose input is one message."""
    if service.engine is not None:
        return EngineForm(service, sid)
    return ModelForm(service, session)
