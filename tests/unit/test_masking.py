"""Masking of secrets in every spelling and in pieces, and words that are not secrets."""

from __future__ import annotations

import random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable

import pytest

from penstock.masking import MASK, MaskedStream, Masker, is_distinctive, spelled
from penstock.providers.endpoint import Endpoint

SECRET = "canary-KEY/abc+def=="


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        "canary-KEY%2Fabc%2Bdef%3D%3D",
        'a "quoted\\"secret"',
    ],
)
def test_a_secret_is_masked_in_other_spellings(spelling: str) -> None:
    masker = Masker(spelled([SECRET, 'quoted"secret']))
    assert "canary" not in masker.text(spelling)
    assert MASK in masker.text(spelling)


def test_a_secret_is_masked_inside_html() -> None:
    assert Masker(spelled(["a&b<secret>"])).text("<p>a&amp;b&lt;secret&gt;</p>") == f"<p>{MASK}</p>"


def test_the_longest_secret_is_masked_first() -> None:
    masker = Masker(["secret", "secret-of-secrets"])
    masker.add(["abc"])  # too short
    assert masker.text("abc secret secret-of-secrets") == f"abc {MASK} {MASK}"


def test_values_lose_secrets_and_nul_anywhere() -> None:
    value = {"a\0": [f"x{SECRET}", 3, None, {SECRET: True}]}
    assert Masker([SECRET]).value(value) == {"a": [f"x{MASK}", 3, None, {MASK: True}]}


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_masks_like_the_whole_text_wherever_it_is_cut(seed: int) -> None:
    choose = random.Random(seed)
    masker = Masker([SECRET, "canary-other"])
    text = "".join(choose.choice([SECRET, "canary", "canary-", "c", " ", "def==", "canary-other"]) for _ in range(40))
    stream, masked = MaskedStream(masker), []
    at = 0
    while at < len(text):
        step = choose.randrange(1, 12)
        masked.append(stream.feed(text[at : at + step]))
        at += step
    masked.append(stream.end())
    assert "".join(masked) == masker.text(text)
    assert SECRET not in "".join(masked)


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_of_secrets_that_are_parts_of_each_other_reveals_none(seed: int) -> None:
    secrets = ["secret-1234", "secret-12345678", "4-secret", "1234-5678"]
    choose = random.Random(seed)
    text = "".join(choose.choice([*secrets, "secret", "-", "1234", "5678", " "]) for _ in range(40))
    masker = Masker(secrets)
    stream, masked, at = MaskedStream(masker), [], 0
    while at < len(text):
        step = choose.randrange(1, 12)
        masked.append(stream.feed(text[at : at + step]))
        at += step
    masked.append(stream.end())
    assert not [secret for secret in secrets if secret in "".join(masked)]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_secret_that_begins_like_another_is_masked_whole(cut: int) -> None:
    masker = Masker(["secret-1234", "secret-12345678"])
    text = "the secret-1234 and secret-12345678 end"
    stream = MaskedStream(masker)
    assert stream.feed(text[:cut]) + stream.feed(text[cut:]) + stream.end() == "the ****** and ****** end"


def test_letters_beyond_ascii_are_masked_in_every_escape() -> None:
    masker = Masker(spelled(["Passwört-1234"]))
    for echoed in ("Passwört-1234", "Passw\\u00f6rt-1234", "Passw\\u00F6rt-1234", "Passw%C3%B6rt-1234"):
        assert masker.text(f"<{echoed}>") == f"<{MASK}>"


def test_text_that_cannot_begin_a_secret_is_passed_on_at_once() -> None:
    stream = MaskedStream(Masker([SECRET]))
    assert [stream.feed(piece) for piece in ("hello ", "can", " we", "canary", "-")] == ["hello ", "", "can we", "", ""]
    assert stream.end() == "canary-"


def test_which_secrets_may_be_masked_in_responses() -> None:
    for word in ("anything", "transcribe", "short-1", "none"):
        assert not is_distinctive(word)
    for secret in ("sk-12345", "longer-than-that", "abcdefghijklmnopq"):
        assert is_distinctive(secret)
    endpoint = Endpoint(
        base_url="http://segments:pass-word-1@h/asr?task=transcribe&output=segments&code=abc+defghi==",
        api_key="anything",
    )
    assert endpoint.credentials == {"pass-word-1", "abc+defghi==", "abc defghi=="}
    assert {"anything", "segments", "abc+defghi==", "transcribe"} < endpoint.secrets


@pytest.mark.parametrize("before", ["", "B", "Be", "Bearer "])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_secret_inside_base64_is_masked_wherever_it_begins(before: str, encode: Callable[[bytes], bytes]) -> None:
    secret = "sk-ÿþ>>??-0123456789"
    echoed = encode(f"{before}{secret} and more".encode()).decode()
    masked = Masker(spelled([secret])).text(f'{{"request": "{echoed}"}}')
    assert MASK in masked
    shared = 4  # characters at its ends, which depend on what stands beside it
    left = len(masked.replace(MASK, "")) - len('{"request": ""}')
    assert left <= len(echoed) - 4 * len(secret.encode()) // 3 + shared


def test_a_short_secret_is_not_searched_for_in_base64() -> None:
    assert {len(one) for one in spelled(["1234567"])} == {7}
