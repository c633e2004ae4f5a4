"""The flow of the app: enrol persons, recognise them, forget them, list them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from penstock import BadInput
from penstock.flows import flow

from .enrolment import Person, enrol, forget, persons
from .recognition import Distance, Gallery, Picture, recognise

Operation = Annotated[
    Literal["enrol", "recognise", "forget", "list"],
    Field(
        description="enrol: add pictures of a person to a gallery; recognise: name the persons in a picture; forget: "
        "delete all that is stored of a person; list: the persons of a gallery."
    ),
]
_NEEDS = {"enrol": {"person", "pictures"}, "recognise": {"picture"}, "forget": {"person"}, "list": set()}


@flow(
    name="face-recognition",
    version="1",
    step_max_attempts=3,
    examples=[
        {
            "operation": "enrol",
            "gallery": "staff",
            "person": "Ada",
            "pictures": ["blob:01990000-0000-7000-8000-000000000007"],
        },
        {"operation": "recognise", "gallery": "staff", "picture": "blob:01990000-0000-7000-8000-000000000007"},
        {"operation": "forget", "gallery": "staff", "person": "Ada"},
    ],
)
async def face_recognition(
    operation: Operation,
    gallery: Gallery = "default",
    person: Person | None = None,
    pictures: Annotated[list[Picture], Field(min_length=1, max_length=50)] | None = None,
    picture: Picture | None = None,
    threshold: Distance = 0.6,
    min_size: Annotated[int, Field(ge=20, le=2000, description="Width of the smallest face, in pixels.")] = 60,
) -> dict[str, Any]:
    """Recognises faces: enrols persons by pictures, names the persons in a picture, forgets and lists them."""
    stated = {"person": person, "pictures": pictures, "picture": picture}
    for name, value in stated.items():
        if (value is not None) != (name in _NEEDS[operation]):
            rule = "is required" if value is None else "is not used"
            raise BadInput(f"{rule} by the operation {operation}", field=name)
    match operation:
        case "enrol":
            return await enrol(gallery, person or "", pictures or [], threshold=threshold)
        case "recognise":
            return await recognise(gallery, picture or "", threshold=threshold, min_size=min_size)
        case "forget":
            return await forget(gallery, person or "")
        case "list":
            return await persons(gallery)
