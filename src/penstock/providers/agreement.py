"""How far texts that should be the same are: word error rates between providers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import jiwer
from msgspec import Struct

from penstock.providers.asking import ProviderAttempt

_LONGEST: Final = 50_000  # words; longer texts are compared up to there
_SPACE: Final = re.compile(r"\s+")


class Agreement(Struct, frozen=True, kw_only=True):
    """Two providers' texts of one job.

    ``wer`` is the word error rate: words to substitute, delete and insert to get from ``reference`` to ``hypothesis``,
    over the words of ``reference``; case and punctuation do not count. Null when ``reference`` has no words but
    ``hypothesis`` has.
    """

    reference: str
    hypothesis: str
    wer: float | None
    words: int  # of the reference


def agreements(attempts: Sequence[ProviderAttempt]) -> list[Agreement]:
    """Every pair of providers that answered, in their order. Takes a second for an hour of speech: not on a loop."""
    texts = [(one.provider, words(one.text or "")) for one in attempts if one.status == "completed"]
    return [
        Agreement(reference=reference, hypothesis=hypothesis, wer=rate(left, right), words=len(left))
        for (reference, left), (hypothesis, right) in combinations(texts, 2)
    ]


def rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float | None:
    """The word error rate of two lists of words; can exceed 1. Computed by jiwer."""
    if not reference:
        return None if hypothesis else 0.0
    if not hypothesis:
        return 1.0
    return round(float(jiwer.wer(" ".join(reference), " ".join(hypothesis))), 4)


def words(text: str) -> list[str]:
    """The words that count: in lower case, without punctuation but for marks inside a word (don't, e-mail)."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    found = (word.strip("".join({c for c in word if _is_mark(c)})) for word in _SPACE.split(plain))
    return [word for word in found if word][:_LONGEST]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
