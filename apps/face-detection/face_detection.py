"""The flow of the app: one call of its model."""

from typing import Annotated, Any

from pydantic import Field

from penstock.flows import flow, run

Picture = Annotated[str, Field(description="A picture: `blob:` and the id of an upload, or a `data:` URL.")]
Size = Annotated[int, Field(ge=20, le=2000, description="Width of the smallest face, in pixels.")]


@flow(name="face-detection", version="1", step_max_attempts=3)
async def face_detection(picture: Picture, min_size: Size = 60) -> dict[str, Any]:
    """Finds the faces in a picture: their boxes, in pixels of the upright picture, and measures of their quality."""
    return await run.call("face-detector", {"image": picture, "min_size": min_size})
