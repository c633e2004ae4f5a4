"""A model that returns its input."""

from __future__ import annotations


class Echo:
    def predict(self, text: str, n: int) -> dict[str, str | int]:
        return {"text": text, "n": n}
