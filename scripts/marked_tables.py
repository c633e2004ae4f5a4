"""Replace generated tables in documents, between two marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MarkedTable:
    """The place of a table in documents; ``name`` is that of the marks around it."""

    name: str

    def replaced(self, document: str, table: str) -> str:
        """Return the document with this table in place of the one between the marks."""
        begin, end = f"<!-- {self.name}: written by `make fix` -->\n", f"<!-- end of {self.name} -->\n"
        before, rest = document.split(begin, 1)
        return before + begin + table + end + rest.split(end, 1)[1]

    def write(self, path: Path, table: str) -> None:
        """Write this table into a document."""
        path.write_text(self.replaced(path.read_text(), table))
