"""Settings of the marketplace that gets the results of apps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock.masking import Secret
from penstock.settings.kinds import header_secret, secret_url
from penstock.settings.variable import Relation, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class MarketplaceSettings:
    """The marketplace."""

    marketplace_callback: Secret | None = setting(
        secret_url, None, "URL that gets the final result of every request of an app by POST; it may be private"
    )
    marketplace_token: Secret | None = setting(header_secret, None, "bearer token that is sent to that URL")


def _needs_url(token: Secret | None, url: Secret | None) -> str | None:
    return "needs MARKETPLACE_CALLBACK" if token is not None and url is None else None


RELATIONS: Final = (
    Relation(blames="marketplace_token", over=("marketplace_token", "marketplace_callback"), problem=_needs_url),
)
