"""Models over HTTP: calls, streams, media, logs, registration; and the interface of the AI Backend document."""

from __future__ import annotations

import asyncio
import base64
import os
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable
from penstock.failures import Category, failure_of
from penstock.models import store
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.http_servers import running
from tests.support.waiting import until

MODELS = {
    "greet": '''
        from typing import Annotated, Literal
        from pydantic import Field

        class Model:
            """Greets."""

            def predict(
                self, name: Annotated[str, Field(max_length=10)], tone: Literal["warm", "cold"] = "warm"
            ) -> dict[str, str]:
                print("greeting", name)
                if name == "nobody":
                    raise LookupError("there is nobody")
                return {"text": f"{'Dear' if tone == 'warm' else 'Oh,'} {name}"}
    ''',
    "count": """
        import os, time
        from collections.abc import Iterator
        from penstock import Context

        class Model:
            def predict(self, n: int, context: Context, fail: bool = False, wait_for: str = "") -> Iterator[int]:
                for number in range(n):
                    context.progress(number / n)
                    yield number
                while wait_for and not os.path.exists(wait_for):
                    time.sleep(0.002)
                if fail:
                    raise RuntimeError("half way")
    """,
    "mirror": """
        from penstock import File

        class Model:
            def predict(self, picture: File, note: str = "", sizes: list[int] = []) -> File:
                return File(picture.data[::-1], "image/x-mirrored", name="mirrored.img")
    """,
    "scenes": """
        from __future__ import annotations
        from pydantic import BaseModel
        from penstock import File, Image

        class Scene(BaseModel):
            title: str = ""
            pictures: dict[str, Image | None] = {}
            layers: list[Scene] = []

        class Model:
            def predict(self, scenes: list[Scene], extra: str | list[File] | None = None) -> list[str]:
                found = []
                def visit(scene, name):
                    found.extend(f"{name}{key}:{len(one.data)}" for key, one in scene.pictures.items() if one)
                    for index, layer in enumerate(scene.layers):
                        visit(layer, f"{name}{index}.")
                for index, scene in enumerate(scenes):
                    visit(scene, f"{index}.")
                return found + [scene.title for scene in scenes] + [one.name or "" for one in extra or []]
    """,
    "nest": """
        from pydantic import BaseModel
        from penstock import Image

        class Inside(BaseModel):
            picture: Image

        class Model:
            def predict(
                self, inside: Inside, several: list[Image] | None = None, many: list[int] | None = None
            ) -> list[int]:
                return [len(one.data) for one in several or []]
    """,
    "measure": """
        from typing import Any
        from penstock import File, Image

        class Model:
            def predict(self, files: list[File], cover: Image | None = None, factor: int = 1) -> dict[str, Any]:
                return {
                    "sizes": [len(file.data) * factor for file in files],
                    "names": [file.name for file in files],
                    "cover": cover,
                }
    """,
}


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    """A gateway with some models."""
    folder = tmp_path_factory.mktemp("models")
    put(folder, MODELS)
    (folder / "broken.toml").write_text("runtime = 'python'\nreplicas = 0\nreplikas = 1\n[python]\nclas = 'x:Y'\n")
    os.mkfifo(folder / "pipe.toml")  # so that nothing waits for its writer
    async with running_gateway(module_database_url, models_folder=folder) as caller:
        yield caller


def put(folder: Path, models: dict[str, str]) -> None:
    """Write the models' code and manifests into a folder."""
    for name, code in models.items():
        (folder / name).mkdir()
        (folder / name / f"{name}_code.py").write_text(textwrap.dedent(code))
        (folder / name / "model.toml").write_text(
            f'runtime = "python"\nqueue = 2\n[python]\nclass = "{name}_code:Model"\n'
        )


def events(body: bytes) -> list[tuple[str, str]]:
    """Parse server-sent events as (name, data)."""
    found = []
    for text in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        if "event" in fields:
            found.append((fields["event"], fields["data"]))
    return found


