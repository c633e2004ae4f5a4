"""Suggest the name that was probably meant: "did you mean mood?"."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice
from typing import Final

_LIKENESS: Final = 0.65  # of 1.0; `mood` and `moon` have 0.75, `mood` and `chat` 0
_PREFIX: Final = 0.9  # likeness of `whisper` and `whisper-large-v3`; by letters alone it is 0.61
_SHORTEST_PREFIX: Final = 3  # characters
_MAX_LENGTH: Final = 100  # characters of a name that is compared
_MAX_KNOWN: Final = 250  # names that are compared, which bounds the cost of a mistake to a few milliseconds


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` was probably meant to be, or None if none is similar.

    Upper and lower case, and ``-``, ``_`` and ``.``, count as the same. Names after the first 250 are not compared.
    """
    meant = _folded(name)
    if not 1 < len(meant) <= _MAX_LENGTH:
        return None
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(meant)
    best, likeness = None, _LIKENESS
    for candidate in islice(known, _MAX_KNOWN):
        found = _likeness(matcher, _folded(candidate), meant, likeness)
        if found > likeness:
            best, likeness = candidate, found
    return best


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean NAME?"`` as the end of an error message, or "" if no known name is similar."""
    found = nearest(name, known)
    return "" if found is None or found == name else f"; did you mean {found}?"


def _likeness(matcher: SequenceMatcher[str], candidate: str, meant: str, least: float) -> float:
    """Return how similar two names are, from 0 to 1; the value is exact only if it may exceed ``least``."""
    if candidate == meant:
        return 1.0
    matcher.set_seq1(candidate[:_MAX_LENGTH])
    if candidate.startswith(meant) or meant.startswith(candidate):
        prefix = _PREFIX if min(len(candidate), len(meant)) >= _SHORTEST_PREFIX else 0.0
        return max(prefix, matcher.ratio())
    if matcher.real_quick_ratio() <= least or matcher.quick_ratio() <= least:
        return 0.0
    return matcher.ratio()


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
