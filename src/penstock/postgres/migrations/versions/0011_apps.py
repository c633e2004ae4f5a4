"""Apps: their catalogue, records of their requests, and sums of these."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0011_apps"
down_revision = "0010_collections"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
