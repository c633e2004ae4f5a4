"""The flow of the app: one search in the collection of a gallery."""

from typing import Annotated

from pydantic import BaseModel, Field

from penstock.flows import flow, run

Gallery = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="The name of a gallery.")]
Vector = Annotated[list[float], Field(min_length=128, max_length=128, description="The vector of a face.")]
Distance = Annotated[float, Field(gt=0, le=2, description="Faces at most that far apart may be one person's.")]


class Candidate(BaseModel):
    """A person whose face is near, and how near the nearest picture is."""

    person: str
    distance: float


@flow(name="face-search", version="1", step_max_attempts=3)
async def face_search(
    gallery: Gallery, vector: Vector, threshold: Distance = 0.6, persons: Annotated[int, Field(ge=1, le=50)] = 5
) -> list[Candidate]:
    """Finds the persons of a gallery whose faces are nearest to a vector, the nearest one first."""
    search = {"collection": f"faces.{gallery}", "vector": vector, "k": 10 * persons, "max_distance": threshold}
    found = await run.call(run.queue("collection", "search"), search)
    nearest: dict[str, float] = {}
    for match in found["matches"]:
        nearest.setdefault(match["group"], match["distance"])
    return [Candidate(person=person, distance=nearest[person]) for person in list(nearest)[:persons]]
