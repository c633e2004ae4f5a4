"""A model that returns the size of a file."""

from __future__ import annotations

from penstock import File


class Blob:
    def predict(self, file: File) -> int:
        return len(file.data)
