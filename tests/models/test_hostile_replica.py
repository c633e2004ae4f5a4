"""A replica whose process writes arbitrary bytes into its sockets: it is ended, and the host lives on."""

from __future__ import annotations

import base64
import contextlib
import random
from typing import Any

import pytest

from penstock.errors import PenstockError
from penstock.models.replica import frames
from tests.support.models import Models

# Finds the replica's own data and control sockets, and writes the given bytes into one of them.
FUZZING = """
import base64, os, socket, stat, sys

def sockets():
    for number in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                yield number
        except OSError:
            pass

class Model:
    def predict(self, where: int, data: str) -> str:
        found = sorted(sockets())
        os.write(found[where], base64.b64decode(data))
        return "sent"
"""

ECHO = """
class Model:
    def predict(self, text: str) -> str:
        return text
"""


def junk(seed: int) -> bytes:
    """Return bytes that resemble frames: right prefixes with wrong kinds, sizes, headers and call ids."""
    rng = random.Random(seed)
    kind = rng.choice([*sorted(frames.KINDS), 0, 77, 255])
    body = rng.randbytes(rng.randrange(0, 200))
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(1, 300))
        case 1:
            head = rng.randrange(0, len(body) + 1)
            return frames.PREFIX.pack(len(body), kind, rng.randrange(0, 50), head) + body
        case 2:
            output = frames.OutputHeader(1, [frames.SegmentHeader(rng.randrange(-9, 999), "x", [1, "y"])])
            return frames.encode(kind, rng.randrange(0, 50), output, body)
        case _:
            header = frames.FailureHeader("nonsense", "x" * 99)  # type: ignore[arg-type]  # no such category
            return frames.encode(kind, rng.randrange(0, 50), header, body) * 3


@pytest.mark.parametrize("seed", range(24))
async def test_no_bytes_of_a_replica_disturb_the_host(models: Models, seed: int) -> None:
    """However the call ends, the other model continues, and this model runs calls again."""
    hostile = await models.serve("hostile", FUZZING, retry=False, timeout=5)
    good = await models.serve("good", ECHO)
    given: dict[str, Any] = {"where": seed % 2, "data": base64.b64encode(junk(seed)).decode()}
    with contextlib.suppress(PenstockError):
        await models.call(hostile, given)
    assert await models.call(good, {"text": "calm"}) == "calm"
    harmless = {"where": 0, "data": ""}
    try:
        await models.call(hostile, harmless)
    except PenstockError:  # the junk may have been a failure of the next call, or half a frame that swallowed it
        assert await models.call(hostile, harmless) == "sent"
