"""The codes of responses: every error of Penstock has one, and engines' own are passed on."""

from __future__ import annotations

import pytest

from penstock import errors
from penstock.athena.protocol import codes
from penstock.athena.protocol.mistakes import DataUndecodable
from penstock.failures import CallFailed, Category, error_of
from scripts.athena_codes_table import CHINESE_DOCUMENT, DOCUMENT, PLACE, chinese_table, table
from scripts.chinese import CODES


def _all(kind: type[errors.PenstockError]) -> list[type[errors.PenstockError]]:
    """Return an error class and those below it, without the ones that other rooms define for themselves."""
    found = [kind, *(inner for one in kind.__subclasses__() for inner in _all(one))]
    return [one for one in found if one.__module__ == errors.__name__ or one is DataUndecodable]


def _one(kind: type[errors.PenstockError]) -> errors.PenstockError:
    if issubclass(kind, errors.InvalidInput | errors.SettingsError):
        return kind([errors.FieldProblem(field="payload.img.image", detail="is required")])
    return kind("why")


@pytest.mark.parametrize("kind", [*_all(errors.CallerError), *_all(errors.ServiceError)])
def test_every_error_has_a_code_of_the_table_and_a_status_of_its_kind(kind: type[errors.PenstockError]) -> None:
    """A mistake of the caller is never reported as one of ours, nor the other way round."""
    outcome = codes.of_error(_one(kind))
    assert outcome.code in {one.number for one in codes.TABLE}
    assert (400 <= outcome.status < 500) == issubclass(kind, errors.CallerError)


def test_the_message_names_the_field() -> None:
    """The words before it are the original's."""
    outcome = codes.of_error(_one(errors.InvalidInput))
    assert (outcome.code, outcome.status) == (10163, 400)
    assert outcome.message == "parameter schema validate error: payload.img.image: is required"
    assert codes.of_error(_one(DataUndecodable)).code == 10161


def test_internal_errors_reveal_nothing() -> None:
    """Their message is for the log."""
    assert codes.of_error(errors.ServiceError("password=x")).message == "the service failed to process this request"


def test_the_code_of_an_engine_is_passed_on() -> None:
    """With the status of what an engine reports; a code of 0 would mean success."""
    outcome = codes.of_error(error_of(CallFailed(Category.INTERNAL, "no face", code=10013042)))
    assert (outcome.code, outcome.status) == (10013042, 502)
    assert "no face" in outcome.message
    assert codes.of_error(error_of(CallFailed(Category.INTERNAL, "x", code=0))).code == 10909


@pytest.mark.parametrize("category", Category)
def test_every_failure_has_a_code(category: Category) -> None:
    """None of them is a success."""
    assert codes.of_error(error_of(CallFailed(category, "why"))).code > 0


def test_the_loader_form_states_500_and_codes_of_its_own() -> None:
    """Those of version 3 of the original's loader."""
    broken = errors.MalformedBody("x")
    assert codes.as_loader(codes.of_error(broken), broken).code == 10000
    wrong = _one(errors.InvalidInput)
    found = codes.as_loader(codes.of_error(wrong), wrong)
    assert (found.code, found.status) == (10001, 500)
    timeout = errors.ModelTimeout("x")
    assert codes.as_loader(codes.of_error(timeout), timeout).code == 10102


def test_a_schema_may_map_codes_to_statuses() -> None:
    """What is not an HTTP status is ignored."""
    outcome = codes.as_outcome(codes.FULL)
    assert codes.mapped(outcome, {"10110": 429}).status == 429
    for nothing in ({}, {"10110": "429"}, {"10110": True}, {"10110": 4290}):
        assert codes.mapped(outcome, nothing) == outcome


def test_the_documented_codes_are_those_of_the_code() -> None:
    """`make fix` writes the table; run it after changing a code."""
    assert DOCUMENT.read_text() == PLACE.replaced(DOCUMENT.read_text(), table())


def test_every_code_is_documented_in_chinese() -> None:
    """A new or changed meaning needs a Chinese one in `scripts/chinese.py`."""
    assert {one.meaning for one in codes.TABLE} == set(CODES)
    assert CHINESE_DOCUMENT.read_text() == PLACE.replaced(CHINESE_DOCUMENT.read_text(), chinese_table())
