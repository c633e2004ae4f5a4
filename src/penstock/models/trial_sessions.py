"""Try the sessions of a model with the examples of its manifest."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.models.checking import Checker
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.host.sessions import LiveSession, SessionOver
from penstock.models.manifest_keys import SessionExample
from penstock.models.replica.data_urls import inlined


async def chunks_of(host: ModelHost, deployment: Deployment, example: SessionExample) -> Any:
    """Run a session, and return its chunks, or its output where it has a single one. Raises the error of the session,
    and InvalidInput for an input, a part or an output that breaks the schema."""
    deployment.session_checker.check(example.input, prefix="input")
    for index, part in enumerate(example.parts):
        deployment.part_checker.check(part, prefix=f"parts[{index}]")
    session = host.session(deployment, msgspec.json.encode(example.input))
    try:
        await _send(session, example.parts)
        result = await session.done
    finally:
        session.close()
    value = msgspec.json.decode(inlined(result.json, result.segments))
    assert deployment.schema is not None  # noqa: S101 - it was loaded
    assert deployment.schema.session is not None  # noqa: S101 - ``host.session`` checks it
    output = Checker(deployment.schema.session.output)
    for index, chunk in enumerate(value if session.chunk_count else [value]):
        output.check(chunk, prefix=f"output[{index}]" if session.chunk_count else "output")
    return value


async def _send(session: LiveSession, parts: list[Any]) -> None:
    try:
        for part in parts:
            await session.send(msgspec.json.encode(part))
        session.finish()
    except SessionOver:
        pass  # its result, or its error, says why
