"""Embeddings of faces, by dlib's residual network: 128 numbers, nearer than 0.6 (Euclidean) for the same person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import dlib
import face_recognition_models
import numpy as np
from pydantic import Field

from penstock import BadInput, Image

_WEIGHTS: Final = Path(face_recognition_models.__file__).parent / "models"
_CHIP: Final = 150  # pixels; what the network takes


@dataclass
class Box:
    """The place of a face, in pixels of the upright picture."""

    left: int
    top: int
    width: Annotated[int, Field(ge=1, le=100_000)]
    height: Annotated[int, Field(ge=1, le=100_000)]


@dataclass
class Embedding:
    """The vector of a face, and where the face is."""

    vector: list[float]
    box: Box


class FaceEmbedder:
    """Computes the vector of a face in a picture."""

    def load(self) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(_WEIGHTS / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(_WEIGHTS / "dlib_face_recognition_resnet_model_v1.dat"))

    def predict(
        self,
        image: Image,
        box: Annotated[Box | None, Field(description="Where the face is; without it, there must be one face.")] = None,
        jitter: Annotated[int, Field(ge=0, le=100, description="Slightly changed copies to average over.")] = 0,
    ) -> Embedding:
        picture = image.upright()
        pixels = np.asarray(picture)
        place = self._only_face(pixels) if box is None else _rectangle(box, picture.width, picture.height)
        chip = dlib.get_face_chip(pixels, self._landmarks(pixels, place), size=_CHIP)
        vector = self._network.compute_face_descriptor(chip, jitter)
        found = Box(left=place.left(), top=place.top(), width=place.width() - 1, height=place.height() - 1)
        return Embedding(vector=[round(float(number), 7) for number in vector], box=found)

    def _only_face(self, pixels: np.ndarray) -> dlib.rectangle:
        found = self._detector(pixels, 0)
        if len(found) != 1:
            number = "no face" if not found else f"{len(found)} faces"
            raise BadInput(f"the picture shows {number}; state the box of one", field="box")
        return found[0]


def _rectangle(box: Box, width: int, height: int) -> dlib.rectangle:
    """Return the place of a face. Raises BadInput for one that lies outside the picture."""
    right, bottom = box.left + box.width, box.top + box.height
    if box.left >= width or box.top >= height or right <= 0 or bottom <= 0:
        raise BadInput(f"lies outside the picture, which has {width} × {height} pixels", field="box")
    return dlib.rectangle(box.left, box.top, right, bottom)
