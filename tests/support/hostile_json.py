"""JSON at the limits of what is allowed, and texts that are not JSON."""

from __future__ import annotations

DEEP = b"[" * 5_000 + b"]" * 5_000


KEPT = {
    "nul in a string": b'{"a": "x\\u0000y"}',
    "half a surrogate pair": b'"\\ud83d"',
    "a number beyond floats": b'{"n": 1e400}',
    "a huge integer": b"9" * 500,
    "more digits than a float holds": b"0.1234567890123456789012345",
    "minus zero": b"-0.0",
    "repeated keys": b'{"a": 1, "a": 2}',
    "unicode": '{"é": "日本語 🦀 \u202e"}'.encode(),
    "deep": DEEP,
    "spaces": b' \n\t{ "a" :\r\n 1 } ',
    "empty key": b'{"": {"": []}}',
}


REFUSED = {
    "a nul byte": b'"x\x00y"',
    "broken utf-8": b'"\xff\xfe"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "cut short": b'{"a": [1, 2',
    "two values": b"1 2",
    "nothing": b"",
    "not a number": b"NaN",
    "deeper than the server's stack": b"[" * 500_000,
}
