"""The address of a provider, and our credentials for it."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from penstock.masking import is_distinctive

_MIN_VALUE_LENGTH = 6  # the shortest value in a query that may be a secret: "true" is not one
_SECRET_NAME = re.compile(r"key|code|token|secret|password|sig|auth|credential", re.IGNORECASE)  # of a query's value


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A base URL and a key. Neither the key nor a user name or password in the URL is part of ``url``."""

    base_url: str = field(repr=False)
    api_key: str | None = field(default=None, repr=False)

    def url(self, path: str = "") -> str:
        """Return the address of ``path`` below the base URL, whose query is kept."""
        parts = urlsplit(self.base_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + path, parts.query, ""))

    @property
    def path(self) -> str:
        """The base URL's own path, without a slash at its end."""
        return urlsplit(self.base_url).path.rstrip("/")

    @property
    def shown(self) -> str:
        """The base URL as people see it: without credentials, and without the query, which may hold credentials."""
        return self.url().partition("?")[0]

    @property
    def headers(self) -> dict[str, str]:
        """Our credentials as a header: the key, or else the URL's user name and password."""
        if self.api_key:
            return {"Authorization": f"Bearer {self.api_key}"}
        user, at, _ = urlsplit(self.base_url).netloc.rpartition("@")
        if not at:
            return {}
        name, _, password = user.partition(":")
        return {"Authorization": "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()}

    @property
    def secrets(self) -> set[str]:
        """Everything that must be masked where a provider echoes it."""
        user, _, _ = urlsplit(self.base_url).netloc.rpartition("@")
        query = urlsplit(self.base_url).query
        stated = {value for _, value in _stated(query) if len(value) >= _MIN_VALUE_LENGTH}
        return {*self.credentials, self.api_key or "", user, *user.split(":", 1), query, *stated} - {""}

    @property
    def credentials(self) -> set[str]:
        """The credentials that cannot occur in a response by chance."""
        user, _, _ = urlsplit(self.base_url).netloc.rpartition("@")
        query = urlsplit(self.base_url).query
        keys = {value for name, value in _stated(query) if _SECRET_NAME.search(name)}
        basic = self.headers.get("Authorization", "").partition(" ")[2]
        return {one for one in {self.api_key or "", user.partition(":")[2], basic, *keys} if is_distinctive(one)}


def _stated(query: str) -> list[tuple[str, str]]:
    """Return a query's names and values, both as written and decoded."""
    written = [(name, value) for name, _, value in (one.partition("=") for one in query.split("&"))]
    return [*written, *parse_qsl(query)]
