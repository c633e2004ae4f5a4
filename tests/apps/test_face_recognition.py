"""The flow of the app face-recognition, on stand-ins for its two models and on real collections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.failures import Category
from penstock.flows.program.folders import FlowFolders
from penstock.jobs.job import Job
from penstock.jobs.states import Status
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.work.context import JobContext
from penstock.work.executor import ExecutionError
from penstock.work.executors import Offer
from penstock.workers.collections import CollectionJobs
from penstock.workers.embeddings import EmbeddingJobs
from penstock.workers.predict import Served
from tests.support.collections import collection_service
from tests.support.databases import open_database, own_tenant, query
from tests.support.flow_runners import running
from tests.support.jobs import JobCaller, job_service
from tests.support.waiting import within

APPS = Path(__file__).parents[2] / "apps"
FACE = {
    "left": 10,
    "top": 10,
    "width": 100,
    "height": 100,
    "score": 2.0,
    "sharpness": 500.0,
    "inside": 1.0,
    "tilt": 0.0,
}
UNREADABLE = "blob:00000000-0000-7000-8000-000000000000"


class Gallery:
    """Pictures whose faces are known, and the models that know them: a face's vector is 128 times one number."""

    def __init__(self, caller: JobCaller, database: Database) -> None:
        self.caller = caller
        self.collections = collection_service(database)
        self._faces: dict[str, list[dict[str, Any]]] = {}
        self._numbers: dict[tuple[str, int], float] = {}

    async def picture(self, *numbers: float, **quality: Any) -> str:
        """Upload a picture with a face for each number, of this quality."""

        async def data() -> AsyncIterator[bytes]:
            yield b"a picture"

        blob = await self.collections._blobs.put(self.caller.tenant, data(), media_type="image/png", filename="p.png")
        name = f"blob:{blob.id}"
        self._faces[name] = [{**FACE, "left": 200 * index, **quality} for index in range(len(numbers))]
        self._numbers |= {(name, 200 * index): number for index, number in enumerate(numbers)}
        return name

    async def detect(self, job: ClaimedJob, _context: JobContext) -> object:
        given = msgspec.json.decode(job.input)
        if given["image"] not in self._faces:
            raise ExecutionError(Category.BAD_INPUT, "input.image: the image/png cannot be read as a picture")
        return {"width": 640, "height": 480, "smallest": 60, "faces": self._faces[given["image"]]}

    async def names(self) -> AsyncIterator[Mapping[str, Served]]:
        yield {}

    async def predict(self, name: str, job: ClaimedJob, _context: JobContext) -> bytes:
        assert name == "face-embedder"
        given = msgspec.json.decode(job.input)
        number = self._numbers[given["image"], given["box"]["left"]]
        return msgspec.json.encode({"vector": [number / 128**0.5] * 128, "box": given["box"]})

    async def call(self, flow: str = "face-recognition", **values: Any) -> Any:
        """Run a flow to its end; returns its result or, if it failed, its error."""
        job = await self.caller.submit(task_type="flow", model_profile=f"{flow}@1", input=msgspec.json.encode(values))
        ended: Job = await within(self.caller.service.of(self.caller.tenant).wait(job.id, timedelta(seconds=50)), 60)
        if ended.status is Status.COMPLETED:
            return msgspec.json.decode(ended.result or b"null")
        return ended.error


@pytest.fixture(scope="module")
async def everything(module_database_url: str) -> AsyncIterator[Gallery]:
    async with open_database(module_database_url) as database, job_service(database) as service:
        gallery = Gallery(JobCaller(service, await own_tenant(database)), database)
        detector = Offer(executor=gallery.detect, task_types=("predict",), model_profiles=("face-detector",))
        embedding = Offer(
            executor=EmbeddingJobs(gallery.collections, gallery, "face-embedder"),
            task_types=("embed-upsert", "embed-search"),
            model_profiles=("face-embedder",),
        )
        offers = [detector, embedding, CollectionJobs(gallery.collections).offer]
        async with running(service, database, FlowFolders(apps=APPS), jobs=False, offers=offers):
            yield gallery


@pytest.fixture
async def gallery(everything: Gallery, module_database_url: str) -> Gallery:
    """The calls of a tenant of this test's own."""
    async with open_database(module_database_url, max_size=1) as database:
        everything.caller = JobCaller(everything.caller.service, await own_tenant(database))
    return everything


async def test_enrolled_persons_are_recognised_until_they_are_forgotten(gallery: Gallery) -> None:
    ada = [await gallery.picture(1.0), await gallery.picture(1.2)]
    assert len((await gallery.call(operation="enrol", person="Ada", pictures=ada))["enrolled"]) == 2
    await gallery.call(operation="enrol", person="Bob", pictures=[await gallery.picture(5.0)])
    listed = await gallery.call(operation="list")
    assert listed["persons"] == [{"person": "Ada", "faces": 2}, {"person": "Bob", "faces": 1}]
    group = await gallery.picture(5.1, 1.3, 9.0)
    found = await gallery.call(operation="recognise", picture=group)
    assert [(face["person"], face["box"]["left"]) for face in found["faces"]] == [("Bob", 0), ("Ada", 200), (None, 400)]
    assert [face["distance"] for face in found["faces"]] == [pytest.approx(0.1), pytest.approx(0.1), None]
    strict = await gallery.call(operation="recognise", picture=group, threshold=0.05)
    assert [face["person"] for face in strict["faces"]] == [None] * 3
    gone = await gallery.call(operation="forget", person="Ada")
    assert (gone["faces"], gone["pictures"]) == (2, 2)
    found = await gallery.call(operation="recognise", picture=group)
    assert [face["person"] for face in found["faces"]] == ["Bob", None, None]
    assert (await gallery.call(operation="forget", person="Ada"))["faces"] == 0


