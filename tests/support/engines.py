"""Engines for tests of Athena's protocol: programs that describe themselves as engines do."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from penstock.models.replica.aiges import fields
from penstock.models.replica.aiges.fields import Data, Parameter, Service

OCR = Service(
    name="ocr",
    route="/custom/ocr",
    hosts="ocr.example.com",
    sub="ocr",
    parameters=[
        Parameter(key="lang", enum=["en", "zh"], default="en"),
        Parameter(key="scale", type="number", minimum=0, maximum=10),
        Parameter(key="act"),
    ],
    inputs=[Data(key="img", type="image", encoding="jpg")],
    outputs=[Data(key="boxes", type="text", format="json"), Data(key="crop", type="image")],
)
# Returns what it got as JSON, and the image reversed. ``act`` makes it misbehave.
PROGRAM = """
    import base64, json, os, sys, time

    for line in sys.stdin:
        given = json.loads(line)
        parameter, payload = given.get("parameter", {}), given.get("payload", {})
        act = parameter.get("act", "")
        if act == "exit":
            os._exit(9)
        if act == "hang":
            time.sleep(3600)
        image = payload.get("img", {}).get("image", "data:image/png;base64,")
        data = base64.b64decode(image.partition(",")[2])
        seen = {
            "sid": given.get("header", {}).get("sid", ""),
            "lang": parameter.get("lang"),
            "scale": parameter.get("scale"),
            "bytes": len(data),
            "note": payload.get("note", {}).get("text"),
        }
        found = {"boxes": {"text": json.dumps(seen), "status": 3}}
        if "crop" in parameter:
            reversed_ = base64.b64encode(data[::-1]).decode()
            found["crop"] = {"image": "data:image/png;base64," + reversed_, "status": 3, "encoding": "png"}
        if act == "raise":
            print(json.dumps({"error": "the engine is unhappy"}), flush=True)
        elif act == "nonsense":
            print(json.dumps({"no": "payload"}), flush=True)
        else:
            print(json.dumps({"payload": found}), flush=True)
"""


def put_engine(
    folder: Path, service: Service = OCR, *, name: str = "", program: str = PROGRAM, extra: str = ""
) -> None:
    """Write an engine into a folder of models: a program whose manifest has the engine's schema."""
    name = name or service.name
    path = folder / name
    path.mkdir()
    (path / "engine.py").write_text(textwrap.dedent(program))
    schema = {"input": fields.input_schema(service), "output": fields.output_schema(service)}
    command = json.dumps([sys.executable, "engine.py"])
    (path / "model.toml").write_text(
        f'runtime = "subprocess"\nschema = {toml(schema)}\n{extra}\n[subprocess]\ncommand = {command}\n'
    )


def put_python(folder: Path, name: str, code: str, *, extra: str = "") -> None:
    """Write a Python model, whose class is called Model, into a folder of models."""
    path = folder / name
    path.mkdir()
    (path / f"{name}_code.py").write_text(textwrap.dedent(code))
    (path / "model.toml").write_text(f'runtime = "python"\n{extra}\n[python]\nclass = "{name}_code:Model"\n')


def toml(value: Any) -> str:
    """Return a value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)
