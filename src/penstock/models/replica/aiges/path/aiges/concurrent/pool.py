"""The base of pools."""

from abc import ABC


class Pool(ABC):  # noqa: B024  (the contract has it without methods)
    """Keeps workers by key."""
