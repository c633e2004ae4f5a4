"""Persons in pictures, by OpenCV's histogram of oriented gradients (Dalal and Triggs, 2005)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

import cv2
import numpy as np
from pydantic import Field

from penstock import BadInput, Image

_WINDOW: Final = (64, 128)  # pixels; the smallest person that the detector sees, with some room around
_MOST: Final = 2_000_000  # pixels that are searched; larger pictures are scaled down
_OVERLAP: Final = 0.5  # of two boxes, from which on they are the same person


@dataclass
class Person:
    """A person, in pixels of the upright picture."""

    left: int
    top: int
    width: int
    height: int
    score: float  # of the detector; larger is more certain


@dataclass
class Persons:
    """The persons in a picture, by score with the highest first."""

    width: int
    height: int
    smallest: int  # pixels; persons of less height were not searched for
    persons: list[Person]


class PersonDetector:
    """Finds standing persons in a picture."""

    def load(self) -> None:
        cv2.setNumThreads(1)
        self._detector = cv2.HOGDescriptor()
        self._detector.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def predict(
        self,
        image: Image,
        min_height: Annotated[int, Field(ge=64, le=5000, description="Of the smallest person, in pixels.")] = 200,
        min_score: Annotated[float, Field(ge=0, le=10)] = 0.5,
    ) -> Persons:
        picture = image.upright()
        scale = min(_WINDOW[1] / min_height, math.sqrt(_MOST / (picture.width * picture.height)))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        if size[0] < _WINDOW[0] or size[1] < _WINDOW[1]:
            needed = f"{math.ceil(_WINDOW[0] / scale)} × {math.ceil(_WINDOW[1] / scale)}"
            detail = f"the picture has {picture.width} × {picture.height} pixels; it needs {needed}"
            raise BadInput(f"{detail} for persons {min_height} pixels high", field="image")
        pixels = np.asarray(picture.resize(size))[:, :, ::-1]
        boxes, scores = self._detector.detectMultiScale(pixels, winStride=(8, 8), padding=(8, 8), scale=1.05)
        sure = np.ravel(scores).tolist()
        kept = cv2.dnn.NMSBoxes([list(map(int, box)) for box in boxes], sure, min_score, _OVERLAP)
        found = [_person(boxes[index], sure[index], scale) for index in np.ravel(kept).astype(int)]
        found.sort(key=lambda person: -person.score)
        smallest = math.ceil(_WINDOW[1] / scale)
        return Persons(width=picture.width, height=picture.height, smallest=smallest, persons=found)


def _person(box: np.ndarray, score: float, scale: float) -> Person:
    left, top, width, height = (round(float(number) / scale) for number in box)
    return Person(left=left, top=top, width=width, height=height, score=round(score, 3))
