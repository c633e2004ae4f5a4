"""The generated modules agree with the .proto files."""

from __future__ import annotations

from scripts.protos import generated, present


def test_the_generated_modules_are_those_of_the_proto_files() -> None:
    """`make fix` writes the modules; run it after changing a .proto file."""
    assert dict(present()) == dict(generated())
