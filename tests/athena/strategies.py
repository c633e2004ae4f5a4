"""Strategies of Hypothesis for messages of Athena Serving."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from penstock.athena.protocol.data import TYPES, DataObject, DataType, Scalar, Status
from penstock.athena.protocol.requests import RequestMessage, ServiceParameter

NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
_RESERVED = {*TYPES, "status", "seq", "encoding", "compress", "format"}

integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars: st.SearchStrategy[Scalar] = st.one_of(st.text(st.characters(codec="utf-8")), st.booleans(), integers, floats)
fields = st.dictionaries(NAMES.filter(lambda name: name not in _RESERVED), scalars, max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def data_objects(draw: st.DrawFn, name: str | None = None) -> DataObject:
    """Data objects of every type, some compressed, some text in a Chinese character set, some JSON."""
    kind = draw(st.sampled_from(DataType))
    attributes = draw(fields)
    if draw(st.booleans()):
        attributes["compress"] = draw(st.sampled_from(["gzip", "raw"]))
    if kind is DataType.TEXT:
        attributes |= draw(st.sampled_from([{}, {"encoding": "utf8"}, {"encoding": "gbk"}, {"encoding": "GB2312"}]))
        data = draw(st.text(st.characters(codec="utf-8"))).encode()
    else:
        data = draw(st.binary(max_size=64))
    if draw(st.integers(0, 4)) == 0:
        attributes["format"] = "json"
        data = msgspec.json.encode(draw(json_values))
    return DataObject(
        name=draw(NAMES) if name is None else name,
        type=kind,
        data=data,
        status=draw(st.sampled_from(Status)),
        seq=draw(st.none() | st.integers(0, 2**63 - 1)),
        attributes=attributes,
    )


@st.composite
def requests(draw: st.DrawFn) -> RequestMessage:
    """Requests, some of them the later messages of a session."""
    header = draw(fields)
    if draw(st.booleans()):
        header["status"] = draw(st.integers(0, 3))
    services = draw(st.dictionaries(NAMES, st.tuples(fields, st.dictionaries(NAMES, fields, max_size=2)), max_size=2))
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    return RequestMessage(
        header=header,
        parameter={
            service: ServiceParameter(
                values={key: value for key, value in values.items() if key not in expected}, expected=expected
            )
            for service, (values, expected) in services.items()
        },
        payload={name: draw(data_objects(name)) for name in names},
    )
