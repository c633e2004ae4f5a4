"""Galleries: the faces of persons, in a collection of the tenant each. Enrolling, forgetting and listing persons."""

from typing import Annotated, Any

from pydantic import Field

from penstock import BadInput
from penstock.flows import run

from .recognition import EMBEDDER, box_of, collection_of, explained

Person = Annotated[
    str,
    Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", description="A name or, better, an id."),
]

MIN_WIDTH = 80  # pixels of a face
MIN_SHARPNESS = 50.0
MIN_INSIDE = 0.9  # of the face's box in the picture
MAX_TILT = 30.0  # degrees
SAME_PICTURE = 0.1  # distance of faces below which the pictures are taken for copies
_NEAREST = 20


async def enrol(gallery: str, person: str, pictures: list[str], *, threshold: float) -> dict[str, Any]:
    """Add pictures of a person, one after the other; say of each whether it was taken and, if not, why."""
    collection = collection_of(gallery)
    create = {"name": collection, "dimension": 128, "metric": "l2"}
    await run.call(run.queue("collection", "create"), create)
    first = {"collection": collection, "group": person, "limit": 1}
    known = bool((await run.call(run.queue("collection", "items"), first))["items"])
    inputs = [{"image": picture, "min_size": 40} for picture in pictures]
    detected = await run.map("face-detector", inputs, return_exceptions=True)
    taken: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for number, (picture, found) in enumerate(zip(pictures, detected, strict=True)):
        reason = quality_problem(found)
        near = {} if reason else await _nearest(collection, picture, found["faces"][0])
        reason = reason or _conflict(near, person, threshold)
        if reason:
            refused.append({"picture": picture, "reason": reason})
        else:
            unlike = known and near.get(person, 2.0) > threshold
            taken.append({"picture": picture, "unlike_the_others": unlike, **_quality(found["faces"][0])})
            await _write(collection, person, picture, found["faces"][0])
            known = True
        run.progress((number + 1) / len(pictures))
    return {"person": person, "gallery": gallery, "enrolled": taken, "refused": refused}


def quality_problem(found: Any) -> str | None:
    """Return why a picture cannot be enrolled, by what the detector has found; None if it can."""
    if isinstance(found, Exception):
        return explained(found)
    faces = found["faces"]
    if len(faces) != 1:
        return "no face was found" if not faces else f"it shows {len(faces)} faces; one is allowed"
    (face,) = faces
    if face["width"] < MIN_WIDTH:
        return f"the face is {face['width']} pixels wide; {MIN_WIDTH} are needed"
    if face["inside"] < MIN_INSIDE:
        return "a part of the face lies outside the picture"
    if face["sharpness"] < MIN_SHARPNESS:
        return f"the face is blurred: its sharpness is {face['sharpness']:g}; {MIN_SHARPNESS:g} are needed"
    if abs(face["tilt"]) > MAX_TILT:
        return f"the head is tilted by {abs(face['tilt']):.0f} degrees; up to {MAX_TILT:.0f} are allowed"
    return None


def _quality(face: dict[str, Any]) -> dict[str, Any]:
    return {"box": box_of(face), "sharpness": face["sharpness"], "score": face["score"]}


async def _nearest(collection: str, picture: str, face: dict[str, Any]) -> dict[str, float]:
    """Return the persons with the nearest faces, and their distances."""
    search = {
        "collection": collection,
        "embed": {"image": picture, "box": box_of(face)},
        "k": _NEAREST,
    }
    nearest: dict[str, float] = {}
    for match in (await run.call(run.queue("embed-search", EMBEDDER), search))["matches"]:
        nearest.setdefault(match["group"], match["distance"])
    return nearest


def _conflict(near: dict[str, float], person: str, threshold: float) -> str | None:
    """Return why a face must not become one of this person; None if it may."""
    if near.get(person, 2.0) < SAME_PICTURE:
        return "it is a duplicate: this picture of the person, or nearly the same, is enrolled"
    others = [(distance, other) for other, distance in near.items() if other != person and distance <= threshold]
    if not others:
        return None
    distance, other = min(others)
    return None if near.get(person, 2.0) < distance else f"it looks like {other} (distance {distance:.2f})"


async def _write(collection: str, person: str, picture: str, face: dict[str, Any]) -> None:
    upload = picture.removeprefix("blob:")
    item = {
        "key": f"{person}/{upload}",
        "group": person,
        "blob": upload,
        "attributes": {"sharpness": face["sharpness"], "width": face["width"]},
        "embed": {"image": picture, "box": box_of(face)},
    }
    write = {"collection": collection, "items": [item]}
    await run.call(run.queue("embed-upsert", EMBEDDER), write)


async def forget(gallery: str, person: str) -> dict[str, Any]:
    """Delete the faces of a person, with their vectors and pictures."""
    deletion = {"collection": collection_of(gallery), "group": person, "files": True}
    try:
        gone = await run.call(run.queue("collection", "delete"), deletion)
    except run.StepFailed as failure:
        raise BadInput(explained(failure), field="gallery") from failure
    return {"person": person, "gallery": gallery, "faces": gone["deleted"], "pictures": gone["files"]}


async def persons(gallery: str) -> dict[str, Any]:
    """Count the faces of each person."""
    numbers: dict[str, int] = {}
    after: str | None = ""
    while after is not None:
        page = {"collection": collection_of(gallery), "after": after, "limit": 1000}
        try:
            found = await run.call(run.queue("collection", "items"), page)
        except run.StepFailed as failure:
            raise BadInput(explained(failure), field="gallery") from failure
        for item in found["items"]:
            numbers[item["group"]] = numbers.get(item["group"], 0) + 1
        after = found["next"]
    listed = [{"person": person, "faces": number} for person, number in sorted(numbers.items())]
    return {"gallery": gallery, "persons": listed}
