"""The HTTP face of models: every endpoint under ``/api/v1/models``, declared once."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import (
    AlreadyExists,
    DatabaseUnavailable,
    InvalidInput,
    MalformedBody,
    ModelBroken,
    ModelCrashed,
    ModelFailed,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PoisonInput,
    ProviderFailed,
    TooLarge,
    Unsupported,
)
from penstock.models import examples
from penstock.models.handlers import LogQuery, ModelHandlers
from penstock.models.views import Cleared, LogPage, ModelPage, ModelView
from penstock.web.route import Parameter, PathParameter, ResponseSpec, Route

_BODY = (MalformedBody, InvalidInput, TooLarge, Unsupported)
_MODEL = (ModelFailed, ModelCrashed, ModelTimeout, ModelUnavailable, ModelBroken, ProviderFailed)
_CALL = (*_BODY, NotFound, PoisonInput, Overloaded, *_MODEL)
_VERSION = Parameter(name="version", type=str, description="a version; without it the newest")
_REQUEST_ID = Parameter(
    name="X-Request-ID",
    type=str,
    description="comes back in the answer, and marks the lines of the log",
    place="header",
)
_LOGS = Parameter(name="logs", type=bool, description="tell the call's log lines too, as events `log`")
_REPLACE = Parameter(name="replace", type=bool, description="replace the version if it is registered already")
_CALLING = """The body is the model's input as JSON, `multipart/form-data` with media as files (and other fields as
text, or as one JSON object in the part `input`), or, where the model takes one file, its bytes. Media in JSON are
`data:` URLs. It is checked against the model's schema; a mistake is answered with 422 and names the field."""
_NAME = PathParameter(name="name", description="the model's name")


def routes(models: ModelHandlers) -> list[Route]:
    """Every route of models."""
    return [*_calling(models), *_looking(models), *_changing(models)]


def _calling(models: ModelHandlers) -> list[Route]:
    return [
        Route(
            method="POST",
            path="/api/v1/models/{name}/predict",
            path_parameters=(_NAME,),
            handler=models.predict,
            name="predict",
            tag="Models",
            summary="Call a model and get its output",
            description=_CALLING + " The answer is the output as JSON, or its bytes where the output is one media. "
            "A model that streams answers the list of its chunks. `Accept: text/event-stream` streams as below.",
            request=dict[str, Any],
            request_example=examples.INPUT,
            takes_media=True,
            parameters=(_VERSION, _REQUEST_ID),
            responses={
                200: ResponseSpec(
                    description="The output",
                    type=Any,
                    example=examples.OUTPUT,
                    also=("text/event-stream", "application/octet-stream", "image/*", "audio/*"),
                )
            },
            errors=_CALL,
            max_body_bytes=models.max_call_bytes,
        ),
        Route(
            method="POST",
            path="/api/v1/models/{name}/stream",
            path_parameters=(_NAME,),
            handler=models.stream,
            name="stream",
            tag="Models",
            summary="Call a model and read its chunks as they come",
            description=_CALLING
            + " Server-sent events: `chunk` and `progress` with the value as data, at the end `done` "
            "(with `output` where that did not come as chunks) or `error` with a problem.",
            request=dict[str, Any],
            request_example=examples.INPUT,
            takes_media=True,
            parameters=(_VERSION, _REQUEST_ID, _LOGS),
            responses={200: ResponseSpec(description="Events", type=str, media_type="text/event-stream")},
            errors=_CALL,
            max_body_bytes=models.max_call_bytes,
        ),
    ]


def _looking(models: ModelHandlers) -> list[Route]:
    return [
        Route(
            method="GET",
            path="/api/v1/models",
            handler=models.list_models,
            name="listModels",
            tag="Models",
            summary="List all models",
            responses={200: ResponseSpec(description="All of them", type=ModelPage, example=examples.PAGE)},
            errors=(InvalidInput,),
        ),
        Route(
            method="GET",
            path="/api/v1/models/{name}",
            path_parameters=(_NAME,),
            handler=models.get,
            name="getModel",
            tag="Models",
            summary="A model's schema, versions, replicas, load and counters",
            responses={200: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
            errors=(InvalidInput, NotFound, ModelBroken),
        ),
        Route(
            method="GET",
            path="/api/v1/models/{name}/logs",
            path_parameters=(_NAME,),
            handler=models.logs,
            name="modelLogs",
            tag="Models",
            summary="The newest lines of a model's log",
            description="With `follow=true`, or `Accept: text/event-stream`, as server-sent events without end.",
            parameters=tuple(
                Parameter(name=field.encode_name, type=field.type, description=_LOG_FILTERS[field.name])
                for field in msgspec.structs.fields(LogQuery)
            ),
            responses={
                200: ResponseSpec(
                    description="Lines, oldest first", type=LogPage, example=examples.LOGS, also=("text/event-stream",)
                )
            },
            errors=(InvalidInput, NotFound, ModelBroken),
        ),
    ]


_LOG_FILTERS = {
    "since": "not before this time",
    "until": "before this time",
    "level": "this level or worse: debug, info, warning, error",
    "request_id": "only lines of this call",
    "version": "only lines of this version",
    "limit": "at most so many, the newest",
    "follow": "go on as lines come",
}


def _changing(models: ModelHandlers) -> list[Route]:
    return [
        Route(
            method="POST",
            path="/api/v1/models",
            handler=models.add,
            name="addModel",
            tag="Models",
            summary="Register a model that another server runs, or one of the server's folder by name",
            description="Runtimes `http` and `openai`; what concerns the runtime stands in a member of its name. "
            "Models that run code come from the operator's folder PENSTOCK_MODELS_DIR only, named without a runtime.",
            request=dict[str, Any],
            request_example=examples.ADDITION,
            parameters=(_REPLACE,),
            responses={201: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
            errors=(*_BODY, NotFound, AlreadyExists, ModelUnavailable, ModelBroken, DatabaseUnavailable),
        ),
        Route(
            method="DELETE",
            path="/api/v1/models/{name}",
            path_parameters=(_NAME,),
            handler=models.remove,
            name="removeModel",
            tag="Models",
            summary="Take a model away, or one version of it; what it runs is finished",
            parameters=(_VERSION,),
            responses={204: ResponseSpec(description="It is gone")},
            errors=(InvalidInput, NotFound, DatabaseUnavailable),
        ),
        Route(
            method="POST",
            path="/api/v1/models/{name}/reload",
            path_parameters=(_NAME,),
            handler=models.reload,
            name="reloadModel",
            tag="Models",
            summary="Import and load a model again; calls go on meanwhile",
            parameters=(_VERSION,),
            responses={200: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
            errors=(InvalidInput, NotFound, ModelUnavailable, ModelBroken),
        ),
        Route(
            method="DELETE",
            path="/api/v1/models/{name}/logs",
            path_parameters=(_NAME,),
            handler=models.clean_logs,
            name="cleanModelLogs",
            tag="Models",
            summary="Forget the lines of a model's log",
            responses={200: ResponseSpec(description="How many there were", type=Cleared, example=examples.CLEARED)},
            errors=(InvalidInput, NotFound, ModelBroken),
        ),
    ]
