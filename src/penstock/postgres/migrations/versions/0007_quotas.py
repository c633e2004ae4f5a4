"""Quotas: limits of tenants, keys and users, what of them is used, and the slices that processes hold."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0007_quotas"
down_revision = "0006_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
