"""base64, gzip and character sets, in both directions."""

from __future__ import annotations

import base64
import binascii
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.packing import Undecodable, from_base64, from_gzip, from_utf8, to_gzip, to_utf8

_LIKE_BASE64 = st.text("ABab01+/=-_ \n", max_size=12)


@given(st.binary(), st.integers(1, 100))
def test_base64_is_read_with_and_without_line_breaks(data: bytes, width: int) -> None:
    """As mail programs and shells wrap it."""
    text = base64.b64encode(data).decode()
    assert from_base64(text) == data
    assert from_base64("\r\n".join(text[at : at + width] for at in range(0, len(text), width))) == data


@given(_LIKE_BASE64 | st.text())
def test_base64_is_as_strict_as_the_standard_librarys_strict_mode(text: str) -> None:
    """Beside line breaks."""
    plain = text.replace("\r", "").replace("\n", "")
    try:
        expected = binascii.a2b_base64(plain, strict_mode=True)
    except ValueError:
        with pytest.raises(Undecodable):
            from_base64(text)
    else:
        assert from_base64(text) == expected


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4))
def test_gzip_of_several_members_is_read(pieces: list[bytes]) -> None:
    """As `cat a.gz b.gz` makes it; what follows the last member must be one, too."""
    packed = b"".join(map(to_gzip, pieces))
    whole = b"".join(pieces)
    assert from_gzip(packed, len(whole)) == whole
    for broken in (packed[:-1], packed + b"x", b""):
        with pytest.raises(Undecodable):
            from_gzip(broken, len(whole))
    if whole:
        with pytest.raises(Undecodable, match="more than"):
            from_gzip(packed, len(whole) - 1)


@given(st.binary())
def test_any_bytes_are_gzip_or_refused(data: bytes) -> None:
    """Without an error of zlib."""
    with contextlib.suppress(Undecodable):
        from_gzip(data, 1000)


@pytest.mark.parametrize("encoding", ["utf8", "UTF-8", "gb2312", "gbk", "GB18030", "latin-1", None, 5])
def test_text_survives_its_encoding(encoding: object) -> None:
    """Encodings that are not converted are passed on."""
    text = "你好 hello é 🦀".encode()
    assert to_utf8(from_utf8(text, encoding), encoding) == text
    assert from_utf8(b"\xff", encoding) == b"\xff"
