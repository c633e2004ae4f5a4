"""Errors of loading: each says what to do."""


class CannotLoad(Exception):
    """A model cannot be loaded here."""
