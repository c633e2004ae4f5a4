"""Suggestions of names that were probably meant."""

from __future__ import annotations

import pytest

from penstock.suggestions import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("mod", ["half", "mood"], "mood"),
        ("moods", ["mood"], "mood"),
        ("whisper", ["chat", "whisperx"], "whisperx"),
        ("whisper", ["whisper-large-v3"], "whisper-large-v3"),
        ("replikas", ["retry", "runtime", "replicas"], "replicas"),
        ("clas", ["config", "interpreter", "class"], "class"),
        ("Max_Bytes", ["max-items", "max-bytes"], "max-bytes"),
        ("timeot", ["start_timeout", "timeout"], "timeout"),
    ],
)
def test_the_nearest_name_is_suggested(name: str, known: list[str], meant: str) -> None:
    assert nearest(name, known) == meant


@pytest.mark.parametrize("name", ["", "x", "nosuchmodel", "m" * 101, "zebra\n"])
def test_nothing_is_suggested_without_a_similar_name(name: str) -> None:
    assert nearest(name, ["mood", "half", "xx", "summary"]) is None


def test_a_suggestion_ends_a_sentence() -> None:
    assert did_you_mean("mod", ["mood"]) == "; did you mean mood?"
    assert did_you_mean("mood", ["half"]) == ""
    assert did_you_mean("mood", ["mood"]) == ""
