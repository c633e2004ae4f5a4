"""The method ``session`` of a Python class: types become schemas, and every mistake is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BaseModel, Field

from penstock import Context, File
from penstock.failures import CallFailed
from penstock.models.replica.contract.contract import Contract
from penstock.models.replica.contract.session import SessionContract
from penstock.models.replica.contract.signature import ContractError
from penstock.models.replica.runtime import Segment
from penstock.models.replica.sessions import Part


class Piece(BaseModel):
    audio: File
    rate: Annotated[int, Field(ge=8000)] = 16000


class Listener:
    def predict(self, audio: File) -> str:
        return "whole"

    def session(self, pieces: Iterable[Piece], context: Context, language: str = "en") -> Iterator[str]:
        for piece in pieces:
            yield f"{language} {len(piece.audio.data)}"


def session_of(model: type) -> SessionContract:
    session = Contract(model).session
    assert session is not None
    return session


def test_types_become_the_schemas_of_a_session() -> None:
    session = session_of(Listener)
    assert session.schema.input == {
        "type": "object",
        "properties": {"language": {"type": "string", "default": "en"}},
        "additionalProperties": False,
    }
    assert session.schema.part["properties"].keys() == {"audio", "rate"}
    assert session.schema.part["required"] == ["audio"]
    assert session.schema.output == {"type": "string"}
    assert (session.parts, session.context, session.streams) == ("pieces", "context", True)
    assert Contract(Listener).schema.session == session.schema


def test_a_part_becomes_a_value_of_the_annotated_type() -> None:
    piece = session_of(Listener).value(Part(b'{"audio": null}', [Segment(b"abc", "audio/wav", ("audio",))]))
    assert isinstance(piece, Piece)
    assert (piece.audio.data, piece.audio.media_type, piece.rate) == (b"abc", "audio/wav", 16000)


@pytest.mark.parametrize(
    ("json", "segments", "message"),
    [
        (b"{}", [], "part.audio: is required"),
        (b"3", [], "part: must be an object"),
        (b"null", [], "part: must be an object"),
        (b'{"audio": null, "rate": 1}', [Segment(b"a", path=("audio",))], "part.rate: must be greater than or equal"),
        (b"{}", [Segment(b"a", path=("sound",))], "part.sound: takes no media"),
        (b"[", [], "is not valid JSON"),
        (b'1, "x": 2', [], "x is not an input of this model"),
        (b'1}, "x": {"y": 1', [], "is not valid JSON"),
    ],
)
def test_a_wrong_part_is_refused_by_field(json: bytes, segments: list[Segment], message: str) -> None:
    with pytest.raises(CallFailed) as caught:
        session_of(Listener).value(Part(json, segments))
    assert caught.value.category == "bad_input"
    assert message in str(caught.value)


def test_a_part_may_be_one_medium_or_anything() -> None:
    class Raw:
        def predict(self) -> None: ...

        def session(self, parts: Iterator[File]) -> int:
            return sum(len(part.data) for part in parts)

    class Loose:
        def predict(self) -> None: ...

        def session(self, parts: Iterator) -> None: ...  # type: ignore[type-arg]

    assert session_of(Raw).value(Part(b"null", [Segment(b"abc")])).data == b"abc"
    assert not session_of(Raw).streams
    assert session_of(Loose).value(Part(b'{"a": [1]}')) == {"a": [1]}
    assert session_of(Loose).schema.part == {}


def test_every_mistake_of_a_session_is_named() -> None:
    class Wrong:
        def predict(self) -> None: ...

        async def session(self, words: AsyncIterator[str], more: Iterator[str], plain, *rest: int) -> int:  # type: ignore[no-untyped-def]
            return 1

    class Without:
        async def predict(self) -> None: ...

        async def session(self, language: str) -> str:
            return language

    class Mixed:
        async def predict(self) -> None: ...

        async def session(self, parts: Iterator[str]) -> str:
            return "".join(parts)

    class Unknown:
        def predict(self) -> None: ...

        def session(self, parts: Iterator[np.ndarray[Any, Any]]) -> str:
            return "x"

    for model, expected in {
        Wrong: {
            "parameters words and more of session are both iterators: one takes the parts",
            "parameter plain of session has no annotation: it becomes the input's JSON Schema",
            "session takes *rest: every input must be a parameter with a name",
            "session must be a plain `def`, as predict is",
        },
        Without: {"session has no parameter for the parts, annotated as Iterator[…] of one part"},
        Mixed: {"parameter parts of session must be annotated as AsyncIterator[…]"},
        Unknown: {
            "a part of parts: a numpy array is annotated as Annotated[numpy.ndarray, penstock.Array(dtype, shape)]"
        },
    }.items():
        with pytest.raises(ContractError) as caught:
            Contract(model)
        assert set(caught.value.problems) == expected
        assert len(caught.value.problems) == len(expected)
