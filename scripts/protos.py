"""Generates the modules of all .proto files, beside them; ``make fix`` runs it.

Only messages are generated. Services are few and small: servers and clients name their methods themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).parents[1] / "src"


def generated() -> Mapping[Path, str]:
    """Return the content of each module that belongs to a .proto file, by its path."""
    protos = sorted(str(path) for path in SOURCE.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        if protoc.main(["protoc", f"-I{SOURCE}", f"--python_out={folder}", f"--pyi_out={folder}", *protos]) != 0:
            raise SystemExit("a .proto file has mistakes")
        found = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {SOURCE / path.relative_to(folder): path.read_text() for path in found}


def present() -> Mapping[Path, str]:
    """Return the content of each generated module in the source, by its path."""
    return {path: path.read_text() for path in SOURCE.rglob("*_pb2.py*")}


if __name__ == "__main__":
    wanted = generated()
    for stale in present().keys() - wanted.keys():
        stale.unlink()
    for module, content in wanted.items():
        module.write_text(content)
