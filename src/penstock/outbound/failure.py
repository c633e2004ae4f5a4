"""How a call to a model, or to a server, ends without a result. Imports nothing: it is used in replicas."""

from __future__ import annotations

from typing import Literal

Kind = Literal["bad_input", "failed", "provider", "rate_limited", "timeout", "cancelled", "unavailable"]


class CallFailed(Exception):
    """A call ends without a result, for a reason that its caller is told.

    ``kind``: ``bad_input`` the input breaks a rule (``field`` names which part); ``failed`` the model raised;
    ``provider`` a server behind the model failed; ``rate_limited`` it is busy (``retry_after`` in seconds);
    ``timeout`` it took too long; ``cancelled``; ``unavailable`` the model cannot be loaded.
    """

    def __init__(self, kind: Kind, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.field = field
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self.args[0])
