"""Prices: an exact file format, and costs in integers."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SettingsError
from penstock.usage import prices_file
from penstock.usage.prices import SCALE, UNITS, Measured, Price, PriceList, decimal

DAY = date(2026, 11, 29)
FILE = """
currency = "EUR"

[[prices]]
provider = "openai"
model = "large"
per_million_prompt_tokens = 2.50
per_million_completion_tokens = 10

[[prices]]
provider = "openai"
model = "large"
from = 2026-12-01
per_million_prompt_tokens = 2.00

[[prices]]
provider = "openai"
per_call = 0.000000000001

[[prices]]
model = "whisper"
per_audio_minute = 0.006
per_model_hour = 1
"""


def _load(folder: Path, text: str) -> PriceList:
    path = folder / "prices.toml"
    path.write_text(text)
    return prices_file.load(path)


def test_a_call_is_charged_exactly(tmp_path: Path) -> None:
    prices = _load(tmp_path, FILE)
    used = Measured(completed=1, prompt_tokens=1000, completion_tokens=100)
    assert decimal(prices.charge("openai", "large", DAY, used).cost) == "0.0035"
    audio = Measured(completed=1, audio_us=90_000_000, model_us=1)
    assert prices.charge("", "whisper", DAY, audio).cost == 9 * 10**9 + round(Fraction(10**12, 3600 * 10**6))


def test_the_price_of_the_day_and_the_most_specific_one_is_used(tmp_path: Path) -> None:
    prices = _load(tmp_path, FILE)
    before, after = (prices.find("openai", "large", day) for day in (date(2026, 11, 30), date(2026, 12, 1)))
    assert before is not None
    assert after is not None
    assert (before.since, after.since) == (date(1970, 1, 1), date(2026, 12, 1))
    assert before.id != after.id
    assert prices.charge("openai", "small", DAY, Measured(completed=1)).cost == 1
    assert prices.charge("openai", "small", DAY, Measured(completed=0)).cost == 0, (
        "per_call does not apply to a failed call"
    )
    assert prices.find("another", "whisper", DAY) is not None, "a model's price holds for any provider"
    assert prices.find("", "", DAY) is None
    assert prices.charge("another", "large", DAY, Measured(completed=1)).price == ""


def test_the_id_of_a_price_changes_with_its_content_alone(tmp_path: Path) -> None:
    one = _load(tmp_path, '[[prices]]\nmodel = "m"\nper_call = 1.0\n').prices[0]
    same = _load(tmp_path, '[[prices]]\nper_call = 1\nmodel = "m"\n').prices[0]
    other = _load(tmp_path, '[[prices]]\nmodel = "m"\nper_call = 1.000000000001\n').prices[0]
    assert one.id == same.id != other.id


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = """
    curency = "EUR"
    currency = 3
    [[prices]]
    provder = "openai"
    per_million_promt_tokens = 1
    [[prices]]
    model = "m"
    per_call = 0.0000000000001
    per_audio_second = -1
    per_audio_minute = nan
    from = "2026-01-01"
    [[prices]]
    model = "n"
    per_call = true
    [[prices]]
    model = "n"
    per_call = 1e-99999999
    """
    with pytest.raises(SettingsError) as raised:
        _load(tmp_path, text)
    found = {problem.field.rpartition(": ")[2]: problem.detail for problem in raised.value.problems}
    assert found["curency"].endswith("did you mean currency?")
    assert found["prices[1].provder"].endswith("did you mean provider?")
    assert found["prices[1].per_million_promt_tokens"].endswith("did you mean per_million_prompt_tokens?")
    assert found["prices[2].per_call"] == "has more than 12 decimals"
    assert found["prices[4].per_call"] == "has more than 12 decimals"
    assert {
        "currency",
        "prices[1]",
        "prices[2]",
        "prices[2].per_audio_second",
        "prices[2].per_audio_minute",
    } <= found.keys()
    assert {"prices[2].from", "prices[3].per_call", "prices[4]"} <= found.keys()


def test_without_a_file_nothing_has_a_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prices_file.load(None).prices == ()
    with pytest.raises(SettingsError, match="PENSTOCK_PRICES"):
        prices_file.load(tmp_path / "missing.toml")


@given(
    amount=st.integers(0, 10**21),
    used=st.integers(0, 10**12),
    unit=st.sampled_from(sorted(UNITS)),
)
def test_a_cost_is_within_half_a_unit_of_the_exact_one(amount: int, used: int, unit: str) -> None:
    prices = _priced(unit, amount)
    measure, size = UNITS[unit]
    cost = prices.charge("", "m", DAY, Measured(**{measure: used})).cost
    assert abs(cost - Fraction(amount * used, size)) <= Fraction(1, 2)
    assert Decimal(decimal(cost)).as_integer_ratio() == Fraction(cost, SCALE).as_integer_ratio()


def _priced(unit: str, amount: int) -> PriceList:
    return PriceList([Price(provider="", model="m", since=date(1970, 1, 1), currency="", amounts={unit: amount})])