class TestCalls:
    """``/predict`` and ``/stream``."""

    async def test_a_call_returns_the_output_itself(self, caller: HttpCaller) -> None:
        """Headers carry everything else."""
        reply = await caller.post("/models/greet/predict", {"name": "Ada"}, X_Request_ID="r1")
        assert (reply.status, reply.json) == (200, {"text": "Dear Ada"})
        assert reply.headers["X-Model-Version"] == "1"
        assert reply.headers["X-Request-ID"] == "r1"
        assert "model;dur=" in reply.headers["Server-Timing"]

    @pytest.mark.parametrize(
        ("given", "field"),
        [({}, "name"), ({"name": 5}, "name"), ({"name": "x" * 11}, "name"), ({"name": "a", "tone": "sour"}, "tone"),
         ({"name": "a", "extra": 1}, "extra"), ([], "body"), ("text", "body")],
    )  # fmt: skip
    async def test_a_violation_of_the_schema_names_the_field(self, caller: HttpCaller, given: Any, field: str) -> None:
        """The response is 422, and the model never sees the input."""
        reply = await caller.post("/models/greet/predict", given)
        assert reply.outcome == (422, "invalid_input")
        assert reply.fields == [field]

    async def test_a_number_out_of_range_is_refused_and_its_field_named(self, caller: HttpCaller) -> None:
        body = b'{"name": "Ada", "tone": ["warm", -1e999]}'
        for path in ("predict", "stream"):
            reply = await caller.call("POST", f"/models/greet/{path}", body=body)
            assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["tone[1]"])
        job = b'{"owner_service": "tests", "task_type": "predict", "model_profile": "greet", "input": %b}' % body
        reply = await caller.call("POST", "/jobs", body=job)
        assert (reply.outcome, reply.fields) == ((422, "invalid_input"), ["input.tone[1]"])

    async def test_a_mistake_in_a_deep_value_is_refused(self, caller: HttpCaller) -> None:
        body = b'{"name": ' + b"[" * 450 + b"]" * 450 + b"}"
        for path in ("predict", "stream"):
            reply = await caller.call("POST", f"/models/greet/{path}", body=body)
            assert reply.outcome == (422, "invalid_input")
            assert "nested too deeply" in reply.json["detail"]

    @pytest.mark.parametrize("body", [b"{", b"\xff", b"nan", b"[" * 5000])
    async def test_malformed_json_is_refused(self, caller: HttpCaller, body: bytes) -> None:
        """The response is 400."""
        assert (await caller.call("POST", "/models/greet/predict", body=body)).outcome == (400, "malformed_body")

    async def test_unknown_names_are_404(self, caller: HttpCaller) -> None:
        """So are unknown versions."""
        assert (await caller.post("/models/none/predict", {})).outcome == (404, "not_found")
        assert (await caller.post("/models/greet/predict?version=9", {"name": "a"})).outcome == (404, "not_found")
        assert (await caller.get("/models/none")).status == 404

    async def test_an_unknown_name_suggests_the_one_that_was_meant(self, caller: HttpCaller) -> None:
        """The suggestion is part of the error's message."""
        reply = await caller.post("/models/great/predict", {})
        assert reply.json["detail"] == "there is no model 'great' here; did you mean greet?"

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/predict"), ("POST", "/stream"), ("GET", ""), ("GET", "/logs"), ("POST", "/reload")],
    )
    async def test_a_model_with_a_broken_manifest_reports_it(self, caller: HttpCaller, method: str, path: str) -> None:
        """The response is 503 with every mistake, and without any path of the server."""
        reply = await caller.call(method, f"/models/broken{path}", {} if method == "POST" else None)
        assert reply.outcome == (503, "model_broken")
        assert reply.json["detail"].startswith("model broken cannot be used: in its manifest broken.toml, ")
        assert set(reply.fields) == {"replikas", "replicas", "python.class", "python.clas"}
        folder = caller.parts.models.folder
        assert folder is not None
        assert str(folder.sources[0].root) not in reply.body.decode()

    async def test_a_job_for_a_broken_model_is_accepted_with_a_warning(self, caller: HttpCaller) -> None:
        """A worker elsewhere may serve it."""
        job = {"owner_service": "tests", "task_type": "predict", "model_profile": "broken", "input": {}}
        reply = await caller.post("/jobs", job)
        assert reply.status == 201
        (warning,) = reply.json["warnings"]
        assert warning.startswith("no worker has served the queue predict/broken: model broken cannot be used: ")
        (warning,) = (await caller.post("/jobs", job | {"model_profile": "great"})).json["warnings"]
        assert warning == "no worker has served the queue predict/great; did you mean greet?"

    async def test_an_exception_of_the_model_is_reported(self, caller: HttpCaller) -> None:
        """The report is one line, without a traceback."""
        reply = await caller.post("/models/greet/predict", {"name": "nobody"})
        assert reply.outcome == (500, "model_failed")
        assert reply.json["detail"] == "model greet: LookupError: there is nobody"

    async def test_a_stream_sends_chunks_and_ends(self, caller: HttpCaller) -> None:
        """It sends server-sent events, on predict too with ``Accept``, and a list without."""
        reply = await caller.post("/models/count/stream", {"n": 3})
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        received = events(reply.body)
        assert [data for name, data in received if name == "chunk"] == ["0", "1", "2"]
        assert [name for name, _ in received if name != "chunk"] == ["progress", "progress", "progress", "done"]
        same = await caller.post("/models/count/predict", {"n": 3}, Accept="text/event-stream")
        assert [name for name, _ in events(same.body)] == [name for name, _ in received]
        assert (await caller.post("/models/count/predict", {"n": 3})).json == [0, 1, 2]

    async def test_a_model_that_does_not_stream_sends_its_output_at_the_end(self, caller: HttpCaller) -> None:
        """The stream has the log lines too if the query requests them."""
        reply = await caller.post("/models/greet/stream?logs=true", {"name": "Ada"})
        received = dict(events(reply.body))
        assert '"message":"greeting Ada"' in received["log"]
        assert received["done"].startswith('{"output":{"text":"Dear Ada"},')

    async def test_a_stream_that_fails_half_way_reports_it(self, caller: HttpCaller) -> None:
        """The error is the last event; a stream that fails at once is a plain error."""
        reply = await caller.post("/models/count/stream", {"n": 2, "fail": True})
        assert reply.status == 200
        name, data = events(reply.body)[-1]
        assert name == "error"
        assert '"code":"model_failed"' in data
        assert (await caller.post("/models/count/stream", {"n": 0, "fail": True})).outcome == (500, "model_failed")

    async def test_a_client_that_leaves_ends_its_call(self, caller: HttpCaller, tmp_path: Path) -> None:
        """Streaming or not, the model is free for its next call."""
        for path in ("/models/count/stream", "/models/count/predict"):
            given = {"n": 1, "wait_for": str(tmp_path / "never")}
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.3):
                    await caller.post(path, given)
            assert (await caller.post("/models/count/predict", {"n": 1})).json == [0]

    async def test_a_full_queue_is_refused_with_the_time_to_retry_after(
        self, caller: HttpCaller, tmp_path: Path
    ) -> None:
        """The response is 503, at once."""
        gate = tmp_path / "gate"
        given = {"n": 1, "wait_for": str(gate)}
        model = caller.parts.models.host.find("count")
        await caller.post("/models/count/predict", {"n": 1})  # loads it; a call that waits for that takes a place
        waiting = [asyncio.create_task(caller.post("/models/count/predict", given))]
        await until(lambda: (model.in_flight, model.waiting) == (1, 0), "one runs")
        waiting += [asyncio.create_task(caller.post("/models/count/predict", given)) for _ in range(2)]
        await until(lambda: (model.in_flight, model.waiting) == (1, 2), "the queue is full")
        refused = await caller.post("/models/count/predict", given)
        assert refused.outcome == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.touch()
        assert [(await one).json for one in waiting] == [[0]] * 3


