"""The flow of the app: one call of its model."""

from typing import Annotated, Any

from pydantic import Field

from penstock.flows import flow, run

Picture = Annotated[str, Field(description="A picture: `blob:` and the id of an upload, or a `data:` URL.")]

Height = Annotated[int, Field(ge=64, le=5000, description="Of the smallest person, in pixels.")]


@flow(name="person-detection", version="1", step_max_attempts=3)
async def person_detection(
    picture: Picture, min_height: Height = 200, min_score: Annotated[float, Field(ge=0, le=10)] = 0.5
) -> dict[str, Any]:
    """Finds standing persons in a picture: their boxes, in pixels of the upright picture, ordered by score."""
    return await run.call("person-detector", {"image": picture, "min_height": min_height, "min_score": min_score})
