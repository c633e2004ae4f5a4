"""The head of a request: request line and headers, parsed by llhttp."""

from __future__ import annotations

from typing import Final

import httptools

from penstock.web.limits import Limits
from penstock.web.problems import Refused

HTTP_1_1: Final = b" HTTP/1.1"
_HTTP_1_0: Final = b" HTTP/1.0"


class Head:
    """A parsed head. Header names are in lower case; of a header that is sent several times, the first counts."""

    __slots__ = ("headers", "keep_alive", "method", "target", "version_1_1")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.version_1_1 = True
        self.keep_alive = True

    # Called by llhttp

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.headers
        if name not in headers:
            headers[name] = value.rstrip(b" \t")
        elif name == b"host":
            raise ValueError("a request has one Host header")
        elif name == b"connection":
            headers[name] += b"," + value


def parse(data: bytes, limits: Limits) -> Head:
    """Parse a whole head, including the empty line at its end; raises Refused."""
    line_end = data.index(b"\r\n")
    if data.count(b"\r\n") - 2 > limits.headers:
        raise Refused(431, f"a request has at most {limits.headers} headers")
    head = Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # a request to change the protocol; a route decides whether to follow it
    except httptools.HttpParserCallbackError as error:
        raise Refused(400, str(error.__context__ or error)) from None
    except httptools.HttpParserError as error:
        raise Refused(400, f"the request is not valid HTTP/1.1: {error}") from None
    head.method = parser.get_method().decode("ascii")
    if data[line_end - 9 : line_end] != HTTP_1_1:
        if data[line_end - 9 : line_end] != _HTTP_1_0:
            raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are supported")
        head.version_1_1 = False
    elif b"host" not in head.headers:
        raise Refused(400, "a request needs a Host header")
    if not head.target.startswith(b"/"):
        head.target = _path_of_absolute(head.target)
    if len(head.target) > limits.path_bytes:
        raise Refused(414, f"path and query have at most {limits.path_bytes} bytes")
    connection = head.headers.get(b"connection")
    head.keep_alive = head.version_1_1 and (connection is None or not _states_close(connection))
    return head


def _path_of_absolute(target: bytes) -> bytes:
    """Return the path and query of ``http://host/path``, a form for proxies; return other targets unchanged."""
    _, found, rest = target.partition(b"://")
    if not found:
        return target
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"


def _states_close(connection: bytes) -> bool:
    return any(option.strip() == b"close" for option in connection.lower().split(b","))


def refuse_unfinished(data: bytes | bytearray, limits: Limits) -> None:
    """Raise Refused for the beginning of a head that can no longer become valid."""
    if not 65 <= data[0] <= 90:  # methods are words in capital letters; this may be TLS, or anything
        raise Refused(400, "the request is not valid HTTP/1.1: it must begin with a method")
    line_end = data.find(b"\n", 0, limits.path_bytes + 64)
    if line_end < 0 and len(data) > limits.path_bytes + 64:
        raise Refused(414, f"path and query have at most {limits.path_bytes} bytes")
    if line_end > 0 and data[line_end - 1] != 13:
        raise Refused(400, "the request is not valid HTTP/1.1: lines must end with CR LF")
    if len(data) > limits.head_bytes:
        raise Refused(431, f"request line and headers have at most {limits.head_bytes} bytes")
    if data.count(b"\r\n") - 1 > limits.headers:
        raise Refused(431, f"a request has at most {limits.headers} headers")