class TestMedia:
    """Files in and out."""

    DATA = bytes(range(256)) * 40

    async def test_bytes_in_and_bytes_out(self, caller: HttpCaller) -> None:
        """Raw bytes work where the model takes one file and returns one."""
        reply = await caller.call(
            "POST", "/models/mirror/predict", body=self.DATA, headers={"Content-Type": "image/png"}
        )
        assert reply.body == self.DATA[::-1]
        assert reply.headers["Content-Type"] == "image/x-mirrored"
        assert reply.headers["Content-Disposition"] == 'inline; filename="mirrored.img"'

    async def test_json_in_and_json_out(self, caller: HttpCaller) -> None:
        """Media are ``data:`` URLs in JSON."""
        url = "data:image/png;base64," + base64.b64encode(self.DATA).decode()
        reply = await caller.post("/models/mirror/predict", {"picture": url}, Accept="application/json")
        assert reply.json == "data:image/x-mirrored;base64," + base64.b64encode(self.DATA[::-1]).decode()

    async def test_uploads_are_named_by_their_ids(self, caller: HttpCaller) -> None:
        """Alone and in lists, each upload's type is checked, and a missing one is the caller's mistake."""
        form = aiohttp.FormData()
        form.add_field("file", b"GIF89a...", filename="cover.gif", content_type="image/gif")
        async with caller.session.post(f"{caller.address}/api/v1/blobs", data=form) as reply:
            cover = f"blob:{(await reply.json())['id']}"
        given = {"files": [cover, "data:text/plain,abc"], "cover": cover, "factor": 2}
        received = await caller.post("/models/measure/predict", given)
        assert received.json == {
            "sizes": [18, 6],
            "names": ["cover.gif", None],
            "cover": "data:image/gif;base64,R0lGODlhLi4u",
        }
        text = await caller.call("POST", "/blobs", body=b"words", headers={"Content-Type": "text/plain"})
        wrong = await caller.post("/models/measure/predict", {"files": [], "cover": f"blob:{text.json['id']}"})
        assert (wrong.outcome, wrong.fields) == ((422, "invalid_input"), ["cover"])
        nowhere = "blob:01990000-0000-7000-8000-000000000007"
        for field, missing in (("files[1]", {"files": [cover, nowhere]}), ("cover", {"files": [], "cover": nowhere})):
            refused = await caller.post("/models/measure/predict", missing)
            assert (refused.outcome, refused.fields) == ((422, "invalid_input"), [field])
            assert "there is no blob" in refused.json["errors"][0]["detail"]
        nested = await caller.post("/models/nest/predict", {"inside": {"picture": cover}, "several": [cover]})
        assert nested.json == [9]
        for odd in ("blob:", "blob:x", "blob:../etc"):
            assert (await caller.post("/models/measure/predict", {"files": [odd]})).status == 422
        assert (await caller.post("/models/greet/predict", {"name": "blob:x"})).json == {"text": "Dear blob:x"}

    async def test_uploads_are_found_at_any_depth(self, caller: HttpCaller) -> None:
        """A reference counts as one where the schema has media; elsewhere it is plain text."""
        blob = (await caller.call("POST", "/blobs", body=b"GIF89a...", headers={"Content-Type": "image/gif"})).json
        cover = f"blob:{blob['id']}"
        given = {
            "scenes": [
                {"title": cover, "pictures": {"a": cover, "none": None}},
                {
                    "layers": [
                        {"pictures": {"b": "data:image/gif,x", "c": cover}},
                        {"layers": [{"pictures": {"d": cover}}]},
                    ]
                },
            ],
            "extra": [cover],
        }
        assert (await caller.post("/models/scenes/predict", given)).json == [
            "0.a:9", "1.0.b:1", "1.0.c:9", "1.1.0.d:9", cover, "", "",
        ]  # fmt: skip
        nowhere = {"scenes": [{"layers": [{"pictures": {"x": "blob:01990000-0000-7000-8000-000000000007"}}]}]}
        assert (await caller.post("/models/scenes/predict", nowhere)).fields == ["scenes[0].layers[0].pictures.x"]

    async def test_the_number_and_the_depth_of_uploads_are_bounded(self, caller: HttpCaller) -> None:
        """This holds for calls and for jobs, before anything is read."""
        cover = "blob:01990000-0000-7000-8000-000000000007"
        many = {"files": [cover] * 101}
        deep: dict[str, Any] = {"pictures": {"a": cover}}
        for _ in range(40):
            deep = {"layers": [deep]}
        for model, given, field in (
            ("measure", many, "files[100]"),
            ("scenes", {"scenes": [deep]}, "scenes[0]" + ".layers[0]" * 15 + ".layers"),
        ):
            refused = await caller.post(f"/models/{model}/predict", given)
            assert (refused.outcome, refused.fields) == ((422, "invalid_input"), [field])
            job = {"owner_service": "tests", "task_type": "predict", "model_profile": model, "input": given}
            assert (await caller.post("/jobs", job)).fields == [f"input.{field}"]

    async def test_uploads_of_one_call_are_bounded_together(self, database_url: str, tmp_path: Path) -> None:
        """The bound also holds when one upload is named repeatedly."""
        put(tmp_path, {"measure": MODELS["measure"]})
        async with running_gateway(database_url, models_folder=tmp_path, penstock_max_call_bytes=100_000) as caller:
            blob = (await caller.call("POST", "/blobs", body=bytes(40_000))).json["id"]
            few = await caller.post("/models/measure/predict", {"files": [f"blob:{blob}"] * 2})
            assert few.json["sizes"] == [40_000, 40_000]
            many = await caller.post("/models/measure/predict", {"files": [f"blob:{blob}"] * 3})
            assert (many.outcome, many.fields) == ((422, "invalid_input"), ["files[2]"])

    async def test_an_upload_whose_store_is_away_fails_as_unavailable(self, database_url: str, tmp_path: Path) -> None:
        """It is not the caller's mistake, so a job waits for the store."""
        (tmp_path / "models").mkdir()
        put(tmp_path / "models", {"measure": MODELS["measure"]})
        folder = tmp_path / "blobs"
        async with running_gateway(
            database_url,
            models_folder=tmp_path / "models",
            penstock_blob_url=folder.as_uri(),
            penstock_blob_inline_bytes=10_000,
        ) as caller:
            blob = (await caller.call("POST", "/blobs", body=bytes(40_000))).json["id"]
            folder.rename(tmp_path / "unmounted")
            away = await caller.post("/models/measure/predict", {"files": [f"blob:{blob}"]})
            assert away.outcome == (503, "blob_store_unavailable")
            assert failure_of(BlobStoreUnavailable()).category is Category.RATE_LIMITED
            (tmp_path / "unmounted").rename(folder)
            there = await caller.post("/models/measure/predict", {"files": [f"blob:{blob}"]})
            assert there.json["sizes"] == [40_000]

    async def test_invalid_input_with_many_values_is_refused_quickly(self, caller: HttpCaller) -> None:
        """No mistake is explained: finding every one among a million takes the validator a minute."""
        refused = await caller.post("/models/nest/predict", {"inside": {"picture": "data:,"}, "many": [""] * 200_000})
        assert (refused.outcome, refused.fields) == ((422, "invalid_input"), ["body"])
        few = await caller.post("/models/nest/predict", {"inside": {"picture": "data:image/gif,"}, "many": [1, ""]})
        assert few.fields == ["many[1]"]

    async def test_a_form(self, caller: HttpCaller) -> None:
        """Several files of one name form a list; text is converted to the type in the schema."""
        form = aiohttp.FormData()
        form.add_field("files", b"12345", filename="a.bin", content_type="application/octet-stream")
        form.add_field("files", b"123", filename="b.txt", content_type="text/plain")
        form.add_field("cover", b"GIF", filename="c.gif", content_type="image/gif")
        form.add_field("factor", "10")
        async with caller.session.post(f"{caller.address}/api/v1/models/measure/predict", data=form) as reply:
            assert reply.status == 200, await reply.text()
            assert await reply.json() == {
                "sizes": [50, 30],
                "names": ["a.bin", "b.txt"],
                "cover": "data:image/gif;base64,R0lG",
            }

    async def test_files_of_unknown_type(self, caller: HttpCaller) -> None:
        """Curl sends files of types that it does not know in this way."""
        form = aiohttp.FormData()
        form.add_field("files", b"12345", filename="a", content_type="application/octet-stream")
        form.add_field("cover", b"\x89PNG\r\n\x1a\n", filename="cover", content_type="application/octet-stream")
        async with caller.session.post(f"{caller.address}/api/v1/models/measure/predict", data=form) as reply:
            assert reply.status == 200, await reply.text()
            assert (await reply.json())["cover"] == "data:image/png;base64,iVBORw0KGgo="

    @pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded"])
    async def test_bytes_without_a_type_are_recognised_by_their_first_bytes(
        self, caller: HttpCaller, content_type: str | None
    ) -> None:
        """``curl --data-binary @red.png`` sends such bytes; JSON without a type stays JSON."""

        async def send(model: str, body: bytes) -> Reply:
            async with caller.session.post(
                f"{caller.address}/api/v1/models/{model}/predict",
                data=body,
                headers={} if content_type is None else {"Content-Type": content_type},
                skip_auto_headers=["Content-Type"],
            ) as reply:
                return Reply(status=reply.status, headers=reply.headers, body=await reply.read())

        picture = b"\x89PNG\r\n\x1a\n" + self.DATA
        mirrored = await send("mirror", picture)
        assert (mirrored.status, mirrored.body) == (200, picture[::-1])
        assert (await send("greet", b'{"name": "Ada"}')).json == {"text": "Dear Ada"}
        refused = await send("greet", picture)
        assert refused.outcome == (415, "unsupported")
        assert "takes no file" in refused.json["detail"]
        unknown = await send("mirror", b"\xfe\x00\x01")
        assert unknown.outcome == (415, "unsupported")
        assert "Content-Type" in unknown.json["detail"]
        assert (await send("mirror", b"word")).outcome == (400, "malformed_body")

    async def test_a_form_with_json_and_a_wrong_file(self, caller: HttpCaller) -> None:
        """The part ``input`` holds other fields as JSON; a file of the wrong type names its field."""
        form = aiohttp.FormData()
        form.add_field("input", '{"factor": 2}', content_type="application/json")
        form.add_field("files", b"12345", filename="a.bin")
        form.add_field("cover", b"RIFF", filename="c.wav", content_type="audio/wav")
        async with caller.session.post(f"{caller.address}/api/v1/models/measure/predict", data=form) as reply:
            problem = await reply.json()
        assert reply.status == 422
        assert [mistake["field"] for mistake in problem["errors"]] == ["cover"]

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=abc", b"--abc\r\nnonsense"),
            ("multipart/form-data; boundary=abc", b'--abc\r\nContent-Disposition: form-data; name="a"\r\n\r\nhalf'),
            ("multipart/form-data; boundary=abc", b"--abc\r\nContent-Disposition: form-data\r\n\r\nx\r\n--abc--\r\n"),
        ],
    )
    async def test_a_broken_form_is_refused(self, caller: HttpCaller, kind: str, body: bytes) -> None:
        """The response is 400 with a clear message."""
        reply = await caller.call("POST", "/models/measure/predict", body=body, headers={"Content-Type": kind})
        assert reply.outcome == (400, "malformed_body")

    async def test_bytes_for_a_model_without_a_file_are_refused(self, caller: HttpCaller) -> None:
        """Text that is not JSON is refused, too."""
        for kind in ("image/png", "text/csv"):
            reply = await caller.call("POST", "/models/greet/predict", body=b"x", headers={"Content-Type": kind})
            assert reply.outcome == (415, "unsupported")


