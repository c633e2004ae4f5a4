"""Where a provider is, and how we prove who we are."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

_SHORTEST_VALUE = 6  # characters of a query's value that may be a secret; "true" is none


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
        basic = self.headers.get("Authorization", "").partition(" ")[2]
        query = urlsplit(self.base_url).query
        stated = {value for _, value in parse_qsl(query) if len(value) >= _SHORTEST_VALUE}
        return {self.api_key or "", user, *user.split(":", 1), basic, query, *stated} - {""}
