"""Recognising the persons in a picture: detection, then for each face its embedding and a search in the gallery."""

from typing import Annotated, Any

from pydantic import Field

from penstock import BadInput
from penstock.flows import run

Gallery = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="The name of a gallery.")]
Picture = Annotated[
    str,
    Field(pattern=r"^blob:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="`blob:` and the id of an upload."),
]
Distance = Annotated[
    float,
    Field(
        gt=0,
        le=2,
        description="The maximum distance between two faces of one person; a smaller one accepts fewer faces.",
    ),
]

EMBEDDER = "face-embedder"
_NEAREST = 20


async def recognise(gallery: str, picture: str, *, threshold: float, min_size: int) -> dict[str, Any]:
    """Return the faces of a picture, each with the nearest person of the gallery that is near enough."""
    try:
        detected = await run.call("face-detector", {"image": picture, "min_size": min_size})
    except run.StepFailed as failure:
        if failure.category == "bad_input":
            raise BadInput(explained(failure), field="picture") from failure
        raise
    searches = [
        {
            "collection": collection_of(gallery),
            "embed": {"image": picture, "box": box_of(face)},
            "k": _NEAREST,
            "max_distance": threshold,
        }
        for face in detected["faces"]
    ]
    try:
        found = await run.map(run.queue("embed-search", EMBEDDER), searches)
    except run.StepFailed as failure:
        if failure.category == "bad_input":
            raise BadInput(explained(failure), field="gallery") from failure
        raise
    faces = [_named(face, one["matches"]) for face, one in zip(detected["faces"], found, strict=True)]
    return {"gallery": gallery, "width": detected["width"], "height": detected["height"], "faces": faces}


def _named(face: dict[str, Any], matches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a face with the persons that it may show, the most similar one first."""
    nearest: dict[str, float] = {}
    for match in matches:
        nearest.setdefault(match["group"], round(match["distance"], 4))
    candidates = [{"person": person, "distance": distance} for person, distance in nearest.items()]
    first: dict[str, Any] = candidates[0] if candidates else {"person": None, "distance": None}
    return {
        "box": box_of(face),
        "score": face["score"],
        "sharpness": face["sharpness"],
        **first,
        "candidates": candidates,
    }


def collection_of(gallery: str) -> str:
    """Return the name of the collection that holds a gallery."""
    return f"faces.{gallery}"


def box_of(face: dict[str, Any]) -> dict[str, int]:
    return {name: face[name] for name in ("left", "top", "width", "height")}


def explained(failure: Exception) -> str:
    """Return the message of a step's failure without the name of the field of its own input."""
    message = str(getattr(failure, "message", failure))
    head, _, rest = message.partition(": ")
    return rest if rest and " " not in head else message
