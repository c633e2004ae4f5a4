"""Where a provider is, and how we prove who we are."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from penstock.masking import is_no_word

_SHORTEST_VALUE = 6  # characters of a query's value that may be a secret; "true" is none
_A_KEY = re.compile(r"key|code|token|secret|password|sig|auth|credential", re.IGNORECASE)  # what a value is called


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A base URL and a key. Neither the key nor a user name or password in the URL is part of ``url``."""

    base_url: str = field(repr=False)
    api_key: str | None = field(default=None, repr=False)

    def url(self, path: str = "") -> str:
        """The address of ``path`` below the base URL, whose query is kept."""
        parts = urlsplit(self.base_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + path, parts.query, ""))

    @property
    def path(self) -> str:
        """The base URL's own path, without a slash at its end."""
        return urlsplit(self.base_url).path.rstrip("/")

    @property
    def shown(self) -> str:
        """The base URL for people: without credentials, and without a query, which may hold some."""
        return self.url().partition("?")[0]

    @property
    def headers(self) -> dict[str, str]:
        """What proves who we are: the key, or else the URL's user name and password."""
        if self.api_key:
            return {"Authorization": f"Bearer {self.api_key}"}
        user, at, _ = urlsplit(self.base_url).netloc.rpartition("@")
        if not at:
            return {}
        name, _, password = user.partition(":")
        return {"Authorization": "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()}

    @property
    def secrets(self) -> set[str]:
        """What must be masked wherever a provider echoes it."""
        user, _, _ = urlsplit(self.base_url).netloc.rpartition("@")
        query = urlsplit(self.base_url).query
        stated = {value for _, value in _stated(query) if len(value) >= _SHORTEST_VALUE}
        return {*self.credentials, self.api_key or "", user, *user.split(":", 1), query, *stated} - {""}

    @property
    def credentials(self) -> set[str]:
        """Those of the secrets that prove who we are, and stand in no answer by chance."""
        user, _, _ = urlsplit(self.base_url).netloc.rpartition("@")
        query = urlsplit(self.base_url).query
        keys = {value for name, value in _stated(query) if _A_KEY.search(name)}
        basic = self.headers.get("Authorization", "").partition(" ")[2]
        return {one for one in {self.api_key or "", user.partition(":")[2], basic, *keys} if is_no_word(one)}


def _stated(query: str) -> list[tuple[str, str]]:
    """A query's names and values, as they are written and as they are meant."""
    written = [(name, value) for name, _, value in (one.partition("=") for one in query.split("&"))]
    return [*written, *parse_qsl(query)]
