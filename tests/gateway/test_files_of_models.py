"""Large media of live calls: uploads reach models as files, and files that models return are sent or kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.gateway.test_models import events, put
from tests.support.gateways import HttpCaller, running_gateway

SIZE = 3 * 2**20

COPY = """
import shutil
from penstock import File, context

class Model:
    def predict(self, film: File) -> File:
        shutil.copyfile(film.path, context().folder / "copy.mp4")
        return File.at(context().folder / "copy.mp4")
"""
COPIES = """
import shutil
from typing import Any
from penstock import File, context

class Model:
    def predict(self, film: File) -> dict[str, Any]:
        return {"film": film, "same": [film], "size": film.size}
"""


async def uploaded(caller: HttpCaller) -> tuple[str, bytes]:
    data = bytes(range(256)) * (SIZE // 256)
    headers = {"Content-Type": "video/mp4"}
    blob = (await caller.call("POST", "/blobs", body=data, headers=headers)).json
    return f"blob:{blob['id']}", data


async def downloaded(caller: HttpCaller, name: str) -> tuple[bytes, str]:
    reply = await caller.get(f"/blobs/{name.removeprefix('blob:')}")
    assert reply.status == 200, reply.body
    return reply.body, reply.headers["Content-Type"]


async def test_files_in_and_out(database_url: str, tmp_path: Path) -> None:
    """A whole file is the response's body; files within JSON are kept, and named as uploads are."""
    put(tmp_path, {"copy": COPY, "copies": COPIES})
    async with running_gateway(database_url, models_folder=tmp_path, penstock_max_call_bytes=2**20) as caller:
        name, data = await uploaded(caller)
        whole = await caller.post("/models/copy/predict", {"film": name})
        assert (whole.status, whole.body == data) == (200, True)
        assert whole.headers["Content-Type"] == "video/mp4"
        assert whole.headers["Content-Disposition"] == 'inline; filename="copy.mp4"'
        as_json = await caller.post("/models/copy/predict", {"film": name}, Accept="application/json")
        assert await downloaded(caller, as_json.json) == (data, "video/mp4")
        found: dict[str, Any] = (await caller.post("/models/copies/predict", {"film": name})).json
        assert found["size"] == SIZE
        for one in (found["film"], found["same"][0]):
            assert await downloaded(caller, one) == (data, "video/mp4")
        streamed = await caller.post("/models/copies/stream", {"film": name})
        kind, last = events(streamed.body)[-1]
        assert kind == "done"
        assert await downloaded(caller, msgspec.json.decode(last)["output"]["film"]) == (data, "video/mp4")


MADE = """
from typing import Any
from penstock import File, context

class Model:
    def predict(self, n: int) -> dict[str, Any]:
        (context().folder / "x").write_bytes(bytes(n))
        return {"film": File.at(context().folder / "x")}
"""


async def test_a_file_that_cannot_be_kept_fails_its_call(database_url: str, tmp_path: Path) -> None:
    """The message names the limit; in a stream it is the last event."""
    put(tmp_path, {"made": MADE})
    async with running_gateway(database_url, models_folder=tmp_path, penstock_max_blob_bytes=2**20) as caller:
        failed = await caller.post("/models/made/predict", {"n": SIZE})
        assert failed.outcome == (500, "model_failed")
        assert "cannot be stored: the file has more than the 1048576 bytes allowed" in failed.json["detail"]
        streamed = await caller.post("/models/made/stream", {"n": SIZE})
        assert events(streamed.body)[-1][0] == "error"


async def test_the_uploads_of_one_call_are_bounded(database_url: str, tmp_path: Path) -> None:
    put(tmp_path, {"copies": COPIES})
    async with running_gateway(database_url, models_folder=tmp_path, penstock_call_files_bytes=2**21) as caller:
        name, _ = await uploaded(caller)
        refused = await caller.post("/models/copies/predict", {"film": name})
        assert (refused.outcome, refused.fields) == ((422, "invalid_input"), ["film"])
        assert "with this one the uploads exceed 2097152 bytes" in refused.json["errors"][0]["detail"]
