"""Read handwritten digits: train a classifier when the model is loaded, then classify images in batches."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from penstock import Array

TRAINED_ON = 898  # the first half of scikit-learn's images; the others are new to the model

Image = Annotated[np.ndarray, Array("float64", (8, 8)), Field(description="8 rows of 8 grey values, 0 to 16")]


class Digits:
    """Recognizes the digit in an image of 8 by 8 grey values."""

    def load(self) -> None:
        digits = load_digits()
        self.classifier = SVC(gamma=0.001).fit(digits.data[:TRAINED_ON], digits.target[:TRAINED_ON])

    def predict(self, image: Image) -> dict[str, int]:
        return self.predict_batch([image])[0]

    def predict_batch(self, images: list[Image]) -> list[dict[str, int]]:
        found = self.classifier.predict(np.stack(images).reshape(len(images), 64))
        return [{"digit": int(digit)} for digit in found]
