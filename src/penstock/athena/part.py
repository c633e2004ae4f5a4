"""The part of this room in a gateway."""

from __future__ import annotations

from functools import cached_property

from penstock.access.part import AccessParts
from penstock.athena.authentication import Authentication
from penstock.athena.credentials.cache import CredentialCache
from penstock.athena.credentials.http import CredentialRoutes
from penstock.athena.credentials.sealing import Sealing
from penstock.athena.credentials.service import CredentialService
from penstock.athena.tokens import AccessTokens
from penstock.athena.webgate.oauth import OAuthRoutes
from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.web.route import routes_of


class AthenaParts:
    """One of each object of this room, connected."""

    def __init__(self, database: Database, access: AccessParts) -> None:
        self._database = database
        self._access = access

    @cached_property
    def sealing(self) -> Sealing:
        return Sealing(self._access.instance)

    @cached_property
    def credentials(self) -> CredentialService:
        return CredentialService(self._database, self._access.service, self.sealing)

    @cached_property
    def tokens(self) -> AccessTokens:
        return AccessTokens(self._access.instance)

    @cached_property
    def authentication(self) -> Authentication:
        cache = CredentialCache(self._database, self.sealing)
        return Authentication(self._access.access, self._access.cache, cache, self.tokens)

    @property
    def part(self) -> Part:
        topics = (CredentialRoutes(self.credentials), OAuthRoutes(self.authentication, self.tokens))
        return Part(routes=[route for topic in topics for route in routes_of(topic)])
