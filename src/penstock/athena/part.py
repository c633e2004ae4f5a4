"""The part of this room in a gateway."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from penstock.access.part import AccessParts
from penstock.athena.atom import part as atom_part
from penstock.athena.authentication import Authentication
from penstock.athena.credentials.cache import CredentialCache
from penstock.athena.credentials.http import CredentialRoutes
from penstock.athena.credentials.sealing import Sealing
from penstock.athena.credentials.service import CredentialService
from penstock.athena.protocol.requests import Limits
from penstock.athena.protocol.responses import Bodies
from penstock.athena.protocol.session_ids import SessionIds
from penstock.athena.services import Services
from penstock.athena.tasks import Tasks
from penstock.athena.tokens import AccessTokens
from penstock.athena.webgate import page
from penstock.athena.webgate.addresses import Addresses
from penstock.athena.webgate.descriptions import DescriptionRoutes
from penstock.athena.webgate.oauth import OAuthRoutes
from penstock.athena.webgate.once import OnceCalls
from penstock.athena.webgate.replies import Replies
from penstock.athena.webgate.routes import WebGateRoutes
from penstock.athena.webgate.sources import Sources
from penstock.athena.webgate.streaming.limits import StreamLimits
from penstock.athena.webgate.streaming.websockets import WebSockets
from penstock.callbacks.sender import policy_of
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.jobs.service import JobService
from penstock.models.http.metering import Metering
from penstock.models.result_files import ResultFiles
from penstock.models.service import ModelService
from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.quotas.admission import Quotas
from penstock.settings import Settings
from penstock.web.route import routes_of

if TYPE_CHECKING:
    from penstock.athena.atom.atom import Atom


class AthenaParts:
    """One of each object of this room, connected."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        access: AccessParts,
        models: ModelService,
        *,
        quotas: Quotas,
        metering: Metering,
        files: ResultFiles,
        jobs: JobService,
        submitting: SubmitRoutes,
    ) -> None:
        self._jobs = jobs
        self._submitting = submitting
        self._settings = settings
        self._database = database
        self._access = access
        self._models = models
        self._quotas = quotas
        self._metering = metering
        self._files = files

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

    @cached_property
    def services(self) -> Services:
        """All models, as services."""
        return Services(
            self._models,
            quotas=self._quotas,
            metering=self._metering,
            files=self._files,
            session_ids=SessionIds.of_process(os.getpid(), self._settings.http_port),
            waits=self._settings.penstock_athena_queue,
        )

    @cached_property
    def addresses(self) -> Addresses:
        return Addresses(self.services)

    @cached_property
    def replies(self) -> Replies:
        return Replies(Bodies(self._settings.penstock_athena_bodies))

    @cached_property
    def websockets(self) -> WebSockets:
        """Sessions over WebSocket."""
        settings = self._settings
        limits = StreamLimits(
            read_timeout=settings.penstock_athena_read_timeout,
            session_timeout=settings.penstock_athena_session_timeout,
            handshake_timeout=settings.penstock_athena_handshake_timeout,
            close_wait=settings.penstock_athena_close_wait,
            retries=settings.penstock_athena_enable_retry,
            ignored_codes=frozenset(settings.penstock_athena_ignored_codes),
            message_bytes=settings.penstock_athena_message_bytes,
            message=Limits(max_data_bytes=settings.penstock_athena_message_bytes),
            sessions_per_connection=settings.penstock_athena_sessions,
        )
        return WebSockets(self.authentication, self.services, self.addresses, self.replies, limits)

    @cached_property
    def sources(self) -> Sources:
        """Data that messages name by their addresses."""
        policy = policy_of(self._settings.penstock_fetch_networks)
        return Sources(policy, max_bytes=self._settings.penstock_max_call_bytes // 2)

    async def _stop(self) -> None:
        await self.websockets.stop()
        await self.sources.close()

    @cached_property
    def webgate(self) -> WebGateRoutes:
        """Services over HTTP and WebSocket."""
        max_bytes = self._settings.penstock_max_call_bytes
        limits = Limits(max_data_bytes=max_bytes)
        calls = OnceCalls(
            self.authentication,
            self.services,
            self.addresses,
            self.replies,
            limits,
            tasks=Tasks(self._jobs, self._submitting),
            sources=self.sources,
        )
        return WebGateRoutes(calls, self.websockets, self.addresses, max_body_bytes=max_bytes)

    @cached_property
    def atom(self) -> Atom | None:
        """Services over gRPC, where the settings state its port. Raises SettingsError if a package is missing."""
        return atom_part.atom(self._settings, self.authentication, self.services)

    @property
    def grpc_part(self) -> Part:
        return atom_part.part(self.atom)

    @property
    def part(self) -> Part:
        topics = (
            CredentialRoutes(self.credentials),
            OAuthRoutes(self.authentication, self.tokens),
            DescriptionRoutes(self.authentication, self.services, self.replies),
            self.webgate,
        )
        return Part(
            routes=[*(route for topic in topics for route in routes_of(topic)), *page.parts()],
            fallbacks=[self.webgate.fallback],
            stop=self._stop,
        )
