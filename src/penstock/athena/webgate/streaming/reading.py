"""Read the messages of one session by the rules of its service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from penstock.athena.protocol.data import DataObject, DataType
from penstock.athena.protocol.requests import Limits, RequestMessage, read_request
from penstock.athena.services import Service
from penstock.athena.webgate.streaming.messages import begins

_MAX_NAMES: Final = 256  # of data objects whose types are remembered


class MessageReader:
    """Applies the document of a service to messages, and knows the types of their data objects.

    The document that is made for a model that is not an engine describes its single calls only, so messages of its
    sessions are checked by the model itself.
    """

    def __init__(self, service: Service, limits: Limits) -> None:
        self._rules = service.rules if service.documents_sessions else None
        self._results = service.rules
        self._limits = limits
        self._types: dict[str, DataType] = dict(service.input_types)  # for a last piece without data

    def first(self, given: dict[str, Any], *, app_id: str) -> RequestMessage:
        """Return the first message; ``app_id`` is that of its sender. Raises InvalidInput."""
        if self._rules is not None:
            given = self._rules.first(given, app_id=app_id, in_parts=begins(given))
        return self._read(given)

    def later(self, given: dict[str, Any]) -> RequestMessage:
        """Return one of the next messages. Raises InvalidInput."""
        return self._read(given if self._rules is None else self._rules.later(given))

    def complete(self, results: Sequence[DataObject]) -> None:
        """Complete the attributes of results, and give them the types of the document."""
        self._results.cast(results)

    def _read(self, given: dict[str, Any]) -> RequestMessage:
        message = read_request(given, limits=self._limits, types=self._types)
        if len(self._types) < _MAX_NAMES:
            self._types.update({one.name: one.type for one in message.payload.values()})
        return message
