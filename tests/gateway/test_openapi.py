"""The OpenAPI document is complete, agrees with the routes, and has valid examples."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from penstock.errors import PenstockError, QuotaExceeded
from penstock.gateway.documentation import ABOUT
from penstock.masking import Secret
from penstock.web import problems
from penstock.web.openapi import document
from penstock.web.problems import STATUSES
from tests.support.gateways import HttpCaller, running_gateway


@pytest.fixture(scope="module")
async def described(caller: HttpCaller) -> dict[str, Any]:
    reply = await caller.get("/openapi.json")
    assert reply.status == 200
    found: dict[str, Any] = reply.json
    return found


async def test_every_route_is_described(caller: HttpCaller, described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    documented = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert documented == {(route.method, route.path) for route in caller.gateway.routes}
    for route in caller.gateway.routes:
        operation = described["paths"][route.path][route.method.lower()]
        assert operation["summary"]
        if route.path.startswith("/api/v1/") and not route.open:
            assert "401" in operation["responses"], route.path
        if route.request is not None:
            assert {"400", "413", "415", "422"} <= set(operation["responses"]), route.path
            assert operation["requestBody"]["content"]["application/json"]["example"], route.path


async def test_every_parameter_and_field_is_described(described: dict[str, Any]) -> None:
    """Every parameter and every field of a job has a description."""
    for path, methods in described["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (path, parameter["name"])
    schemas = described["components"]["schemas"]
    for name, schema in schemas["JobSubmission"]["properties"].items():
        assert "description" in str(schema) or name in {"input", "callback"}, name
    assert "description" in schemas["Callback"]
    predict = described["paths"]["/api/v1/models/{name}/predict"]["post"]["requestBody"]["content"]
    assert set(predict) == {"application/json", "multipart/form-data", "application/octet-stream"}


async def test_operation_ids_are_unique(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


async def test_references_resolve(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]

    def references(part: object) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    for reference in references(described):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


_REGISTERED: dict[type[PenstockError], str] = {
    QuotaExceeded: "https://iana.org/assignments/http-problem-types#quota-exceeded"
}


async def test_every_json_response_has_an_example_that_matches_its_schema(described: dict[str, Any]) -> None:
    for path, methods in described["paths"].items():
        for operation in methods.values():
            contents = [response.get("content", {}) for response in operation["responses"].values()]
            contents.append(operation.get("requestBody", {}).get("content", {}))
            for kind, content in (pair for found in contents for pair in found.items()):
                examples = [example["value"] for example in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                assert examples or "json" not in kind or path == "/openapi.json", path
                schema = content["schema"] | {"components": described["components"]}
                validator = jsonschema_rs.Draft202012Validator(schema)
                for example in examples:
                    validator.validate(example)


async def test_examples_of_requests_are_accepted(database_url: str) -> None:
    async with running_gateway(database_url, ai_service_token=Secret("token")) as caller:
        for route in caller.gateway.routes:
            if route.request_example is not None and "{" not in route.path:
                at_once = {"wait_seconds": 0} if "wait_seconds" in route.request_example else {}
                reply = await caller.call(route.method, route.path, route.request_example | at_once)
                assert reply.status < 300, (route.path, reply.body)


async def test_the_token_is_described_only_where_one_is_set(caller: HttpCaller, described: dict[str, Any]) -> None:
    secured = msgspec.json.decode(document(caller.gateway.routes, ABOUT, secured=True))
    assert secured["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert secured["paths"]["/healthz"]["get"]["security"] == []
    submit = secured["paths"]["/api/v1/jobs"]["post"]
    assert submit["security"] == [{"token": ["jobs:submit"]}]
    assert "jobs:submit" in submit["description"]
    assert "security" not in described["paths"]["/api/v1/jobs"]["post"]


def test_every_error_has_a_status_and_a_unique_code() -> None:
    codes = [error.code for error in STATUSES]
    assert len(set(codes)) == len(codes)
    for error, (status, _) in STATUSES.items():
        documented = problems.schema_example(error)
        assert (documented["status"], documented["code"]) == (status, error.code)
        assert documented["type"] == _REGISTERED.get(error, f"urn:penstock:problem:{error.code}")