async def tables_with(url: str, tenant: int, text: str) -> set[str]:
    """Return the tables in which a row of the tenant holds a text, plain or as bytes."""
    async with open_database(url) as database:
        named = await query(
            database,
            "SELECT c.table_name::text FROM information_schema.columns c JOIN information_schema.tables t"
            " USING (table_schema, table_name) WHERE c.table_schema = 'penstock' AND c.column_name = 'tenant_id'"
            " AND t.table_type = 'BASE TABLE'",
        )
        found = set()
        for (table,) in named:
            rows = await query(database, f"SELECT t::text FROM {table} t WHERE tenant_id = $1", tenant)
            if any(text in row or text.encode().hex() in row for (row,) in rows):
                found.add(table)
        return found


async def test_nothing_but_the_collection_holds_vectors(gallery: Gallery, module_database_url: str) -> None:
    number, tenant = 3.14159 / 128**0.5, gallery.caller.tenant
    await gallery.call(operation="enrol", person="Ada", pictures=[await gallery.picture(3.14159)])
    await gallery.call(operation="recognise", picture=await gallery.picture(3.14159))
    assert await tables_with(module_database_url, tenant, str(number)[:6]) == {"collection_item"}
    await gallery.call(operation="forget", person="Ada")
    assert await tables_with(module_database_url, tenant, str(number)[:6]) == set()
    await gallery.call("face-search", gallery="default", vector=[number] * 128)
    assert "job" in await tables_with(module_database_url, tenant, str(number)[:6]), "an input that holds it is found"


async def test_pictures_that_cannot_be_enrolled_are_refused_with_the_reason(gallery: Gallery) -> None:
    await gallery.call(operation="enrol", person="Bob", pictures=[await gallery.picture(5.0)])
    cases = {
        "no face was found": await gallery.picture(),
        "it shows 2 faces": await gallery.picture(1.0, 2.0),
        "is 50 pixels wide": await gallery.picture(1.0, width=50),
        "blurred": await gallery.picture(1.0, sharpness=3.0),
        "outside the picture": await gallery.picture(1.0, inside=0.5),
        "tilted by 44 degrees": await gallery.picture(1.0, tilt=-44.0),
        "cannot be read": UNREADABLE,
        "it looks like Bob": await gallery.picture(5.2),
    }
    good = await gallery.picture(1.0)
    duplicate = await gallery.picture(1.01)
    odd = await gallery.picture(2.9)
    pictures = [*cases.values(), good, duplicate, odd]
    result = await gallery.call(operation="enrol", person="Ada", pictures=pictures)
    reasons = {one["picture"]: one["reason"] for one in result["refused"]}
    for words, picture in cases.items():
        assert words in reasons.pop(picture)
    assert "duplicate" in reasons.pop(duplicate)
    assert not reasons
    taken = [(one["picture"], one["unlike_the_others"]) for one in result["enrolled"]]
    assert taken == [(good, False), (odd, True)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"operation": "enrol", "person": "Ada"}, "pictures: is required by the operation enrol"),
        ({"operation": "list", "person": "Ada"}, "person: is not used by the operation list"),
        ({"operation": "recognise", "picture": "blob:none", "gallery": "../x"}, "gallery"),
        (
            {"operation": "enrol", "person": "Ada", "pictures": ["data:image/png;base64,eA=="]},
            "pictures",
        ),
        ({"operation": "recognise", "picture": "data:image/png;base64,eA=="}, "picture"),
        ({"operation": "recognise", "picture": UNREADABLE}, "picture: the image/png cannot be read"),
        ({"operation": "forget", "person": "Ada", "gallery": "none"}, "gallery: there is no collection faces.none"),
        ({"operation": "list", "gallery": "none"}, "gallery: there is no collection faces.none"),
    ],
)
async def test_wrong_requests_name_the_field(gallery: Gallery, values: dict[str, Any], message: str) -> None:
    error = await gallery.call(**values)
    assert error.category == Category.BAD_INPUT
    assert message in error.message


async def test_the_small_apps_return_what_their_models_do(gallery: Gallery) -> None:
    picture = await gallery.picture(1.0)
    assert (await gallery.call("face-detection", picture=picture))["faces"] == [FACE | {"left": 0}]
    await gallery.call(operation="enrol", gallery="g", person="Ada", pictures=[picture])
    near = await gallery.call("face-search", gallery="g", vector=[1.1 / 128**0.5] * 128)
    assert near == [{"person": "Ada", "distance": pytest.approx(0.1, abs=1e-5)}]
    assert (await gallery.call("face-search", gallery="g", vector=[9.0] * 128)) == []
