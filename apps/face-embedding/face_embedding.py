"""The flow of the app: one call of its model."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from penstock.flows import flow, run

Picture = Annotated[str, Field(description="A picture: `blob:` and the id of an upload, or a `data:` URL.")]
Jitter = Annotated[int, Field(ge=0, le=100, description="Slightly changed copies to average over.")]


class Box(BaseModel):
    """The place of a face, in pixels of the upright picture."""

    left: int
    top: int
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]


@flow(name="face-embedding", version="1", step_max_attempts=3)
async def face_embedding(picture: Picture, box: Box | None = None, jitter: Jitter = 0) -> dict[str, Any]:
    """Computes the vector of a face: 128 numbers, nearer than 0.6 for pictures of the same person."""
    place = None if box is None else box.model_dump()
    return await run.call("face-embedder", {"image": picture, "box": place, "jitter": jitter})
