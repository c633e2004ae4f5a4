"""Read ``prices.toml``: return its prices, or every mistake in it at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from penstock import toml_file
from penstock.suggestions import did_you_mean
from penstock.toml_file import Problems
from penstock.usage.prices import UNITS, Price, PriceList

DEFAULT_FILE: Final = Path("prices.toml")
VARIABLE: Final = "PENSTOCK_PRICES"
_TABLES: Final = ("currency", "prices")
_FIELDS: Final = ("provider", "model", "from", *UNITS)
_CURRENCY: Final = re.compile(r"[^\x00-\x1f\x7f]{1,10}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,500}")
_ALWAYS: Final = date(1970, 1, 1)
_MAX_AMOUNT: Final = 10**9  # of the currency
_DECIMALS: Final = 12  # of an amount
_MAX_PRICES: Final = 10_000


def load(path: Path | None) -> PriceList:
    """Return the prices of the file, or none if it is not stated and ``prices.toml`` does not exist.

    Raises SettingsError, which lists all mistakes of the file at once.
    """
    if path is None and not DEFAULT_FILE.is_file():
        return PriceList()
    problems = Problems(path or DEFAULT_FILE)
    found = toml_file.read(problems.path, VARIABLE, parse_float=Decimal)
    for name in sorted(found.keys() - set(_TABLES)):
        problems.add(name, f"is not known here{did_you_mean(name, _TABLES) or '; there are: currency, prices'}")
    currency = _currency(found.get("currency", ""), problems)
    prices = _prices(found.get("prices", []), currency, problems)
    problems.raise_any()
    return PriceList(prices, currency=currency)


def _currency(stated: Any, problems: Problems) -> str:
    if isinstance(stated, str) and (stated == "" or _CURRENCY.fullmatch(stated)):
        return stated
    problems.add("currency", "must be a text of 1 to 10 characters, such as EUR")
    return ""


def _prices(stated: Any, currency: str, problems: Problems) -> list[Price]:
    if not isinstance(stated, list) or len(stated) > _MAX_PRICES:
        problems.add("prices", f"must be at most {_MAX_PRICES} tables [[prices]]")
        return []
    prices: list[Price] = []
    first: dict[tuple[str, str, date], int] = {}
    for number, table in enumerate(stated, 1):
        where = f"prices[{number}]"
        if not isinstance(table, dict):
            problems.add(where, "must be a table")
            continue
        price = _price(table, currency, where, problems)
        earlier = first.setdefault((price.provider, price.model, price.since), number)
        if earlier != number and (price.provider or price.model):
            problems.add(where, f"is for the same provider, model and day as prices[{earlier}]")
        prices.append(price)
    return prices


def _price(table: Mapping[str, Any], currency: str, where: str, problems: Problems) -> Price:
    for name in sorted(table.keys() - set(_FIELDS)):
        problems.add(f"{where}.{name}", f"is not known here{did_you_mean(name, _FIELDS) or _there_are()}")
    names = {}
    for name in ("provider", "model"):
        names[name] = table.get(name, "")
        if name in table and not (isinstance(names[name], str) and _NAME.fullmatch(names[name])):
            problems.add(f"{where}.{name}", "must be a name of 1 to 500 characters")
            names[name] = ""
    if not table.keys() & {"provider", "model"}:
        problems.add(where, "must name a provider, a model, or both")
    since = table.get("from", _ALWAYS)
    if not isinstance(since, date) or isinstance(since, datetime):
        problems.add(f"{where}.from", "must be a day, without quotes: 2026-01-31")
        since = _ALWAYS
    amounts = {name: _amount(table[name], f"{where}.{name}", problems) for name in UNITS if name in table}
    if not amounts:
        problems.add(where, f"must state at least one amount{_there_are(UNITS)}")
    for measure in sorted({UNITS[name].measure for name in amounts}):
        doubled = [name for name in amounts if UNITS[name].measure == measure]
        if len(doubled) > 1:
            problems.add(where, f"states {' and '.join(doubled)}: state only one of them")
    return Price(provider=names["provider"], model=names["model"], since=since, currency=currency, amounts=amounts)


def _there_are(names: Any = _FIELDS) -> str:
    return f"; there are: {', '.join(names)}"


def _amount(stated: Any, where: str, problems: Problems) -> int:
    """Return an amount in 10^-12, exactly."""
    if isinstance(stated, bool) or not isinstance(stated, (int, Decimal)) or not Decimal(stated).is_finite():
        problems.add(where, "must be a number, such as 2.50")
        return 0
    if not 0 <= stated <= _MAX_AMOUNT:
        problems.add(where, f"must be from 0 to {_MAX_AMOUNT}")
        return 0
    _, digits, exponent = Decimal(stated).as_tuple()
    shift = int(exponent) + _DECIMALS
    number = int("".join(map(str, digits)))
    factor: int = 10 ** min(abs(shift), len(digits)) if shift < 0 else 10**shift
    if shift >= 0:
        return number * factor
    if number % factor:
        problems.add(where, f"has more than {_DECIMALS} decimals")
    return number // factor
