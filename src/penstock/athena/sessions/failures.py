"""The errors that end sessions."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.athena.protocol.addressing import in_message
from penstock.errors import InvalidInput, PenstockError, ServiceError


def explained(error: BaseException, fields: Mapping[str, str]) -> PenstockError:
    """Return the error of a call, with fields of its input named as in messages."""
    if isinstance(error, InvalidInput):
        return in_message(error, fields)
    return error if isinstance(error, PenstockError) else ServiceError()
