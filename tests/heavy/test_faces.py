"""The models of the face apps on real pictures, in their environments; and the demonstration as a whole."""

from __future__ import annotations

import base64
import io
import math
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, create_subprocess_exec
from pathlib import Path
from typing import Any

import aiohttp
import PIL.Image
import PIL.ImageFilter
import pytest

from examples.faces.pictures import FACE_RECOGNITION, SCIKIT_IMAGE, ULTRALYTICS, fetch
from penstock.client import Client
from penstock.errors import InvalidInput
from penstock.models import manifest
from penstock.models.host.deployment import Deployment
from penstock.supervisor.ports import free_port
from tests.support.models import Models
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until, within

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pictures() -> dict[str, Path]:
    return fetch([FACE_RECOGNITION, SCIKIT_IMAGE, ULTRALYTICS])


def picture(paths: dict[str, Path], name: str) -> PIL.Image.Image:
    return PIL.Image.open(paths[name]).convert("RGB")


def url(image: PIL.Image.Image, **options: Any) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


async def model(models: Models, app: str, name: str) -> Deployment:
    return await models.host.add(manifest.read(ROOT / "apps" / app / "models" / name / "model.toml"))


async def test_faces_of_one_person_are_near_and_those_of_others_far(models: Models, pictures: dict[str, Path]) -> None:
    detector = await model(models, "face-detection", "face-detector")
    embedder = await model(models, "face-embedding", "face-embedder")
    vectors = {}
    for name in ("obama.jpg", "obama2.jpg", "biden.jpg", "astronaut.png"):
        image = url(picture(pictures, name))
        found = await models.call(detector, {"image": image})
        (face, *_) = found["faces"]
        assert face["inside"] == 1.0
        assert face["sharpness"] > 50
        box = {key: face[key] for key in ("left", "top", "width", "height")}
        vectors[name] = (await models.call(embedder, {"image": image, "box": box}))["vector"]
        assert len(vectors[name]) == 128
    assert math.dist(vectors["obama.jpg"], vectors["obama2.jpg"]) < 0.5
    for other in ("biden.jpg", "astronaut.png"):
        assert math.dist(vectors["obama.jpg"], vectors[other]) > 0.6


async def test_a_picture_is_turned_as_its_exif_data_says(models: Models, pictures: dict[str, Path]) -> None:
    detector = await model(models, "face-detection", "face-detector")
    upright = picture(pictures, "obama2.jpg").resize((313, 600))
    exif = PIL.Image.Exif()
    exif[0x0112] = 8  # to be turned by a quarter to the left
    turned = url(upright.rotate(-90, expand=True), exif=exif)
    assert await models.call(detector, {"image": turned}) == await models.call(detector, {"image": url(upright)})


async def test_quality_is_measured(models: Models, pictures: dict[str, Path]) -> None:
    detector = await model(models, "face-detection", "face-detector")
    sharp = picture(pictures, "obama.jpg").resize((455, 568))
    (face,) = (await models.call(detector, {"image": url(sharp)}))["faces"]
    (blurred,) = (await models.call(detector, {"image": url(sharp.filter(PIL.ImageFilter.GaussianBlur(4)))}))["faces"]
    assert blurred["sharpness"] < 50 < face["sharpness"]
    (cut,) = (await models.call(detector, {"image": url(picture(pictures, "obama_partial_face.jpg"))}))["faces"]
    assert cut["inside"] < 0.9


async def test_pictures_without_faces_or_of_no_use_get_clear_errors(models: Models, pictures: dict[str, Path]) -> None:
    detector = await model(models, "face-detection", "face-detector")
    embedder = await model(models, "face-embedding", "face-embedder")
    empty = url(PIL.Image.new("RGB", (300, 300), "grey"))
    assert (await models.call(detector, {"image": empty}))["faces"] == []
    bomb = PIL.Image.new("1", (12_000, 12_000))
    wrong = [
        (detector, {"image": url(PIL.Image.new("RGB", (10, 300)))}, "it needs 20 × 20"),
        (detector, {"image": "data:image/png;base64,iVBORw0KGgo="}, "cannot be read as a picture"),
        (detector, {"image": url(bomb)}, "at most 50000000 are allowed"),
        (embedder, {"image": empty}, "shows no face"),
        (embedder, {"image": empty, "box": {"left": 300, "top": 0, "width": 9, "height": 9}}, "outside the picture"),
    ]
    for deployment, values, message in wrong:
        with pytest.raises(InvalidInput, match=message):
            await models.call(deployment, values)


async def test_persons_are_found(models: Models, pictures: dict[str, Path]) -> None:
    detector = await model(models, "person-detection", "person-detector")
    found = await models.call(detector, {"image": url(picture(pictures, "bus.jpg"))})
    assert any(
        person["left"] < 145 < person["left"] + person["width"] and person["top"] < 450 and person["height"] > 400
        for person in found["persons"]
    ), "the man on the left, whose body is around x = 145"
    with pytest.raises(InvalidInput, match="it needs 100 × 200"):
        await models.call(detector, {"image": url(PIL.Image.new("RGB", (90, 200)))})


@pytest.mark.usefixtures("pictures")
async def test_the_demonstration_enrols_recognises_and_forgets(tmp_path: Path) -> None:
    out = tmp_path / "faces.png"
    command = [sys.executable, "-m", "examples.faces.demo", "--out", str(out)]
    process = await create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=STDOUT)
    printed, _ = await within(process.communicate(), 500)
    assert process.returncode == 0, printed.decode()
    assert b"Everything was as it should be." in printed
    with PIL.Image.open(out) as drawn:
        assert drawn.height == 720


async def test_the_app_works_as_the_components_of_its_document(
    pictures: dict[str, Path], module_database_url: str, tmp_path: Path
) -> None:
    """Each service's worker has one model; jobs that compute vectors go to the one that can."""
    ports = {name: str(free_port()) for name in ("APP_API_PORT", "FACE_DETECTION_PORT", "FACE_EMBEDDING_PORT")}
    environment = clean_environment(
        DATABASE_URL=module_database_url, PENSTOCK_APPS_DIR=str(ROOT / "apps"), AI_SERVICE_TOKEN="t", **ports
    )
    environment |= {name: os.environ[name] for name in ("HOME",) if name in os.environ}
    url = f"http://127.0.0.1:{ports['APP_API_PORT']}"
    log = tmp_path / "log"
    async with (
        penstock("app", "serve", "face-recognition", environment=environment, folder=tmp_path, log=log),
        Client(url, token="t") as client,
        aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session,
    ):

        async def healthy() -> bool:
            try:
                async with session.get(f"{url}/health") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        async def call(**values: Any) -> Any:
            async with session.post(
                f"{url}/call", json={"user_id": "ada", "input": values}, headers={"Prefer": "wait=60"}
            ) as response:
                reply = await response.json()
            assert reply["status"] == "completed", reply
            return reply

        async def upload(name: str) -> str:
            return f"blob:{(await client.upload(pictures[name])).id}"

        await until(healthy, "the app is healthy")
        await call(operation="enrol", person="p1", pictures=[await upload("obama.jpg")])
        found = await call(operation="recognise", picture=await upload("obama2.jpg"))
        assert [face["person"] for face in found["result"]["faces"]] == ["p1"]
        assert [stage["name"] for stage in found["stages"]] == ["face-detector", "embed-search/face-embedder"]
        gone = await call(operation="forget", person="p1")
        assert (gone["result"]["faces"], gone["result"]["pictures"]) == (1, 1)
