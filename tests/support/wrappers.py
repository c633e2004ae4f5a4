"""Wrappers of tests, in the shape of the original's published examples."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import msgspec

from penstock.models.host.deployment import Deployment
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Segment
from tests.support.models import Models

# How all of them begin; a test adds `class Wrapper(WrapperBase)` and what belongs to it.
HEAD = """\
import json
import os
import threading
from aiges.core.types import *
try:
    from aiges_embed import ResponseData, Response, DataListNode, DataListCls, SessionCreateResponse, callback
except:
    from aiges.dto import Response, ResponseData, DataListNode, DataListCls, SessionCreateResponse, callback
from aiges.sdk import WrapperBase, StringParamField, NumberParamField, ImageBodyField, StringBodyField
from aiges.stream import StreamHandleThread
from aiges.utils.log import log, getFileLogger

def answer(key, data, status=Once, type=DataText):
    one = ResponseData()
    one.key = key
    one.status = status
    one.setDataType(type)
    one.setData(data)
    response = Response()
    response.list = [one]
    return response

"""


def model(models: Models, name: str, code: str, *, options: dict[str, Any] | None = None, **stated: Any) -> Model:
    """Return the model of a wrapper, whose code begins with ``HEAD``."""
    folder = models.folder / f"{name}-{len(list(models.folder.iterdir()))}"
    folder.mkdir()
    write(folder, code)
    return models.model(name, "aiges", options or {}, folder=folder, **stated)


async def serve(models: Models, name: str, code: str, **stated: Any) -> Deployment:
    """Register a wrapper."""
    return await models.host.add(model(models, name, code, **stated))


def write(folder: Path, code: str) -> Path:
    path = folder / "wrapper.py"
    path.write_text(HEAD + textwrap.dedent(code))
    return path


def call(sid: str | None = None, params: dict[str, Any] | None = None, **texts: str) -> dict[str, Any]:
    """Return the call of an engine with text in its payload."""
    header = {} if sid is None else {"header": {"sid": sid}}
    payload = {key: {"text": text, "status": 3} for key, text in texts.items()}
    return {**header, "parameter": params or {}, "payload": payload}


async def texts(models: Models, deployment: Deployment, value: Any, *segments: Segment) -> dict[str, str]:
    """Run a call and return the texts of its results."""
    result = await models.begin(deployment, value, segments).done
    return {key: one["text"] for key, one in msgspec.json.decode(result.json)["payload"].items()}