class TestReading:
    """Lists, details, logs."""

    async def test_the_list_names_models_and_broken_manifests(self, caller: HttpCaller) -> None:
        """The list includes what is wrong with the manifests."""
        page = (await caller.get("/models")).json
        assert [model["name"] for model in page["models"] if model["source"] == "folder"] == sorted(MODELS)
        assert page["problems"].keys() == {"broken.toml", "pipe.toml"}
        assert "replicas: expected `int` >= 1" in page["problems"]["broken.toml"]
        assert page["problems"]["pipe.toml"] == "manifest: must be a regular file"

    async def test_a_model_shows_its_schema_state_and_counters(self, caller: HttpCaller) -> None:
        """The details have versions, replicas and counters."""
        await caller.post("/models/greet/predict", {"name": "Ada"})
        model = (await caller.get("/models/greet")).json
        assert model["description"] == "Greets."
        assert model["state"] == "ready"
        assert model["input_schema"]["required"] == ["name"]
        (version,) = model["details"]
        assert version["counts"]["completed"] >= 1
        assert [replica["state"] for replica in version["replicas"]] == ["ready"]

    async def test_logs_are_filtered_and_cleaned(self, caller: HttpCaller) -> None:
        """The filters are request, level and time."""
        await caller.post("/models/greet/predict", {"name": "Eve"}, X_Request_ID="findme")
        lines = (await caller.get("/models/greet/logs?request_id=findme")).json["lines"]
        assert [line["message"] for line in lines] == ["greeting Eve"]
        assert (await caller.get("/models/greet/logs?request_id=findme&level=error")).json["lines"] == []
        later = lines[0]["time"].replace("Z", "%2B00:00")
        assert len((await caller.get(f"/models/greet/logs?request_id=findme&since={later}")).json["lines"]) == 1
        assert (await caller.get(f"/models/greet/logs?request_id=findme&until={later}")).json["lines"] == []
        assert (await caller.get("/models/greet/logs?level=loud")).fields == ["level"]
        assert (await caller.call("DELETE", "/models/greet/logs")).json["cleared"] >= 1
        assert (await caller.get("/models/greet/logs")).json["lines"] == []

    async def test_logs_can_be_followed(self, caller: HttpCaller) -> None:
        """Lines arrive as they are written."""
        url = f"{caller.address}/api/v1/models/greet/logs?follow=true&request_id=live"
        async with caller.session.get(url) as reply:
            await caller.post("/models/greet/predict", {"name": "Bob"}, X_Request_ID="live")
            async with asyncio.timeout(5):
                async for line in reply.content:
                    if b"greeting Bob" in line:
                        break


