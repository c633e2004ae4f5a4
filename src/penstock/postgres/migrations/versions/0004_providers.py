"""The state of providers, as workers report it."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0004_providers"
down_revision = "0003_blobs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
