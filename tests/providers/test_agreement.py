"""Word error rates of two texts, and of every pair of providers."""

from __future__ import annotations

import pytest

from penstock.providers.agreement import agreements, rate, words
from penstock.providers.reply import ProviderAttempt


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", 0.0),
        ("The cat, sat!", "the CAT sat", 0.0),
        ("the cat sat", "the dog sat", 0.3333),
        ("the cat sat", "the cat", 0.3333),
        ("the cat", "the big cat", 0.5),
        ("one", "two three four", 3.0),
        ("", "", 0.0),
        ("...", "", 0.0),
        ("", "something", None),
        ("something", "", 1.0),
        ("Straße", "STRASSE", 0.0),
        ("don't e-mail", "don't “e-mail”", 0.0),
        ("Привет, мир", "привет мир", 0.0),
        ("今日はいい天気", "今日はいい天気です", 0.2857),
        ("你好，世界", "你好世界", 0.0),
        ("สวัสดี", "สวัสดี", 0.0),
    ],
)
def test_word_error_rate(reference: str, hypothesis: str, expected: float | None) -> None:
    assert rate(words(reference), words(hypothesis)) == expected


def test_every_pair_of_successful_providers_in_order() -> None:
    attempts = [
        ProviderAttempt(provider="a", model="", status="completed", text="x y"),
        ProviderAttempt(provider="b", model="", status="failed", error="no"),
        ProviderAttempt(provider="c", model="", status="completed", text="x y"),
        ProviderAttempt(provider="d", model="", status="completed", text="x z"),
    ]
    found = [(one.reference, one.hypothesis, one.wer, one.words) for one in agreements(attempts)]
    assert found == [("a", "c", 0.0, 2), ("a", "d", 0.5, 2), ("c", "d", 0.5, 2)]
