"""Word error rates between the texts of providers, which should agree."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Final

from msgspec import Meta, Struct

from penstock.providers.reply import ProviderAttempt

_MAX_CHARACTERS: Final = 200_000  # characters of a text that are compared
_MAX_WORDS: Final = 20_000  # spoken in about two hours; longer texts are compared up to there
# Han, kana, Thai, Lao, Burmese, Khmer; combining marks stay with their character.
_UNSPACED: Final = re.compile(
    "([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
    "[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b6-\u17d3]*)"
)
_SPACE: Final = re.compile(r"\s+")


class Agreement(Struct, frozen=True, kw_only=True):
    """Two providers' texts of one job.

    ``wer`` is the word error rate: words to substitute, delete and insert to get from ``reference`` to ``hypothesis``,
    over the words of ``reference``; case and punctuation do not count. Null when ``reference`` has no words but
    ``hypothesis`` has.
    """

    reference: str
    hypothesis: str
    wer: Annotated[float, Meta(ge=0, le=1e6)] | None
    words: Annotated[int, Meta(ge=0, le=10**9)]  # of the reference


def agreements(attempts: Sequence[ProviderAttempt]) -> list[Agreement]:
    """Compare every pair of providers that succeeded, in order. Holds the interpreter lock for up to 0.1 s per pair."""
    texts = [(one.provider, words(one.text or "")) for one in attempts if one.status == "completed"]
    return [
        Agreement(reference=reference, hypothesis=hypothesis, wer=rate(left, right), words=len(left))
        for (reference, left), (hypothesis, right) in combinations(texts, 2)
    ]


def rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float | None:
    """Return the word error rate of two lists of words, which can exceed 1. Computed by jiwer."""
    if not reference:
        return None if hypothesis else 0.0
    if not hypothesis:
        return 1.0
    import jiwer  # noqa: PLC0415  (slow to import, rarely needed)

    return round(float(jiwer.wer(" ".join(reference), " ".join(hypothesis))), 4)


def words(text: str) -> list[str]:
    """Return the words that count: in lower case, without punctuation, except for marks inside a word (don't, e-mail).

    In scripts without spaces between words, each character counts as a word.
    """
    plain = _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", text[:_MAX_CHARACTERS]).casefold())
    found = (word.strip("".join({c for c in word if _is_mark(c)})) for word in _SPACE.split(plain))
    return [word for word in found if word][:_MAX_WORDS]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
