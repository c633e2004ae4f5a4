"""Check the app id that a message states, and note the end user."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from penstock.athena.authentication import Caller
from penstock.athena.protocol.requests import RequestMessage
from penstock.web.request import Request

_USER: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ufffd]{1,200}")


class WrongAppId(Exception):
    """The app id that a message states does not belong to the key of its sender."""


def app_id_of(caller: Caller) -> str:
    """Return the app id for messages that state none, as the rules take it."""
    return caller.app_id or caller.principal.key or caller.principal.tenant_name


def check_app_id(message: RequestMessage, caller: Caller) -> None:
    """Raise WrongAppId unless the app id in a message's header is that of the sender's credentials.

    Keys without credentials have no app id, so with them any may be stated, or none.
    """
    if caller.app_id is None:
        return
    if not message.app_id:
        raise WrongAppId("app_id cannot be empty")
    if message.app_id != caller.app_id:
        raise WrongAppId("app_id and api_key does not match")


def identify_user(request: Request, message: RequestMessage) -> None:
    """Note the end user that a message states as ``uid``, for the usage of its calls."""
    user = message.text("uid")
    if user and request.principal.user is None and _USER.fullmatch(user):
        request.principal = dataclasses.replace(request.principal, user=user)
