"""The form of keys: what is recognised, without the database."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from penstock.access import keys


def test_a_new_key_has_the_documented_form() -> None:
    key = keys.generate()
    assert re.fullmatch(r"ps_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", key.text.reveal())
    assert keys.id_of(key.text.reveal()) == key.id
    assert key.text.reveal() not in repr(key), "a key is not printed by accident"


def test_keys_differ() -> None:
    assert len({keys.generate().text.reveal() for _ in range(100)}) == 100


@given(position=st.integers(0, 66), letter=st.characters(codec="ascii"))
def test_every_mistyped_letter_is_detected(position: int, letter: str) -> None:
    text = "ps_3Kf0aQ9ZpL2m_0123456789012345678901234567890123456789012"
    text += keys._checksum(text)
    assert keys.id_of(text) == "3Kf0aQ9ZpL2m"
    position %= len(text)
    if text[position] != letter:
        assert keys.id_of(text[:position] + letter + text[position + 1 :]) is None


@given(st.text())
def test_texts_without_the_form_of_a_key_have_no_id(text: str) -> None:
    assert keys.id_of(text) is None
    assert keys.id_of("ps_" + text) is None
