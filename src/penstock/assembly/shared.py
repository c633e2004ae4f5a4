"""Objects of which every process has at most one, whatever its role."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

from penstock.access.instance import Instance
from penstock.access.secret_file import SecretSource
from penstock.apps.folder import AppsFolder
from penstock.assembly.brokers import Brokers
from penstock.blobs.links import BlobLinks
from penstock.blobs.objects.opening import open_store
from penstock.blobs.service import BlobService
from penstock.blobs.uploads import Uploads
from penstock.callbacks.sealing import Sealing as CallbackSealing
from penstock.callbacks.sender import policy_of
from penstock.callbacks.targets import CallbackTargets
from penstock.collections.service import CollectionService
from penstock.jobs.limits import JobLimits
from penstock.jobs.service import JobService
from penstock.jobs.usage import charging
from penstock.jobs.writers import Observe
from penstock.models.folder import ManifestFiles
from penstock.models.host.host import ModelHost
from penstock.models.sealing import Sealing
from penstock.models.service import ModelService
from penstock.outbound.policy import Policy
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.providers.catalogue import load
from penstock.providers.profile import Catalogue
from penstock.settings import Settings, environment
from penstock.telemetry import logs
from penstock.usage import prices_file
from penstock.usage.live import LiveUsage
from penstock.usage.prices import PriceList
from penstock.usage.spool import spool_name


def blob_service(settings: Settings, database: Database) -> BlobService:
    """Return the blobs, in the stores that the settings name."""
    return BlobService(
        database,
        max_bytes=settings.penstock_max_blob_bytes,
        keep=timedelta(days=settings.penstock_retention_days),
        current=open_store(settings.penstock_blob_url, settings, database),
        previous=[open_store(url, settings, database) for url in settings.penstock_blob_previous_urls],
        inline_bytes=settings.penstock_blob_inline_bytes,
    )


class Shared:
    """Creates each object when it is first used. It starts nothing; ``close`` closes the connections."""

    def __init__(self, settings: Settings, *, role: str, observe_batch: Observe | None = None) -> None:
        self.settings = settings
        self._role = role
        self._observe_batch = observe_batch

    @cached_property
    def database(self) -> Database:
        return Database(database_url(self.settings), application_name=f"penstock-{self._role}")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The providers and model profiles; their keys are masked in logs. Raises SettingsError."""
        catalogue = load(self.settings, environment())
        logs.mask(catalogue.secrets)
        return catalogue

    @cached_property
    def prices(self) -> PriceList:
        """The prices of calls. Raises SettingsError."""
        return prices_file.load(self.settings.penstock_prices)

    def check(self) -> None:
        """Raise SettingsError for mistakes in profiles.toml and prices.toml, and for credentials of the store of files
        that cannot be used, without waiting for the database."""
        _ = self.catalogue, self.prices, self.blobs

    @cached_property
    def usage(self) -> LiveUsage:
        """The usage of this process's live calls, and the prices that it charges with."""
        return LiveUsage(
            self.database,
            prices=self.prices,
            folder=self.settings.penstock_usage_spool / spool_name(database_url(self.settings)),
            max_bytes=self.settings.penstock_usage_spool_bytes,
        )

    @cached_property
    def jobs(self) -> JobService:
        return JobService(
            self.database,
            JobLimits.from_settings(self.settings),
            observe_batch=self._observe_batch,
            charging=charging(self.prices, self.usage.day),
            results=self.brokers.results,
            recent_rows=self.brokers.recent_rows,
            callbacks=self.callback_targets,
        )

    @cached_property
    def callback_targets(self) -> CallbackTargets:
        """The endpoints that submissions name."""
        return CallbackTargets(
            self.database,
            self.callback_sealing,
            self.callback_policy,
            marketplace=self.settings.marketplace_callback is not None,
        )

    @cached_property
    def callback_sealing(self) -> CallbackSealing:
        return CallbackSealing(self.instance)

    @cached_property
    def callback_policy(self) -> Policy:
        return policy_of(self.settings.penstock_fetch_networks)

    @cached_property
    def brokers(self) -> Brokers:
        """The brokers that the settings name. Raises SettingsError."""
        return Brokers(self.settings)

    @cached_property
    def blobs(self) -> BlobService:
        return blob_service(self.settings, self.database)

    @cached_property
    def collections(self) -> CollectionService:
        return CollectionService(self.database, self.blobs, self.jobs.wakeups)

    @cached_property
    def blob_links(self) -> BlobLinks:
        return BlobLinks(self.blobs, self.instance, presigns=self.settings.penstock_blob_presign)

    @cached_property
    def uploads(self) -> Uploads:
        """The uploads that inputs of models name."""
        return Uploads(blobs=self.blobs, max_bytes=self.settings.penstock_max_call_bytes)

    @cached_property
    def instance(self) -> Instance:
        """The secret of the installation."""
        source = SecretSource(self.settings.penstock_secret_key, self.settings.penstock_data_dir)
        return Instance(self.database, source)

    @cached_property
    def apps_folder(self) -> AppsFolder | None:
        """The manifests of the apps in ``PENSTOCK_APPS_DIR``."""
        root = self.settings.penstock_apps_dir
        return None if root is None else AppsFolder(root)

    @property
    def model_folders(self) -> list[ManifestFiles]:
        """The folders with manifests of models: ``PENSTOCK_MODELS_DIR``, and those of apps."""
        models = self.settings.penstock_models_dir
        own = [] if models is None else [ManifestFiles(root=models)]
        return (
            own
            if self.apps_folder is None
            else [*own, ManifestFiles.of_apps(self.apps_folder.root, self.apps_folder.variables)]
        )

    @cached_property
    def models(self) -> ModelService:
        """The models that run in this process's replicas."""
        return ModelService(
            ModelHost(
                private=Settings.descriptions(),
                cancel_grace=self.settings.penstock_cancel_grace,
                call_folder=self.settings.penstock_call_folder,
                max_file_bytes=self.settings.penstock_call_files_bytes,
            ),
            folders=self.model_folders,
            database=self.database,
            sealing=Sealing(self.instance),
            tenants_reach=self.settings.penstock_fetch_networks,
            watch_code=self.settings.penstock_models_watch,
        )

    async def close(self) -> None:
        if "database" in vars(self):
            await self.database.close()
