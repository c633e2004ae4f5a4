"""Messages and the calls of models that are not engines: by the JSON Schema of the model's input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import DataObject, DataType, Scalar
from penstock.athena.protocol.engine_calls import CallInput, take_expected
from penstock.athena.protocol.media import encoding_of, media_type_of, type_of, with_wave_header
from penstock.athena.protocol.members import WHOLE, Member, Members, Role
from penstock.athena.protocol.mistakes import Mistakes
from penstock.errors import ModelFailed
from penstock.models.replica.runtime import Segment

RESULT: Final = "result"  # the data object of an output's JSON

_any: Final = msgspec.json.Decoder()
_MAX_MEDIA: Final = 64  # in one output


def model_input(request: ServiceRequest, members: Members) -> CallInput:
    """Return the input of a model's call. Raises InvalidInput for what the model has no place for; whether the
    values are allowed is for the check of the model's schema to say."""
    return _Input(request, members).build()


class _Input:
    """The input of one call, as it is built."""

    def __init__(self, request: ServiceRequest, members: Members) -> None:
        self._request = request
        self._members = members
        self._mistakes = Mistakes()
        self._value: dict[str, Any] = {}
        self._segments: list[Segment] = []
        self._fields: dict[str, str] = {}

    def build(self) -> CallInput:
        whole = self._request.payload.get(WHOLE)
        if self._members.whole is not None or (whole is not None and WHOLE not in self._members.by_name):
            value = self._whole(whole)
        else:
            value = self._object()
        self._mistakes.check()
        return CallInput(msgspec.json.encode(value), self._segments, self._fields, value)

    def _whole(self, one: DataObject | None) -> Any:
        """Return the input that is one data object."""
        if one is None:
            self._mistakes.add(("payload", WHOLE), "is required: the input of this model is one value")
            return None
        for name in self._request.values:
            self._mistakes.add(("parameter", self._request.service, name), "is not a parameter: the input is one value")
        self._fields["body"] = self._data_field(one)
        member = self._members.whole
        return self._read(one, member, ()) if member is not None else self._json(one)

    def _object(self) -> dict[str, Any]:
        for name, value in self._request.values.items():
            self._fields[name] = self._request.parameter_field(name)
            self._value[name] = _typed(value, self._members.by_name.get(name))
        lists: dict[str, list[tuple[int, DataObject]]] = {}
        for name, one in self._request.payload.items():
            item = self._members.list_of(name)
            member = self._members.by_name.get(name)
            if item is not None:
                lists.setdefault(item[0].name, []).append((item[1], one))
            elif member is not None and member.role is Role.MEDIA_LIST and not _is_json(one):
                lists.setdefault(name, []).append((0, one))
            else:
                self._add(name, self._data_field(one), self._read(one, member, (name,)))
        for name, items in lists.items():
            self._add_list(name, [one for _, one in sorted(items, key=lambda item: item[0])])
        return self._value

    def _add(self, name: str, field: str, value: Any) -> None:
        if name in self._value:
            also = self._fields[name].removesuffix(f".{name}")
            self._mistakes.add(
                ("payload", self._request.names.get(name, name)), f"is stated twice, also as {also[:100]}"
            )
        self._fields[name] = field
        self._value[name] = value

    def _add_list(self, name: str, items: Sequence[DataObject]) -> None:
        self._add(name, self._request.payload_field(name), [None] * len(items))
        for index, one in enumerate(items):
            self._fields[f"{name}[{index}]"] = self._data_field(one)
            self._segments.append(_segment(one, (name, index)))

    def _data_field(self, one: DataObject) -> str:
        return f"{self._request.payload_field(one.name)}.{one.type.value}"

    def _read(self, one: DataObject, member: Member | None, path: tuple[str | int, ...]) -> Any:
        """Return the value of a data object: media, text, or JSON."""
        if member is not None and member.role is Role.MEDIA:
            self._segments.append(_segment(one, path))
            return None
        if one.type is DataType.TEXT:
            return self._text(one, member)
        if _is_json(one):
            return self._json(one)
        if member is None:
            self._segments.append(_segment(one, path))
            return None
        self._mistakes.add(self._path(one)[:-1], f"must be text: {member.name} takes no media")
        return None

    def _text(self, one: DataObject, member: Member | None) -> Any:
        """Return text as the value of a member: itself where the member may be a string, else the JSON that it is."""
        if member is None:
            as_json = _is_json(one)
        elif member.only_text:
            as_json = _is_json(one) and one.data == b"null" and "null" in member.types
        else:
            as_json = _is_json(one) or not member.may_be_text
        if as_json:
            return self._json(one)
        try:
            return _typed(one.data.decode(), member)
        except UnicodeDecodeError:
            self._mistakes.add(self._path(one), "must be UTF-8, or state the encoding of its text")
            return None

    def _json(self, one: DataObject) -> Any:
        try:
            one.data.decode()
            return _any.decode(one.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._mistakes.add(self._path(one), "must be valid JSON in UTF-8")
            return None

    def _path(self, one: DataObject) -> tuple[str, ...]:
        return ("payload", self._request.names.get(one.name, one.name), one.type.value)


def _is_json(one: DataObject) -> bool:
    return one.type in {DataType.TEXT, DataType.OTHER} and one.attributes.get("format") == "json"


def _segment(one: DataObject, path: tuple[str | int, ...]) -> Segment:
    data = with_wave_header(one)
    if data is not one.data:
        return Segment(data, "audio/wav", path)
    return Segment(data, media_type_of(one), path)


def _typed(value: Scalar, member: Member | None) -> Any:
    """Return a value in a type of the model's schema: clients of the original send numbers as text."""
    if member is None or not isinstance(value, str) or member.may_be_text:
        return value
    if value in {"true", "false"} and "boolean" in member.types:
        return value == "true"
    if member.types & {"integer", "number"}:
        try:
            number = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError):
            return value
        if isinstance(number, int | float) and not isinstance(number, bool):
            return number
    return value


