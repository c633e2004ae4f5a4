"""A model whose environment has one package that Penstock does not need."""

import sys

import humanize


class Versions:
    def predict(self, number: int) -> list[str]:
        return [sys.prefix, humanize.intword(number)]
