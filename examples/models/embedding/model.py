"""Text embedding: a sentence-transformers model where that library is installed, else hashed n-grams."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import Field

import penstock

Text = Annotated[str, Field(min_length=1, max_length=20_000, description="The text to embed.")]


@dataclass
class Embedded:
    """A text as a vector of length 1; the dot product of two vectors is the similarity of their texts."""

    vector: list[float]
    model: str  # the model that made it; vectors of different models cannot be compared


class Encoder(Protocol):
    """Turns texts into float32 [texts, dimensions], each row of length 1."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class Embedding:
    """Embeds texts as vectors; similar texts are close together."""

    def __init__(self, model: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
        self._wanted = model
        self._encoder: Encoder

    def load(self) -> None:
        context = penstock.context()
        try:
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (optional, and slow to import)
        except ModuleNotFoundError as error:
            if error.name != "sentence_transformers":
                raise
            self._encoder = HashedNgrams()
            context.log(f"sentence-transformers is not installed: {self._encoder.name} embeds instead", "warning")
            return
        folder = Path(__file__).parent / self._wanted
        place, name = (str(folder), folder.name) if folder.is_dir() else (self._wanted, self._wanted)
        self._encoder = Transformer(name, SentenceTransformer(place, device=context.device))
        context.log(f"{name} embeds on {context.device}")

    def predict(self, text: Text) -> Embedded:
        """Embed one text, cut to the length that the model reads (256 tokens for MiniLM)."""
        return self.predict_batch([text])[0]

    def predict_batch(self, texts: list[Text]) -> list[Embedded]:
        rows = self._encoder.encode(texts)
        return [Embedded(row, self._encoder.name) for row in rows.tolist()]


class Transformer:
    """A sentence-transformers model."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self._model = model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows: np.ndarray = self._model.encode(
            list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        )
        return rows


class HashedNgrams:
    """Hashes words and pieces of words into a vector of signs: texts that share words are close, synonyms are not.

    The hashing trick (Weinberger and others, 2009), with pieces of words as in fastText. Deterministic everywhere, and
    nothing is downloaded.
    """

    name = "hashed-ngrams-384"
    dimensions = 384
    sizes = (3, 4, 5)  # characters of a piece
    whole = 3.0  # how much more a whole word counts than a piece

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for (index, sign), weight in self._features(text).items():
                row[index] += sign * np.sqrt(weight)
        rows[~rows.any(axis=1), 0] = 1.0  # a text without words: one fixed direction
        normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return normalised

    def _features(self, text: str) -> dict[tuple[int, int], float]:
        weights: defaultdict[tuple[int, int], float] = defaultdict(float)
        for word in re.findall(r"\w+", text.casefold()):
            weights[self._place(word)] += self.whole
            for piece in self._pieces(f"<{word}>"):
                weights[self._place(piece)] += 1
        return weights

    def _pieces(self, word: str) -> Iterator[str]:
        for size in self.sizes:
            for start in range(len(word) - size + 1):
                yield word[start : start + size]

    def _place(self, feature: str) -> tuple[int, int]:
        hashed = int.from_bytes(hashlib.blake2b(feature.encode(errors="surrogatepass"), digest_size=8).digest())
        return hashed // 2 % self.dimensions, 1 - 2 * (hashed % 2)