def _object_of(name: str, value: Any, segment: Segment | None, member: Member | None) -> DataObject:
    if segment is not None:
        kind = type_of(segment.media_type)
        return DataObject(
            name=name,
            type=kind,
            data=bytes(segment.in_memory()),
            attributes={"encoding": encoding_of(segment.media_type), "media_type": segment.media_type},
        )
    if isinstance(value, str) and (member is None or member.may_be_text):
        return _text_object(name, value)
    return _json_object(name, msgspec.json.encode(value))


def _text_object(name: str, value: str) -> DataObject:
    return DataObject(name=name, data=value.encode(), attributes={"encoding": "utf8", "format": "plain"})


def _json_object(name: str, json: bytes) -> DataObject:
    return DataObject(name=name, data=json, attributes={"encoding": "utf8", "format": "json"})


def model_output(
    json: bytes,
    segments: Sequence[Segment] = (),
    expected: Mapping[str, Mapping[str, Scalar]] | None = None,
) -> list[DataObject]:
    """Return the results in the output, or chunk, of a model.

    Its JSON is the data object ``result``: plain text where it is a string, else JSON without the media in it. Each
    medium is a data object whose name is its path, such as ``images_1``. An output that is one medium is ``result``
    itself. Raises ModelFailed for more media than a message holds, and CallFailed for media that are too large.
    """
    if len(segments) > _MAX_MEDIA:
        raise ModelFailed(f"the model returned {len(segments)} media; a message holds at most {_MAX_MEDIA}")
    found = list(_results(json, segments))
    for one in found:
        take_expected(one, (expected or {}).get(one.name, {}))
    return found


def _results(json: bytes, segments: Sequence[Segment]) -> Iterable[DataObject]:
    if not segments:
        value = _any.decode(json)
        yield _text_object(RESULT, value) if isinstance(value, str) else _json_object(RESULT, json)
        return
    value = _any.decode(json)
    taken: set[str] = set()
    for one in segments:
        if one.path and isinstance(one.path[-1], str):
            _drop(value, one.path)
    if segments[0].path and value != {}:
        taken.add(RESULT)
        yield _json_object(RESULT, msgspec.json.encode(value))
    for one in segments:
        yield _object_of(_free("_".join(_steps(one.path)) or RESULT, taken), None, one, None)


def _drop(value: Any, path: tuple[str | int, ...]) -> None:
    """Remove the null at that path, which stands for a medium."""
    for step in path[:-1]:
        value = value[step]
    del value[path[-1]]


def _steps(path: tuple[str | int, ...]) -> list[str]:
    return [str(step + 1) if isinstance(step, int) else step for step in path]


def _free(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
