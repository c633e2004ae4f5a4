"""Exceptions and lines that are hard to report cost no replica."""

from __future__ import annotations

import pytest

from penstock.errors import InvalidInput, ModelFailed
from tests.support.models import Models

NASTY = """
class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text for you")

class Model:
    def predict(self, how: str) -> str:
        if how == "unprintable":
            raise Unprintable
        if how == "not text":
            raise type("Odd", (Exception,), {"__str__": lambda self: 5})
        if how == "surrogate":
            print("line \\udcff")
            raise RuntimeError("half \\udcff")
        if how == "address":
            raise RuntimeError(f"cannot use {object()}")
        if how == "field":
            from penstock import BadInput
            raise BadInput(Unprintable(), field=Unprintable())
        return how

    def unload(self):
        print("unloaded")
"""

CODED = """
from penstock.failures import CallFailed

class Model:
    def predict(self, category: str, code: int) -> str:
        raise CallFailed(category, "engine failed", code=code)
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unprintable", r"Unprintable: its text cannot be read: __str__ raised ValueError$"),
        ("not text", r"Odd: its text cannot be read: __str__ raised TypeError$"),
        ("surrogate", r"RuntimeError: half \?$"),
        ("address", r"RuntimeError: cannot use <object object>$"),
    ],
)
async def test_an_exception_that_cannot_be_written_costs_no_replica(models: Models, how: str, message: str) -> None:
    model = await models.serve("nasty", NASTY)
    for _ in range(3):  # more often than an input may bring down replicas
        with pytest.raises(ModelFailed, match=message):
            await models.call(model, {"how": how})
    with pytest.raises(InvalidInput, match="its text cannot be read"):
        await models.call(model, {"how": "field"})
    assert model.restarts == 0


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_the_code_of_an_engine_reaches_the_caller(models: Models, kind: str) -> None:
    """Also where the input is refused; a code that no header can hold is left out."""
    model = await models.serve("coded", CODED.replace("def", kind))
    with pytest.raises(ModelFailed, match="engine failed") as failed:
        await models.call(model, {"category": "internal", "code": -10110})
    assert failed.value.engine_code == -10110
    with pytest.raises(InvalidInput, match="engine failed") as refused:
        await models.call(model, {"category": "bad_input", "code": 2**62})
    assert refused.value.engine_code == 2**62
    with pytest.raises(ModelFailed) as failed:
        await models.call(model, {"category": "internal", "code": 10**30})
    assert failed.value.engine_code is None


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_text_that_unload_prints_is_in_the_log(models: Models, kind: str) -> None:
    model = await models.serve("nasty", NASTY.replace("def ", f"{kind} ").replace(f"{kind} __str__", "def __str__"))
    await models.call(model, {"how": "fine"})
    await model.unload()
    assert "unloaded" in [line.message for line in models.lines(model)]
