"""Messages for one service and for several: what belongs to which."""

from __future__ import annotations

from penstock.athena.protocol.addressing import for_service, in_message, joined
from penstock.athena.protocol.data import DataObject
from penstock.athena.protocol.requests import RequestMessage, ServiceParameter
from penstock.errors import InvalidInput


def _message(parameters: dict[str, dict[str, str | int | float | bool]], *names: str) -> RequestMessage:
    return RequestMessage(
        parameter={name: ServiceParameter(values=values) for name, values in parameters.items()},
        payload={name: DataObject(name=name, data=name.encode()) for name in names},
    )


def test_parameters_of_a_single_service_may_have_any_name() -> None:
    """The original's loader reads them all; the service's own take precedence."""
    assert for_service(_message({"service_iat": {"a": 1}}), "iat").values == {"a": 1}
    found = for_service(_message({"iat": {"a": 1}, "x": {"a": 2, "b": 2}}), "iat")
    assert found.values == {"a": 1, "b": 2}
    assert for_service(_message({"other": {}}), "iat").service == "other"


def test_results_of_several_services_carry_their_names() -> None:
    """As the data objects of the request do."""
    assert [one.name for one in joined("s_1", [DataObject(name="result")])] == ["s_1_result"]


def test_mistakes_in_an_input_are_named_as_in_the_message() -> None:
    """The longest known beginning of the field is replaced."""
    error = InvalidInput.of("images[1].size", "is wrong")
    fields = {"images": "payload.images", "images[1]": "payload.images_2.image", "b": "x"}
    assert in_message(error, fields).problems[0].field == "payload.images_2.image.size"
    assert in_message(InvalidInput.of("other", ""), fields).problems[0].field == "other"
