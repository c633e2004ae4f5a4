"""Session ids have the original's format and are unique in their process."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penstock.athena.protocol.session_ids import Origin, SessionIds
from tests.support.athena_messages import is_session_id

_AT = datetime(2019, 5, 21, 10, 15, tzinfo=UTC)


def test_an_id_has_the_parts_of_the_original() -> None:
    """The example of the documents: iat000704fa@dx16ade44e4d87a1c802."""
    ids = SessionIds(Origin(pid=7, address="10.1.122.28", port=8022), first=0x4F9)
    at = datetime.fromtimestamp(0x16ADE44E4D8 / 1000, UTC)
    assert ids.next("iat", at) == "iat000704fa@dx16ade44e4d87a1c802"


@pytest.mark.parametrize("sub", ["", "a", "iat", "PP-OCR", "识别", "a very long name", "\n"])
@pytest.mark.parametrize("address", ["", "::1", "127.0.0.1", "999.1.1.1", "unix"])
@pytest.mark.parametrize("port", [0, 80, 65535])
def test_every_origin_gives_a_valid_id(sub: str, address: str, port: int) -> None:
    """Names of services are no longer three letters, and gateways listen on sockets of many kinds."""
    found = SessionIds(Origin(pid=123456, address=address, port=port)).next(sub, _AT)
    assert len(found) == 32
    assert is_session_id(found)


def test_ids_of_one_moment_differ() -> None:
    """As many as the counter has values."""
    ids = SessionIds(Origin(pid=1))
    assert len({ids.next("iat", _AT) for _ in range(65_536)}) == 65_536


def test_gateways_with_equal_process_ids_and_ports_make_different_ids() -> None:
    """As containers of one image have."""
    gateways = [SessionIds.of_process(1, 8080) for _ in range(3)]
    assert len({ids.next("iat", _AT) for ids in gateways}) == 3
