"""A deployment's turn to be loaded, where models must not be loaded together (penstock.models.host.exclusive)."""

from __future__ import annotations

from collections.abc import Callable


class Turn:
    """The turn of one deployment.

    ``granted`` is whether it may be loaded; its group changes that and then pumps the deployment.
    """

    def __init__(self, request: Callable[[], None], idle: Callable[[], None]) -> None:
        self.granted = False
        self.request = request  # there is work: request the turn
        self.idle = idle  # all work is done, for now
