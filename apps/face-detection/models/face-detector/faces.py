"""Faces in pictures, by dlib's detectors: boxes, and measures of their quality."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import dlib
import face_recognition_models
import numpy as np
from pydantic import Field

from penstock import BadInput, Image

_WEIGHTS: Final = Path(face_recognition_models.__file__).parent / "models"
_FACE: Final = 80  # pixels; the smallest face that the detectors see
_MOST: Final = 4_000_000  # pixels that are searched; larger pictures are scaled down
_LEAST: Final = 20  # pixels of a picture's shorter side
_CHIP: Final = 150  # pixels of an upright face that was cut out


@dataclass
class Face:
    """A face, in pixels of the upright picture."""

    left: int
    top: int
    width: int
    height: int
    score: float  # of the detector; larger is more certain
    sharpness: float  # variance of the second derivative of an upright face; blurred ones have less
    inside: float  # the part of the box that lies in the picture, from 0 to 1
    tilt: float  # degrees by which the line between the eyes is turned


@dataclass
class Faces:
    """The faces in a picture, by score with the highest first."""

    width: int
    height: int
    smallest: int  # pixels; faces of less width were not searched for
    faces: list[Face]


class FaceDetector:
    """Finds faces in a picture: their boxes, and how sharp, large and complete they are."""

    def __init__(self, detector: str = "hog") -> None:
        if detector not in {"hog", "cnn"}:
            raise ValueError(f"detector must be hog or cnn, not {detector}")
        self._kind = detector

    def load(self) -> None:
        self._detector = (
            dlib.get_frontal_face_detector()
            if self._kind == "hog"
            else dlib.cnn_face_detection_model_v1(str(_WEIGHTS / "mmod_human_face_detector.dat"))
        )
        self._landmarks = dlib.shape_predictor(str(_WEIGHTS / "shape_predictor_5_face_landmarks.dat"))

    def predict(
        self,
        image: Image,
        min_size: Annotated[int, Field(ge=20, le=2000, description="Width of the smallest face, in pixels.")] = 60,
        min_score: Annotated[float, Field(ge=-1, le=10)] = 0.25,
        max_faces: Annotated[int, Field(ge=1, le=500)] = 100,
    ) -> Faces:
        picture = image.upright()
        if min(picture.size) < _LEAST:
            detail = f"the picture has {picture.width} × {picture.height} pixels; it needs {_LEAST} × {_LEAST}"
            raise BadInput(detail, field="image")
        scale = min(_FACE / min_size, math.sqrt(_MOST / (picture.width * picture.height)))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        scaled = np.asarray(picture if scale == 1 else picture.resize(size))
        pixels = np.asarray(picture)
        found = [self._face(pixels, box, score, scale) for box, score in self._boxes(scaled) if score >= min_score]
        found.sort(key=lambda face: -face.score)
        return Faces(
            width=picture.width, height=picture.height, smallest=math.ceil(_FACE / scale), faces=found[:max_faces]
        )

    def _boxes(self, pixels: np.ndarray) -> list[tuple[Any, float]]:
        if self._kind == "hog":
            boxes, scores, _ = self._detector.run(pixels, 0, 0.0)
            return list(zip(boxes, scores, strict=True))
        return [(one.rect, one.confidence) for one in self._detector(pixels, 0)]

    def _face(self, pixels: np.ndarray, box: Any, score: float, scale: float) -> Face:
        left, top, right, bottom = (round(n / scale) for n in (box.left(), box.top(), box.right(), box.bottom()))
        shape = self._landmarks(pixels, dlib.rectangle(left, top, right, bottom))
        right_eye, left_eye = (_middle(shape, first) for first in (2, 0))
        angle = math.degrees(math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0]))
        height, width = pixels.shape[:2]
        shown = max(0, min(right, width) - max(left, 0)) * max(0, min(bottom, height) - max(top, 0))
        return Face(
            left=left,
            top=top,
            width=right - left,
            height=bottom - top,
            score=round(float(score), 3),
            sharpness=round(_sharpness(dlib.get_face_chip(pixels, shape, size=_CHIP)), 1),
            inside=round(shown / max(1, (right - left) * (bottom - top)), 3),
            tilt=round(angle, 1),
        )


def _middle(shape: Any, first: int) -> tuple[float, float]:
    """Return the middle of two landmarks, the corners of an eye."""
    one, other = shape.part(first), shape.part(first + 1)
    return (one.x + other.x) / 2, (one.y + other.y) / 2


def _sharpness(chip: np.ndarray) -> float:
    """Return the variance of the Laplacian of the grey picture."""
    grey = chip.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.var(around - 4 * inner))