class TestRegistration:
    """Registration of models at run time."""

    async def test_a_remote_server_becomes_a_model(self, caller: HttpCaller) -> None:
        """It is called like every other model, replaced and removed; other gateways on the database follow."""
        async with running(upper) as address:
            stated = {"name": "upper", "runtime": "http", "http": {"url": f"{address}/upper"}}
            assert (await caller.post("/models", stated)).status == 201
            assert (
                await caller.post("/models", stated)
            ).status == 201  # registering the same model again changes nothing
            assert (await caller.post("/models/upper/predict", {"text": "a"})).json == {"text": "A"}
            other = stated | {"description": "another"}
            assert (await caller.post("/models", other)).outcome == (409, "already_exists")
            assert (await caller.post("/models?replace=true", other)).status == 201
            assert (await caller.get("/models/upper")).json["description"] == "another"
            database = caller.parts.models._registrations._database
            assert database is not None
            async with database.acquire() as connection:
                assert await connection.fetchval("SELECT count(*) FROM model WHERE name = 'upper' AND NOT removed") == 1
            assert (await caller.call("DELETE", "/models/upper")).status == 204
            assert (await caller.post("/models/upper/predict", {})).status == 404

    async def test_registered_models_survive_a_restart_and_reach_other_gateways(self, database_url: str) -> None:
        """Removed models stay removed."""
        async with running(upper) as address:
            stated = {"name": "upper", "runtime": "http", "http": {"url": f"{address}/upper"}}
            async with running_gateway(database_url) as one, running_gateway(database_url) as two:
                await one.post("/models", stated)

                async def known() -> bool:
                    return (await two.get("/models/upper")).status == 200

                await until(known, "the other gateway has it")
                assert (await two.post("/models/upper/predict", {"text": "b"})).json == {"text": "B"}
            async with running_gateway(database_url) as again:

                async def back() -> bool:
                    return (await again.get("/models/upper")).status == 200

                await until(back, "it is there after a restart")

    async def test_a_model_that_cannot_be_stored_changes_nothing(
        self, caller: HttpCaller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The model that was to be replaced continues."""

        async def away(*_: object) -> None:
            raise DatabaseUnavailable

        async with running(upper) as address:
            stated = {"name": "kept", "runtime": "http", "http": {"url": f"{address}/upper"}}
            assert (await caller.post("/models", stated)).status == 201
            with monkeypatch.context() as patched:
                patched.setattr(store, "put", away)
                changed = stated | {"description": "changed"}
                assert (await caller.post("/models?replace=true", changed)).status == 503
                assert (await caller.post("/models", stated | {"name": "new"})).status == 503
                assert (await caller.call("DELETE", "/models/kept")).status == 503
            assert (await caller.get("/models/new")).status == 404
            assert (await caller.get("/models/kept")).json["description"] == ""
            assert (await caller.post("/models/kept/predict", {"text": "b"})).json == {"text": "B"}
            assert (await caller.call("DELETE", "/models/kept")).status == 204

    @pytest.mark.parametrize(
        ("stated", "field"),
        [
            ({"name": "x", "runtime": "python", "python": {"class": "os:system"}}, "runtime"),
            ({"name": "x", "runtime": "subprocess", "subprocess": {"command": ["/bin/sh"]}}, "runtime"),
            ({"name": "x", "runtime": "native", "native": {"library": "/lib/libc.so.6"}}, "runtime"),
            ({"name": "../x", "runtime": "http", "http": {"url": "http://127.0.0.1:1"}}, "name"),
            ({"name": "x", "runtime": "http", "http": {"url": "file:///etc/passwd"}}, "http.url"),
            ({"name": "x", "runtime": "http"}, "http.url"),
            ({"name": "x", "runtime": "http", "http": {"url": "http://127.0.0.1:1"}, "replicas": 0}, "replicas"),
            ({"name": "x", "runtime": "http", "http": {"url": "http://169.254.169.254/"}}, "http.url"),
            ({"name": "x", "command": "/bin/sh"}, "command"),
            ({"runtime": "http"}, "name"),
            (
                {"name": "x", "runtime": "http", "http": {"url": "http://h"}, "environment": {"LD_PRELOAD": "x.so"}},
                "environment",
            ),
            ({"name": "x", "runtime": "http", "http": {"url": "http://h"}, "folder": "/etc"}, "folder"),
            ({"name": "x", "runtime": "http", "http": {"url": "http://h"}, "replicas": 200}, "replicas"),
        ],
    )
    async def test_forbidden_registrations_are_refused(
        self, caller: HttpCaller, stated: dict[str, Any], field: str
    ) -> None:
        """Code and commands come from the operator's folder only; every mistake names its field."""
        reply = await caller.post("/models", stated)
        assert reply.status == 422, reply.body
        assert field in reply.fields

    async def test_a_model_of_the_folder_can_be_removed_and_restored_by_name(self, caller: HttpCaller) -> None:
        """The model's manifest is not touched."""
        assert (await caller.call("DELETE", "/models/measure")).status == 204
        assert (await caller.get("/models/measure")).status == 404
        assert (await caller.post("/models", {"name": "measure"})).status == 201
        assert (await caller.get("/models/measure")).status == 200
        assert (await caller.post("/models", {"name": "never"})).outcome == (404, "not_found")

    async def test_a_model_that_was_removed_is_listed_as_such(self, caller: HttpCaller) -> None:
        """It hides a model of the folder, which would not be visible otherwise."""
        assert (await caller.call("DELETE", "/models/greet")).status == 204
        try:
            assert "was removed" in (await caller.get("/models")).json["problems"]["greet/model.toml"]
        finally:
            assert (await caller.post("/models", {"name": "greet"})).status == 201
        assert (await caller.get("/models")).json["problems"].keys() == {"broken.toml", "pipe.toml"}

    async def test_no_caller_takes_over_the_name_of_a_model_of_the_folder(self, caller: HttpCaller) -> None:
        """The name is protected in every version."""
        stated = {"name": "greet", "version": "99", "runtime": "http", "http": {"url": "http://127.0.0.1:1"}}
        for replace in ("", "?replace=true"):
            assert (await caller.post(f"/models{replace}", stated)).outcome == (409, "already_exists")
        assert (await caller.call("DELETE", "/models/greet")).status == 204
        try:
            assert (await caller.post("/models", stated)).outcome == (409, "already_exists")
        finally:
            assert (await caller.post("/models", {"name": "greet"})).status == 201

    async def test_no_caller_takes_over_the_name_of_a_broken_manifest(self, caller: HttpCaller) -> None:
        """The name belongs to the operator, who will repair the manifest."""
        stated = {"name": "broken", "runtime": "http", "http": {"url": "http://127.0.0.1:1"}}
        assert (await caller.post("/models", stated)).outcome == (409, "already_exists")

    @pytest.mark.parametrize("version", [[1], {}, 7, None])
    async def test_an_odd_version_of_a_broken_manifest_is_refused(self, caller: HttpCaller, version: Any) -> None:
        """The error is the caller's, or names what is wrong with the manifest."""
        reply = await caller.post("/models", {"name": "broken", "version": version})
        assert reply.outcome in {(404, "not_found"), (422, "invalid_input"), (503, "model_broken")}

    async def test_a_model_removed_while_it_is_replaced_stays_removed(self, caller: HttpCaller) -> None:
        """It is gone from the host and from the table, which would restore it."""
        service = caller.parts.models
        async with running(upper) as address:
            stated = {"name": "fleeting", "runtime": "http", "http": {"url": f"{address}/upper"}}
            await service.add(stated)
            await asyncio.gather(
                service.add(stated | {"description": "another"}, replace=True), service.remove("fleeting")
            )
            assert (None, "fleeting") not in service.host.entries
            database = service._registrations._database
            assert database is not None
            async with database.acquire() as connection:
                assert await connection.fetchval("SELECT removed FROM model WHERE name = 'fleeting'")
            first, second = await asyncio.gather(service.add(stated), service.add(stated))
            assert first is second
            await service.remove("fleeting")

    async def test_a_reload_and_a_changed_folder(self, database_url: str, tmp_path: Path) -> None:
        """New manifests are loaded, changed ones replaced, deleted ones unloaded; a reload reads the code again."""
        code = "class Model:\n    def predict(self) -> str:\n        return 'one'\n"
        (tmp_path / "say").mkdir()
        (tmp_path / "say" / "say_code.py").write_text(code)
        manifest = 'runtime = "python"\n[python]\nclass = "say_code:Model"\n'
        (tmp_path / "say" / "model.toml").write_text(manifest)
        async with running_gateway(database_url, models_folder=tmp_path) as caller:
            assert (await caller.post("/models/say/predict", {})).json == "one"
            (tmp_path / "say" / "say_code.py").write_text(code.replace("one", "two"))
            assert (await caller.post("/models/say/reload")).status == 200
            assert (await caller.post("/models/say/predict", {})).json == "two"
            (tmp_path / "say" / "say_code.py").write_text("class")
            refused = await caller.post("/models/say/reload")
            assert refused.outcome == (503, "model_unavailable")
            assert "SyntaxError" in refused.json["detail"]
            assert (await caller.post("/models/say/predict", {})).json == "two"

            (tmp_path / "say" / "say_code.py").write_text(code.replace("one", "three"))
            (tmp_path / "say" / "model.toml").write_text('version = "2"\n' + manifest)

            async def returns_three() -> bool:
                return (await caller.post("/models/say/predict", {})).body == b'"three"'

            await until(returns_three, "the changed manifest is used")
            (tmp_path / "say" / "model.toml").write_text('version = "2"\nclas = 3\n' + manifest)

            async def problem() -> bool:
                return "say/model.toml" in (await caller.get("/models")).json["problems"]

            await until(problem, "its mistake is reported")
            assert (await caller.post("/models/say/predict", {})).json == "three"
            assert (await caller.post("/models/say/reload")).outcome == (422, "invalid_input")
            (tmp_path / "say" / "model.toml").write_text('version = "2"\n' + manifest)
            native = tmp_path / "late.toml"
            native.write_text('runtime = "native"\n[native]\nlibrary = "./liblate.so"\n')

            async def refused_manifest(wanted: bool) -> bool:
                return ("late.toml" in (await caller.get("/models")).json["problems"]) is wanted

            await until(lambda: refused_manifest(True), "a missing library is reported")
            (tmp_path / "liblate.so").write_bytes(b"")
            await until(lambda: refused_manifest(False), "it is there now")
            (tmp_path / "say" / "model.toml").unlink()

            async def gone() -> bool:
                return (await caller.get("/models/say")).status == 404

            await until(gone, "a deleted manifest takes its model along")


class TestBackendDocument:
    """``/{get|post}/{operation}?id=``: the AI Backend document's interface."""

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("prefix", ["get", "post"])
    async def test_predict(self, caller: HttpCaller, method: str, prefix: str) -> None:
        """Both methods work on both paths and return the model's own output."""
        body = b'{"name": "Ada"}'
        reply = await caller.call(method, f"/{prefix}/predict?id=greet", body=body)
        assert (reply.status, reply.json) == (200, {"text": "Dear Ada"})

    @pytest.mark.parametrize(
        ("query", "content"),
        [
            ("", "No model with matching id. Given id is empty: "),
            ("?id=", "No model with matching id. Given id is empty: "),
            ("?id=a/b", "Not an id: a/b"),
            ("?id=nothing", "id is not registered: nothing"),
        ],
    )
    async def test_wrong_ids(self, caller: HttpCaller, query: str, content: str) -> None:
        """The errors have the document's own bodies."""
        reply = await caller.call("POST", f"/post/predict{query}", body=b"{}")
        assert (reply.status, reply.json) == (400, {"content": content})

    async def test_failures(self, caller: HttpCaller) -> None:
        """Failures are reported as ``error``."""
        reply = await caller.call("POST", "/post/predict?id=greet", body=b'{"name": "nobody"}')
        assert reply.status == 500
        assert list(reply.json) == ["error"]
        reply = await caller.call("POST", "/post/predict?id=greet", body=b'{"name": 1}')
        assert (reply.status, list(reply.json)) == (422, ["error"])
        reply = await caller.call("POST", "/post/paint?id=greet", body=b"{}")
        assert reply.status == 404
        assert reply.json["content"].startswith("Unknown operation: paint")

    async def test_logs(self, caller: HttpCaller) -> None:
        """Logs are returned as JSON, and cleared."""
        await caller.call("POST", "/post/predict?id=greet", body=b'{"name": "Ada"}')
        reply = await caller.call("GET", "/get/getlogs?id=greet")
        assert reply.json["logs"][-1]["message"] == "greeting Ada"
        assert (await caller.call("GET", "/get/cleanlogs?id=greet")).json["logs"] == []
        assert (await caller.call("GET", "/get?id=greet")).json == {"logs": []}

    async def test_addmodel_as_the_document_writes_it(self, caller: HttpCaller) -> None:
        """The document has two question marks, and quotes around the destination."""
        async with running(upper) as address:
            host = address.removeprefix("http://")
            path = f'/post/addmodel?id=myverygoodmodel?type=httpmodel?dest="{host}"'
            reply = await caller.call("POST", path.replace('"', "%22"))
            assert reply.status == 200, reply.body
            reply = await caller.call("POST", "/post/predict?id=myverygoodmodel", body=b'{"text": "x"}')
            assert reply.json == {"text": "X"}
            named = await caller.call("POST", "/post/addmodel?id=mirror&type=SubprocessModel")
            assert named.status == 409  # it is there already
            for wrong in ("id=x&type=carrier-pigeon", "id=x", "id=x&dest="):
                assert (await caller.call("POST", f"/post/addmodel?{wrong}")).status == 422


async def upper(request: web.Request) -> web.Response:
    """Respond as a model's server in the document does: take JSON by POST at any path and return upper case."""
    given = await request.json()
    return web.json_response({"text": str(given["text"]).upper()})
